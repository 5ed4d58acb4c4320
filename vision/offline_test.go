package vision

import (
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"strings"
	"testing"

	"golang.org/x/image/draw"
)

func plain(w, h int, c color.Color) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(img, img.Rect, image.NewUniform(c), image.Point{}, draw.Src)
	return img
}

// checks is a pattern of black and white squares of the given side.
// inChroma is a picture as previews have it, with all of its chroma.
func inChroma(img *image.RGBA) *image.YCbCr {
	out := image.NewYCbCr(img.Rect, image.YCbCrSubsampleRatio444)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			p := img.Pix[img.PixOffset(x, y):]
			i := out.YOffset(x, y)
			out.Y[i], out.Cb[i], out.Cr[i] = color.RGBToYCbCr(p[0], p[1], p[2])
		}
	}
	return out
}

func checks(w, h, side int) *image.RGBA {
	img := plain(w, h, color.White)
	for y := range h {
		for x := range w {
			if (x/side+y/side)%2 == 0 {
				img.Set(x, y, color.Black)
			}
		}
	}
	return img
}

// blur takes the mean of the (2n+1)² pixels around each.
func blur(img *image.RGBA, n int) *image.RGBA {
	out := image.NewRGBA(img.Rect)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			var sum, count int
			for dy := -n; dy <= n; dy++ {
				for dx := -n; dx <= n; dx++ {
					if p := image.Pt(x+dx, y+dy); p.In(img.Rect) {
						sum += int(img.RGBAAt(p.X, p.Y).R)
						count++
					}
				}
			}
			v := uint8(sum / count)
			out.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
	return out
}

func TestOfflineDescribes(t *testing.T) {
	t.Parallel()
	half := plain(100, 100, color.RGBA{20, 60, 200, 255})
	draw.Draw(half, image.Rect(0, 0, 100, 40), image.NewUniform(color.RGBA{250, 220, 30, 255}), image.Point{}, draw.Src)

	tests := []struct {
		name string
		img  *image.RGBA
		lang string
		want []string
	}{
		{"dark red", plain(60, 90, color.RGBA{90, 5, 5, 255}), "en", []string{"red 100%", "very dark (12%", "no detail", "portrait", "1.50:1"}},
		{"white", plain(90, 90, color.White), "en", []string{"white 100%", "very bright (100%", "square", "1.00:1"}},
		{"two colours, the larger first", half, "en", []string{"blue 60%, yellow 40%."}},
		{"sharp", checks(200, 100, 4), "en", []string{"black 50%, white 50%.", "medium (50%", "Sharpness: sharp", "landscape", "2.00:1"}},
		{"blurred", blur(checks(200, 100, 20), 8), "en", []string{"Sharpness: blurred"}},
		{"one pixel", plain(1, 1, color.RGBA{0, 200, 0, 255}), "en", []string{"green 100%", "no detail"}},
		{"Korean by default", plain(60, 90, color.RGBA{90, 5, 5, 255}), "", []string{"빨간색 100%", "매우 어두움", "세로형", "비전 모델이 설정되어 있지 않아"}},
		{"Korean with a region", half, "ko-KR", []string{"파란색 60%"}},
		{"any other language", half, "ja", []string{"blue 60%"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, usage, err := NewOffline().Analyze(t.Context(), &Preview{Image: inChroma(tt.img)}, Options{Lang: tt.lang})
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				WasteType, Category *string
				Recyclable          *bool
				Confidence          *float64
				Feedback            string
			}
			fields := strings.Replace(string(a.Fields), "waste_type", "WasteType", 1)
			if err := json.Unmarshal([]byte(fields), &got); err != nil {
				t.Fatal(err)
			}
			for _, want := range append(tt.want, "ONCEOVER_VISION_URL", "ONCEOVER_VISION_MODEL") {
				if !strings.Contains(got.Feedback, want) {
					t.Errorf("feedback: got %q, want it to contain %q", got.Feedback, want)
				}
			}
			if strings.Contains(got.Feedback, "%!") {
				t.Errorf("feedback has a formatting fault: %q", got.Feedback)
			}
			if *got.WasteType != Unclassified || *got.Category != Unclassified || *got.Recyclable || *got.Confidence != 0 || a.Model != OfflineModel {
				t.Errorf("got %s of %s, want unclassified", a.Fields, a.Model)
			}
			if usage != (Usage{}) {
				t.Errorf("usage: got %+v, want none", usage)
			}
		})
	}
}

func TestColourOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		r, g, b int
		want    string
	}{
		{0, 0, 0, "black"}, {128, 128, 128, "grey"}, {250, 250, 250, "white"}, {220, 20, 30, "red"}, {255, 140, 0, "orange"},
		{120, 70, 30, "brown"}, {240, 230, 40, "yellow"}, {30, 160, 60, "green"}, {0, 200, 200, "cyan"}, {30, 60, 220, "blue"},
		{130, 50, 200, "purple"}, {240, 100, 180, "pink"}, {255, 150, 150, "pink"},
	} {
		if got := english().colours[colourOf(tt.r, tt.g, tt.b)]; got != tt.want {
			t.Errorf("%d,%d,%d: got %s, want %s", tt.r, tt.g, tt.b, got, tt.want)
		}
	}
	for r := 0; r < 256; r += 5 {
		for g := 0; g < 256; g += 5 {
			for b := 0; b < 256; b += 5 {
				if c := colourOf(r, g, b); korean().colours[c] == "" || english().colours[c] == "" {
					t.Fatalf("%d,%d,%d: colour %d has no name", r, g, b, c)
				}
			}
		}
	}
}

func TestOfflineFeedback(t *testing.T) {
	t.Parallel()
	for lang, want := range map[string]string{"": "질문에 답할 수 없습니다", "en": "the question cannot be answered"} {
		got, usage, err := NewOffline().Feedback(t.Context(), nil, "Where does it go?", Options{Lang: lang})
		if err != nil || !strings.Contains(got, want) || !strings.Contains(got, "ONCEOVER_VISION_URL") || usage != (Usage{}) {
			t.Errorf("lang %q: got %q, %+v, %v, want %q at no cost", lang, got, usage, err, want)
		}
	}
}

func TestOfflineEnds(t *testing.T) {
	t.Parallel()
	cause := errors.New("draining")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, _, err := NewOffline().Analyze(ctx, &Preview{Image: inChroma(plain(1, 1, color.White))}, Options{}); !errors.Is(err, cause) {
		t.Errorf("Analyze: got %v, want the cause", err)
	}
	if _, _, err := NewOffline().Feedback(ctx, nil, "?", Options{}); !errors.Is(err, cause) {
		t.Errorf("Feedback: got %v, want the cause", err)
	}
}

func BenchmarkOffline(b *testing.B) {
	p := &Preview{Image: inChroma(checks(1024, 768, 9))}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := NewOffline().Analyze(b.Context(), p, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
