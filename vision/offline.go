package vision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image"
	"image/draw"
	"strings"
)

// OfflineModel is the Model of Offline, as it stands in results and cache entries.
const OfflineModel = "offline"

// Unclassified is the waste_type and category of a picture that Offline has measured.
const Unclassified = "unclassified"

// Offline is the Analyzer for when no vision model is configured. It measures the picture and says that it did no more:
// whatever the schema, its answer has the five fields that all entries of the cache share, with what it measured as the
// feedback, Unclassified, and confidence 0. It costs nothing and is safe for concurrent use.
type Offline struct{}

var _ Analyzer = (*Offline)(nil)

// NewOffline returns the Analyzer that needs no endpoint.
func NewOffline() *Offline { return &Offline{} }

// Model returns OfflineModel.
func (*Offline) Model(string) string { return OfflineModel }

// PromptVersion is derived from the sentences that Analyze writes.
func (*Offline) PromptVersion(string) string {
	sum := sha256.Sum256([]byte(korean().measured + "\x00" + english().measured + "\x00"))
	return hex.EncodeToString(sum[:4])
}

// Analyze reports dominant colours, brightness, sharpness and shape of the preview as its feedback, in Korean, or in
// English for any Lang but Korean. Options.Model is ignored. It fails only if ctx has ended.
func (o *Offline) Analyze(ctx context.Context, p *Preview, opt Options) (Answer, Usage, error) {
	if ctx.Err() != nil {
		return Answer{}, Usage{}, ended(ctx)
	}
	img := image.NewRGBA(p.Image.Rect)
	draw.Draw(img, img.Rect, p.Image, image.Point{}, draw.Src)
	fields, err := marshal(struct {
		WasteType  string  `json:"waste_type"`
		Category   string  `json:"category"`
		Recyclable bool    `json:"recyclable"`
		Confidence float64 `json:"confidence"`
		Feedback   string  `json:"feedback"`
	}{WasteType: Unclassified, Category: Unclassified, Feedback: describe(measure(img), offlineText(opt.Lang))})
	if err != nil {
		return Answer{}, Usage{}, fmt.Errorf("encode what was measured: %w", err)
	}
	return Answer{Fields: fields, Model: OfflineModel, PromptVersion: o.PromptVersion(opt.Lang)}, Usage{}, nil
}

// Feedback says that the question cannot be answered, and why. It fails only if ctx has ended.
func (*Offline) Feedback(ctx context.Context, _ json.RawMessage, _ string, opt Options) (string, Usage, error) {
	if ctx.Err() != nil {
		return "", Usage{}, ended(ctx)
	}
	return offlineText(opt.Lang).unanswered, Usage{}, nil
}

// texts is what Offline says, in one language.
type texts struct {
	// measured takes colours, brightness word, brightness in percent, sharpness word, variance of the Laplacian, shape
	// word and ratio of the longer to the shorter side.
	measured   string
	unanswered string
	colours    [colourCount]string
	brightness [5]string // from dark to bright
	sharpness  [4]string // from none to sharp
	shape      [3]string // portrait, square, landscape
}

func korean() texts {
	return texts{
		measured:   "비전 모델이 설정되어 있지 않아 사진을 분석하지 않고 측정만 했습니다. 주요 색상: %s. 밝기: %s(평균 %d%%). 선명도: %s(라플라시안 분산 %.0f). 모양: %s(긴 변:짧은 변 = %.2f:1). 분석을 받으려면 ONCEOVER_VISION_URL과 ONCEOVER_VISION_MODEL을 설정하세요.",
		unanswered: "비전 모델이 설정되어 있지 않아 질문에 답할 수 없습니다. 답변을 받으려면 ONCEOVER_VISION_URL과 ONCEOVER_VISION_MODEL을 설정하세요.",
		colours: [colourCount]string{
			black: "검은색", grey: "회색", white: "흰색", red: "빨간색", orange: "주황색", brown: "갈색", yellow: "노란색",
			green: "초록색", cyan: "청록색", blue: "파란색", purple: "보라색", pink: "분홍색",
		},
		brightness: [5]string{"매우 어두움", "어두움", "보통", "밝음", "매우 밝음"},
		sharpness:  [4]string{"세부 없음", "흐림", "보통", "선명함"},
		shape:      [3]string{"세로형", "정사각형", "가로형"},
	}
}

func english() texts {
	return texts{
		measured:   "No vision model is configured, so the picture was measured but not analysed. Main colours: %s. Brightness: %s (%d%% on average). Sharpness: %s (variance of the Laplacian %.0f). Shape: %s (longer to shorter side %.2f:1). To have pictures analysed, set ONCEOVER_VISION_URL and ONCEOVER_VISION_MODEL.",
		unanswered: "No vision model is configured, so the question cannot be answered. To have questions answered, set ONCEOVER_VISION_URL and ONCEOVER_VISION_MODEL.",
		colours: [colourCount]string{
			black: "black", grey: "grey", white: "white", red: "red", orange: "orange", brown: "brown", yellow: "yellow",
			green: "green", cyan: "cyan", blue: "blue", purple: "purple", pink: "pink",
		},
		brightness: [5]string{"very dark", "dark", "medium", "bright", "very bright"},
		sharpness:  [4]string{"no detail", "blurred", "moderate", "sharp"},
		shape:      [3]string{"portrait", "square", "landscape"},
	}
}

// offlineText returns the texts for a language tag; empty means Korean.
func offlineText(lang string) texts {
	primary, _, _ := strings.Cut(strings.ToLower(lang), "-")
	if primary == "" || primary == "ko" {
		return korean()
	}
	return english()
}

// describe puts measured properties into words.
func describe(m properties, t texts) string {
	var colours []string
	for _, c := range m.dominant() {
		colours = append(colours, fmt.Sprintf("%s %d%%", t.colours[c], m.percent(c)))
	}
	ratio := float64(max(m.width, m.height)) / float64(min(m.width, m.height))
	shape := t.shape[1]
	switch {
	case ratio < 1.05: // as good as square
	case m.width < m.height:
		shape = t.shape[0]
	default:
		shape = t.shape[2]
	}
	return fmt.Sprintf(t.measured,
		strings.Join(colours, ", "),
		t.brightness[step(m.brightness, 0.15, 0.35, 0.65, 0.85)], int(m.brightness*100+0.5),
		// A variance of about 100 is the usual threshold for a blurred photo; below 1 there is nothing to be sharp.
		t.sharpness[step(m.sharpness, 1, 100, 500)], m.sharpness,
		shape, ratio)
}

// step returns in which of the stretches that the bounds divide the numbers into v lies, 0 for the lowest.
func step(v float64, bounds ...float64) int {
	n := 0
	for n < len(bounds) && v >= bounds[n] {
		n++
	}
	return n
}
