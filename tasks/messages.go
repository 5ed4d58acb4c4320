package tasks

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
	text     string // the name of its message among prompt.Steps
}

// The steps of a job.
var (
	stepDownload     = step{10, stageDownload, "download"}
	stepHash         = step{20, stageHash, "hash"}
	stepCache        = step{30, stageCache, "cache"}
	stepPreprocess   = step{40, stagePreprocess, "preprocess"}
	stepVision       = step{50, stageVision, "ai_vision"}
	stepVisionDone   = step{60, stageVision, "ai_vision_done"}
	stepFeedback     = step{70, stageFeedback, "feedback"}
	stepFeedbackDone = step{80, stageFeedback, "feedback_done"}
	stepStore        = step{90, stageStore, "store"}
	stepDone         = step{100, stageDone, "done"}
	stepRetry        = step{0, stageRetry, "retry"}

	stepQueued = step{0, stageQueued, "queued"}
)

// textFailed is the name of the message of a job that has failed.
const textFailed = "failed"
