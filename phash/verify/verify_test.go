package verify

import (
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"testing"

	"onceover/phash"
)

// scene draws a picture of smooth shapes, with something small in it if item is not 0, as seen through a window of the scene.
func scene(seed uint64, size int, left, top, right, bottom float64, item float64, tone func(r, g, b float64) (float64, float64, float64)) *image.YCbCr {
	rng := rand.New(rand.NewPCG(seed, 1))
	type blob struct{ x, y, r, red, green, blue float64 }
	blobs := make([]blob, 24)
	for i := range blobs {
		blobs[i] = blob{rng.Float64(), rng.Float64(), 0.03 + 0.15*rng.Float64(), 80*rng.Float64() - 40, 80*rng.Float64() - 40, 80*rng.Float64() - 40}
	}
	m := image.NewYCbCr(image.Rect(0, 0, size, size), image.YCbCrSubsampleRatio420)
	for y := range size {
		for x := range size {
			u, v := left+(right-left)*(float64(x)+0.5)/float64(size), top+(bottom-top)*(float64(y)+0.5)/float64(size)
			r, g, b := 128.0, 128.0, 128.0
			for _, o := range blobs {
				d := (u-o.x)*(u-o.x) + (v-o.y)*(v-o.y)
				w := 1 / (1 + math.Exp((math.Sqrt(d)-o.r)*120))
				r, g, b = r+w*o.red, g+w*o.green, b+w*o.blue
			}
			if item > 0 && math.Abs(u-0.62) < item/2 && math.Abs(v-0.37) < item/2 {
				r, g, b = r+70, g+70, b+70
			}
			if tone != nil {
				r, g, b = tone(r, g, b)
			}
			clip := func(v float64) uint8 { return uint8(min(max(v, 0), 255)) }
			luma, cb, cr := color.RGBToYCbCr(clip(r), clip(g), clip(b))
			m.Y[y*m.YStride+x] = luma
			m.Cb[y/2*m.CStride+x/2], m.Cr[y/2*m.CStride+x/2] = cb, cr
		}
	}
	return m
}

// view is that of a picture of which nobody has taken a look.
func view(m *image.YCbCr) *View {
	v := viewOf(m, m.Rect)
	v.turned[0] = v.Hash
	return v
}

// TestCompare has copies of scenes, which are the same, and scenes in which something small differs, or the colours do.
func TestCompare(t *testing.T) {
	t.Parallel()
	warmer := func(r, g, b float64) (float64, float64, float64) { return 1.04 * r, g, 0.96 * b }
	darker := func(r, g, b float64) (float64, float64, float64) { return 0.85 * r, 0.85 * g, 0.85 * b }
	exchanged := func(r, g, b float64) (float64, float64, float64) { return b, g, r }
	found := map[string]int{}
	const scenes = 6
	for seed := range uint64(scenes) {
		s := view(scene(seed, 500, 0, 0, 1, 1, 0, nil)).Signature()
		for name, m := range map[string]*image.YCbCr{
			"itself":   scene(seed, 500, 0, 0, 1, 1, 0, nil),
			"smaller":  scene(seed, 130, 0, 0, 1, 1, 0, nil),
			"cropped":  scene(seed, 400, 0.03, 0.03, 0.97, 0.97, 0, nil),
			"moved":    scene(seed, 400, 0.02, 0, 1, 0.96, 0, nil),
			"warmer":   scene(seed, 400, 0, 0, 1, 1, 0, warmer),
			"darker":   scene(seed, 400, 0, 0, 1, 1, 0, darker),
			"an item":  scene(seed, 500, 0, 0, 1, 1, 0.03, nil),
			"colours":  scene(seed, 500, 0, 0, 1, 1, 0, exchanged),
			"another":  scene(seed+1000, 500, 0, 0, 1, 1, 0, nil),
			"far away": scene(seed, 500, 0.3, 0.3, 1.3, 1.3, 0, nil),
		} {
			r := Compare(view(m), s, Options{})
			if r.Reason == Same {
				found[name]++
			}
			switch name {
			case "an item", "colours", "another", "far away":
				if r.Reason == Same {
					t.Errorf("scene %d, %s: got %+v, want it to be another picture", seed, name, r)
				}
			case "itself":
				if r.Reason != Same || r.Part > 1.2 {
					t.Errorf("scene %d: got %+v of itself", seed, r)
				}
			}
		}
	}
	for _, name := range []string{"smaller", "cropped", "moved", "warmer", "darker"} {
		if found[name] < scenes-1 {
			t.Errorf("%s: %d of %d copies are found", name, found[name], scenes)
		}
	}
	t.Logf("taken for the same, of %d: %v", scenes, found)
}

func TestSignature(t *testing.T) {
	t.Parallel()
	s := view(scene(1, 90, 0, 0, 1, 1, 0, nil)).Signature()
	text := s.String()
	if back, err := Parse(text); err != nil || *back != *s || len(text) != 3883 {
		t.Errorf("got %d characters, %v", len(text), err)
	}
	for _, bad := range []string{"", text[1:], text + "A", "!" + text[1:], text[:3882] + "\n"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%.20q…: got no error", bad)
		}
	}
}

// TestTurned turns a view, and turns it back by the one turn that undoes it.
func TestTurned(t *testing.T) {
	t.Parallel()
	v := view(scene(3, 300, 0, 0, 1, 1, 0, nil))
	s := v.Signature()
	for turn := range phash.Turns {
		var same []int
		for back := range phash.Turns {
			turned := Way{of: &View{fine: v.fine.turned(turn), coarse: v.coarse.turned(turn), rough: v.rough.turned(turn), chroma: [2]plane{v.chroma[0].turned(turn), v.chroma[1].turned(turn)}}, turn: back}.View()
			turned.Hash = v.Hash
			if Compare(turned, s, Options{}).Reason == Same {
				same = append(same, back)
			}
		}
		if len(same) != 1 || phash.Then(turn, same[0]) != 0 {
			t.Errorf("turn %d: got %v as ways back, want the one that undoes it", turn, same)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(view(scene(1, 50, 0, 0, 1, 1, 0, nil)).Signature().String())
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := Parse(text); err == nil && s.String() != text {
			t.Errorf("got %q back", s)
		}
	})
}

func BenchmarkCompare(b *testing.B) {
	q := view(scene(1, 600, 0.02, 0.02, 0.98, 0.98, 0, nil))
	s := view(scene(1, 900, 0, 0, 1, 1, 0, nil)).Signature()
	b.ReportAllocs()
	for b.Loop() {
		Compare(q, s, Options{})
	}
}

func BenchmarkView(b *testing.B) {
	m := scene(1, 1024, 0, 0, 1, 1, 0, nil)
	b.ReportAllocs()
	for b.Loop() {
		view(m)
	}
}
