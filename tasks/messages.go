package tasks

import "strings"

// Stages of a job, as progress shows them.
const (
	stageDownload   = "download"
	stageHash       = "hash"
	stageCache      = "cache"
	stagePreprocess = "preprocess"
	stageVision     = "ai_vision"
	stageFeedback   = "feedback"
	stageStore      = "store"
	stageDone       = "done"
	stageRetry      = "retry"  // between two attempts
	stageQueued     = "queued" // replayed, not yet begun
)

// step is one update of the progress.
type step struct {
	progress int
	stage    string
	text     text
}

// text is a message for people in the languages of the catalogue.
type text struct{ ko, en string }

// in returns the text in the language of the tag, or in its base language, or
// in English.
func (t text) in(lang string) string {
	base, _, _ := strings.Cut(strings.ToLower(lang), "-")
	if base == "ko" {
		return t.ko
	}
	return t.en
}

// The message catalogue.
var (
	stepDownload     = step{10, stageDownload, text{"사진을 불러오는 중입니다", "Fetching the picture"}}
	stepHash         = step{20, stageHash, text{"사진의 특징을 계산하는 중입니다", "Computing the picture's hash"}}
	stepCache        = step{30, stageCache, text{"이전에 분석한 사진인지 확인하는 중입니다", "Looking for an earlier analysis"}}
	stepPreprocess   = step{40, stagePreprocess, text{"분석할 사진을 준비하는 중입니다", "Preparing the picture"}}
	stepVision       = step{50, stageVision, text{"AI가 사진을 분석하는 중입니다", "The model is looking at the picture"}}
	stepVisionDone   = step{60, stageVision, text{"사진 분석이 끝났습니다", "The picture has been analysed"}}
	stepFeedback     = step{70, stageFeedback, text{"안내 문구를 작성하는 중입니다", "Writing the feedback"}}
	stepFeedbackDone = step{80, stageFeedback, text{"안내 문구가 준비되었습니다", "The feedback is written"}}
	stepStore        = step{90, stageStore, text{"결과를 저장하는 중입니다", "Storing the result"}}
	stepDone         = step{100, stageDone, text{"분석이 완료되었습니다", "Done"}}
	stepRetry        = step{0, stageRetry, text{"잠시 후 다시 시도합니다", "A passing fault: trying again shortly"}}

	stepQueued = step{0, stageQueued, text{"다시 분석하기 위해 대기 중입니다", "Waiting to be analysed once more"}}
	textFailed = text{"분석에 실패했습니다", "The analysis has failed"}
)
