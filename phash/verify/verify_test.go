package verify

import (
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"slices"
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
				const soft = 0.1 // beyond which the exponential takes long to say 0
				d := (u-o.x)*(u-o.x) + (v-o.y)*(v-o.y)
				if d > (o.r+soft)*(o.r+soft) {
					continue
				}
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
	v := viewOf(m, m.Rect, nil, func() *image.YCbCr { return m })
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
	const scenes = 3
	for seed := range uint64(scenes) {
		s := view(scene(seed, 240, 0, 0, 1, 1, 0, nil)).Signature()
		for name, m := range map[string]*image.YCbCr{
			"itself":   scene(seed, 240, 0, 0, 1, 1, 0, nil),
			"smaller":  scene(seed, 130, 0, 0, 1, 1, 0, nil),
			"cropped":  scene(seed, 200, 0.03, 0.03, 0.97, 0.97, 0, nil),
			"moved":    scene(seed, 200, 0.02, 0, 1, 0.96, 0, nil),
			"warmer":   scene(seed, 200, 0, 0, 1, 1, 0, warmer),
			"darker":   scene(seed, 200, 0, 0, 1, 1, 0, darker),
			"an item":  scene(seed, 240, 0, 0, 1, 1, 0.03, nil),
			"colours":  scene(seed, 240, 0, 0, 1, 1, 0, exchanged),
			"another":  scene(seed+1000, 240, 0, 0, 1, 1, 0, nil),
			"far away": scene(seed, 240, 0.3, 0.3, 1.3, 1.3, 0, nil),
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
		if found[name] < scenes {
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

// TestImage draws what is kept of a picture, which is wider than high.
func TestImage(t *testing.T) {
	t.Parallel()
	m := image.NewYCbCr(image.Rect(0, 0, 192, 96), image.YCbCrSubsampleRatio420)
	for y := range 96 {
		for x := range 192 {
			m.Y[y*m.YStride+x] = uint8(x)
			m.Cb[y/2*m.CStride+x/2], m.Cr[y/2*m.CStride+x/2] = uint8(2*y), 200
		}
	}
	got := view(m).Signature().Image()
	if got.Rect != image.Rect(0, 0, 48, 48) {
		t.Fatalf("got %v", got.Rect)
	}
	near := func(a uint8, b int) bool { return int(a)-b <= 8 && b-int(a) <= 8 }
	for y := range 48 {
		for x := range 48 {
			if c := got.YCbCrAt(x, y); !near(c.Y, 4*x+1) || !near(c.Cb, 4*y+2) || !near(c.Cr, 200) {
				t.Fatalf("at %d, %d: got %v, want luma %d, Cb %d, Cr 200", x, y, c, 4*x+1, 4*y+2)
			}
		}
	}
}

// TestTurned turns a view, and turns it back by the one turn that undoes it.
func TestTurned(t *testing.T) {
	t.Parallel()
	v := view(scene(3, 120, 0, 0, 1, 1, 0, nil))
	s := v.Signature()
	for turn := range phash.Turns {
		undo := 0
		for back := range phash.Turns {
			if phash.Then(turn, back) == 0 {
				undo = back
			}
		}
		for back, want := range map[int]bool{undo: true, undo ^ 1: false} {
			turned := Way{of: (Way{of: v, turn: turn}).View(), turn: back}.View()
			turned.Hash = v.Hash
			if got := Compare(turned, s, Options{}); (got.Reason == Same) != want {
				t.Errorf("turn %d, then %d: got %+v, want the same: %v", turn, back, got, want)
			}
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

// BenchmarkCompare compares a crop, and a picture that shows something else.
func BenchmarkCompare(b *testing.B) {
	s := view(scene(1, 900, 0, 0, 1, 1, 0, nil)).Signature()
	for name, m := range map[string]*image.YCbCr{
		"crop":  scene(1, 600, 0.02, 0.02, 0.98, 0.98, 0, nil),
		"other": scene(2, 600, 0, 0, 1, 1, 0, nil),
	} {
		q := view(m)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Compare(q, s, Options{})
			}
		})
	}
}

func BenchmarkView(b *testing.B) {
	m := scene(1, 1024, 0, 0, 1, 1, 0, nil)
	b.ReportAllocs()
	for b.Loop() {
		view(m)
	}
}

// page draws a white page of lines of text, of which word (row, column) is another one if it is not
// negative, as seen through a window of the page, with gray instead of white.
func page(size int, left, top, right, bottom float64, row, column int, white float64) *image.YCbCr {
	const rows, columns, strokes, over = 12, 5, 6, 3
	var ink [rows][columns * strokes]bool // whether a stroke of a word is there
	for i := range ink {
		for j := range ink[i] {
			seed := uint64(i*1000 + j)
			if i == row && j/strokes == column {
				seed += 100_000
			}
			ink[i][j] = j%strokes > 0 && rand.New(rand.NewPCG(seed, 7)).IntN(2) == 1
		}
	}
	m := image.NewYCbCr(image.Rect(0, 0, size, size), image.YCbCrSubsampleRatio420)
	for i := range m.Cb {
		m.Cb[i], m.Cr[i] = 128, 128
	}
	for y := range size {
		for x := range size {
			dark := 0
			for i := range over * over {
				u := left + (right-left)*(float64(x)+(float64(i%over)+0.5)/over)/float64(size)
				v := (top + (bottom-top)*(float64(y)+(float64(i/over)+0.5)/over)/float64(size)) * rows
				if at := v - float64(int(v)); at > 0.3 && at < 0.75 && ink[int(v)][int(u*columns*strokes)] {
					dark++
				}
			}
			m.Y[y*m.YStride+x] = uint8(white * (1 - 0.85*float64(dark)/(over*over)))
		}
	}
	return m
}

// TestText has pages whose rows of text lie on one another in more than one way.
func TestText(t *testing.T) {
	t.Parallel()
	s := view(page(250, 0, 0, 1, 1, -1, -1, 240)).Signature()
	for name, m := range map[string]*image.YCbCr{
		"itself":          page(250, 0, 0, 1, 1, -1, -1, 240),
		"smaller, darker": page(200, 0, 0, 1, 1, -1, -1, 200),
		"cropped by 2 %":  page(240, 0.02, 0.02, 0.98, 0.98, -1, -1, 240),
		"cropped by 5 %":  page(240, 0.05, 0.05, 0.95, 0.95, -1, -1, 240),
	} {
		if r := Compare(view(m), s, Options{}); r.Reason != Same {
			t.Errorf("%s: got %+v, want the same", name, r)
		}
	}
	for _, m := range []*image.YCbCr{page(250, 0, 0, 1, 1, 9, 4, 240), page(220, 0.01, 0, 1, 1, 3, 1, 240)} {
		if r := Compare(view(m), s, Options{}); r.Reason != Part {
			t.Errorf("another word: got %+v, want %s", r, Part)
		}
	}
}

// TestBurnt brightens scenes until parts of them burn out, in the one direction and in the other.
func TestBurnt(t *testing.T) {
	t.Parallel()
	gray := func(by float64) func(r, g, b float64) (float64, float64, float64) {
		return func(r, g, b float64) (float64, float64, float64) { v := by * (r + g + b) / 3; return v, v, v }
	}
	for seed := range uint64(3) {
		brightest := float64(slices.Max(scene(seed, 160, 0, 0, 1, 1, 0, gray(1)).Y))
		plain := scene(seed, 160, 0, 0, 1, 1, 0, gray(230/brightest))
		burnt := scene(seed, 160, 0, 0, 1, 1, 0, gray(275/brightest))
		if r := Compare(view(burnt), view(plain).Signature(), Options{}); r.Reason != Same {
			t.Errorf("scene %d, brighter: got %+v, want the same", seed, r)
		}
		if r := Compare(view(plain), view(burnt).Signature(), Options{}); r.Reason != Same {
			t.Errorf("scene %d, darker: got %+v, want the same", seed, r)
		}
		// Red, green and blue burn out one by one, which changes the colour.
		colours := scene(seed, 160, 0, 0, 1, 1, 0, func(r, g, b float64) (float64, float64, float64) { return 1.3 * r, 1.3 * g, 1.3 * b })
		if r := Compare(view(colours), view(scene(seed, 160, 0, 0, 1, 1, 0, nil)).Signature(), Options{}); r.Reason != Same {
			t.Errorf("scene %d, brighter colours: got %+v, want the same", seed, r)
		}
		item := scene(seed, 160, 0, 0, 1, 1, 0.04, gray(230/brightest))
		if r := Compare(view(item), view(plain).Signature(), Options{}); r.Reason == Same {
			t.Errorf("scene %d, an item: got %+v, want another picture", seed, r)
		}
	}
}

// TestSaturation has paler copies, and the same the other way round. One that is too pale is refused.
func TestSaturation(t *testing.T) {
	t.Parallel()
	paler := func(by float64) func(r, g, b float64) (float64, float64, float64) {
		return func(r, g, b float64) (float64, float64, float64) {
			y := 0.299*r + 0.587*g + 0.114*b
			return y + by*(r-y), y + by*(g-y), y + by*(b-y)
		}
	}
	for by, want := range map[float64]Reason{0.8: Same, 0.45: Colour} {
		for seed := range uint64(2) {
			vivid, pale := scene(seed, 160, 0, 0, 1, 1, 0, nil), scene(seed, 160, 0, 0, 1, 1, 0, paler(by))
			if r := Compare(view(pale), view(vivid).Signature(), Options{}); r.Reason != want {
				t.Errorf("scene %d, %.2f as vivid: got %+v, want %q", seed, by, r, want)
			}
			if r := Compare(view(vivid), view(pale).Signature(), Options{}); r.Reason != want {
				t.Errorf("scene %d, more vivid than one of %.2f: got %+v, want %q", seed, by, r, want)
			}
		}
	}
}

// TestBlurred has a page out of focus, the rows of which lose contrast.
func TestBlurred(t *testing.T) {
	t.Parallel()
	m := page(250, 0, 0, 1, 1, -1, -1, 240)
	blurred := *m
	for range 6 {
		from := blurred.Y
		blurred.Y = slices.Clone(from)
		for y := 1; y < 249; y++ {
			for x := 1; x < 249; x++ {
				i := y*m.YStride + x
				blurred.Y[i] = uint8((int(from[i])*4 + int(from[i-1]) + int(from[i+1]) + int(from[i-m.YStride]) + int(from[i+m.YStride]) + 4) / 8)
			}
		}
	}
	if r := Compare(view(&blurred), view(m).Signature(), Options{}); r.Reason != Same {
		t.Errorf("got %+v, want the same", r)
	}
}

// TestHardly has pictures that nothing is known of, or too little.
func TestHardly(t *testing.T) {
	t.Parallel()
	toned := func(gain, offset float64) *image.YCbCr {
		return scene(2, 160, 0, 0, 1, 1, 0, func(r, g, b float64) (float64, float64, float64) {
			v := gain*((r+g+b)/3-128) + 128 + offset
			return v, v, v
		})
	}
	for name, tt := range map[string]struct {
		one, other *image.YCbCr
		want       Reason
	}{
		"plain surfaces":       {toned(0, 0), toned(0, 40), Alike},
		"less contrast":        {toned(0.6, 0), toned(0.45, 0), Same},
		"a negative":           {toned(1, 0), toned(-1, 0), Alike},
		"a scene, a plain one": {toned(1, 0), toned(0, 0), Alike},
	} {
		if r := Compare(view(tt.one), view(tt.other).Signature(), Options{}); r.Reason != tt.want {
			t.Errorf("%s: got %+v, want %q", name, r, tt.want)
		}
	}
}

// framed returns a picture with a margin of one gray.
func framed(m *image.YCbCr, margin int, gray uint8) *image.YCbCr {
	n := m.Rect.Dx()
	out := image.NewYCbCr(image.Rect(0, 0, n+2*margin, n+2*margin), image.YCbCrSubsampleRatio420)
	for i := range out.Y {
		out.Y[i] = gray
	}
	for i := range out.Cb {
		out.Cb[i], out.Cr[i] = 128, 128
	}
	for y := range n {
		copy(out.Y[(y+margin)*out.YStride+margin:], m.Y[y*m.YStride:][:n])
	}
	for y := range n / 2 {
		copy(out.Cb[(y+margin/2)*out.CStride+margin/2:], m.Cb[y*m.CStride:][:n/2])
		copy(out.Cr[(y+margin/2)*out.CStride+margin/2:], m.Cr[y*m.CStride:][:n/2])
	}
	return out
}

// TestFramed compares a picture with frames, thin and wide.
func TestFramed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		m := scene(seed, 200, 0, 0, 1, 1, 0, nil)
		s := view(m).Signature()
		for _, margin := range []int{4, 30} {
			for _, gray := range []uint8{255, 0} {
				v := Of(&phash.Look{Image: framed(m, margin, gray), Orientation: 1})
				if v.inner == nil {
					t.Fatalf("scene %d: a frame of %d is not seen", seed, margin)
				}
				if r := Compare(v, s, Options{}); r.Reason != Same {
					t.Errorf("scene %d, a frame of %d samples of %d: got %+v, want the same", seed, margin, gray, r)
				}
			}
		}
		// What a frame hides must not pass for what it is compared with.
		hidden := framed(scene(seed, 200, 0.1, 0.1, 0.9, 0.9, 0, nil), 26, 255)
		if r := Compare(Of(&phash.Look{Image: hidden, Orientation: 1}), s, Options{}); r.Reason == Same {
			t.Errorf("scene %d without its borders: got %+v, want another picture", seed, r)
		}
	}
}

// stamped returns a copy with a lighter bar, of a share of the picture across.
func stamped(m *image.YCbCr, left, top, width float64) *image.YCbCr {
	out := *m
	out.Y = slices.Clone(m.Y)
	n := float64(m.Rect.Dx())
	for y := int(top * n); y < int((top+0.04)*n); y++ {
		for x := int(left * n); x < int((left+width)*n); x++ {
			out.Y[y*m.YStride+x] += 40
		}
	}
	return &out
}

// TestCorner leaves out one corner, and that only.
func TestCorner(t *testing.T) {
	t.Parallel()
	m := scene(2, 200, 0, 0, 1, 1, 0, nil)
	s := view(m).Signature()
	for _, tt := range []struct {
		name         string
		m            *image.YCbCr
		same, corner bool
	}{
		{"nothing", m, true, true},
		{"right below", stamped(m, 0.7, 0.92, 0.25), false, true},
		{"left above", stamped(m, 0.03, 0.03, 0.25), false, true},
		{"two corners", stamped(stamped(m, 0.7, 0.92, 0.25), 0.03, 0.03, 0.25), false, false},
		{"the middle", stamped(m, 0.4, 0.5, 0.2), false, false},
	} {
		if got := Compare(view(tt.m), s, Options{}); (got.Reason == Same) != tt.same {
			t.Errorf("%s: got %+v, want the same: %v", tt.name, got, tt.same)
		}
		if got := Compare(view(tt.m), s, Options{Corner: true}); (got.Reason == Same) != tt.corner {
			t.Errorf("%s, a corner left out: got %+v, want the same: %v", tt.name, got, tt.corner)
		}
	}
}

// TestQuality has pictures in which there is nothing to compare, and others.
func TestQuality(t *testing.T) {
	t.Parallel()
	flat := image.NewYCbCr(image.Rect(0, 0, 80, 80), image.YCbCrSubsampleRatio420)
	if q := view(flat).Quality(); q != 0 {
		t.Errorf("black: got %d, want 0", q)
	}
	slope := image.NewYCbCr(image.Rect(0, 0, 64, 64), image.YCbCrSubsampleRatio420)
	for i := range slope.Y {
		slope.Y[i] = uint8(i % 64 * 3) // 1 % a step: 64 x 63 of them
	}
	if q, want := view(slope).Quality(), 64*63/90; q != want {
		t.Errorf("slope: got %d, want %d", q, want)
	}
	if q := view(page(250, 0, 0, 1, 1, -1, -1, 240)).Quality(); q != 100 {
		t.Errorf("page: got %d, want 100", q)
	}
	if q := view(stamped(flat, 0.4, 0.4, 0.1)).Quality(); q >= MinQuality {
		t.Errorf("a short bar: got %d, want less than %d", q, MinQuality)
	}
	if q := view(scene(1, 100, 0, 0, 1, 1, 0, nil)).Quality(); q < MinQuality {
		t.Errorf("a scene: got %d, want %d or more", q, MinQuality)
	}
}

// TestPlainGround allows copies of a textured picture to differ by more than those of one with plain ground, as print has.
func TestPlainGround(t *testing.T) {
	t.Parallel()
	line := func(plain int) float64 { // so many rows of 48
		luma := newPlane(lumaSide)
		for i := range luma.pix {
			if luma.pix[i] = 200; i >= plain*lumaSide {
				luma.pix[i] = float32(100 + 20*(i%3) + i/lumaSide%2*10)
			}
		}
		c := &comparison{to: cells{luma: luma}}
		return c.mostOfPart(0.5)
	}
	if textured, print := line(4), line(8); textured != 0.95+4*0.5 || print != 0.95+2.75*0.5 {
		t.Errorf("got %v for little plain ground and %v for more, want 2.95 and less", textured, print)
	}
}
