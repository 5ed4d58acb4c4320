package tasks

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"testing"
)

// luma is what the hash sees of a colour: ITU-R 601 as Pillow rounds it.
func luma(c color.RGBA) uint8 {
	return uint8((19595*uint32(c.R) + 38470*uint32(c.G) + 7471*uint32(c.B) + 1<<15) >> 16)
}

// bottleCap draws a bottle cap of a colour on a table.
func bottleCap(t *testing.T, of color.RGBA) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, 160, 120))
	for y := range 120 {
		for x := range 160 {
			c := color.RGBA{uint8(60 + x), uint8(60 + x), uint8(50 + y), 255}
			if dx, dy := x-60, y-50; dx*dx+dy*dy < 900 {
				c = of
			}
			m.SetRGBA(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRecolouredPictureHasItsOwnAnswer sends pictures that are one to the hash, whose colours differ: at first, when
// their files are known, and by the hash alone.
func TestRecolouredPictureHasItsOwnAnswer(t *testing.T) {
	b := setup(t)
	red := color.RGBA{200, 40, 40, 255}
	green := color.RGBA{20, 0, 40, 255}
	for luma(green) != luma(red) {
		green.G++
	}
	b.pictures.extra = map[string][]byte{"red.png": bottleCap(t, red), "green.png": bottleCap(t, green)}
	say := func(what string) {
		b.model.fields = `{"waste_type":"` + what + `","confidence":0.9,"feedback":"f","category":"c","recyclable":true}`
	}
	say("red cap")
	first := b.run(t, map[string]any{"image_url": "red.png"})
	say("green cap")
	second := b.run(t, map[string]any{"image_url": "green.png"})
	if first.PHash != second.PHash {
		t.Fatalf("got hashes %s and %s, want this test's pictures to have one", first.PHash, second.PHash)
	}
	if second.Cached != nil || second.WasteType != "green cap" || b.model.visions.Load() != 2 {
		t.Errorf("got %+v after %d calls, want an answer of its own", second, b.model.visions.Load())
	}
	say("not to be asked")
	for _, tt := range []struct{ url, want string }{{"red.png", "red cap"}, {"green.png", "green cap"}} {
		got := b.run(t, map[string]any{"image_url": tt.url})
		if got.Cached == nil || *got.Cached != "exact" || got.WasteType != tt.want {
			t.Errorf("%s: got %+v, want %s from the cache", tt.url, got, tt.want)
		}
	}
	if got := b.run(t, map[string]any{"image_url": "nowhere", "phash": first.PHash}); got.WasteType != "red cap" {
		t.Errorf("by the hash: got %+v, want what came first", got)
	}
	if n := b.model.visions.Load(); n != 2 {
		t.Errorf("got %d calls, want 2", n)
	}
}
