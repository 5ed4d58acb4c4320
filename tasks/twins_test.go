package tasks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/internal/samples"
	"onceover/phash"
	"onceover/vision"
)

// asPNG encodes a picture, in one of two ways that show the same.
func asPNG(t *testing.T, m image.Image, level png.CompressionLevel) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: level}).Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// desk draws a gray picture with much in it, and a small light thing at a place.
func desk(at image.Point) *image.Gray {
	m := image.NewGray(image.Rect(0, 0, 480, 360))
	for y := range 360 {
		for x := range 480 {
			m.Pix[y*m.Stride+x] = uint8(60 + x/6 + y/5)
		}
	}
	for i := range 30 {
		r := image.Rect(0, 0, 25+i*7%60, 20+i*11%50).Add(image.Pt(i*97%440, i*61%320))
		draw.Draw(m, r, image.NewUniform(color.Gray{uint8(i * 37)}), image.Point{}, draw.Src)
	}
	draw.Draw(m, image.Rect(0, 0, 9, 7).Add(at), image.NewUniform(color.Gray{uint8(m.GrayAt(at.X, at.Y).Y + 90)}), image.Point{}, draw.Src)
	return m
}

// desks returns two pictures of an equal hash, in one of which the small thing lies elsewhere.
func desks(t *testing.T) (one, other *image.Gray) {
	t.Helper()
	first := image.Pt(20, 20)
	one = desk(first)
	hash := phash.OfGray(one.Pix, one.Stride, 480, 360)
	for x := 40; x < 440; x += 25 {
		for y := 20; y < 340; y += 40 {
			other := desk(image.Pt(x, y))
			if phash.OfGray(other.Pix, other.Stride, 480, 360) == hash {
				return one, other
			}
		}
	}
	t.Fatal("no place has the same hash, want this test's pictures to have one")
	return nil, nil
}

// says sets what the model says of pictures from now on.
func (b *bundle) says(what string) {
	b.model.fields = `{"waste_type":"` + what + `","confidence":0.9,"feedback":"f","category":"c","recyclable":true}`
}

// finds checks that a picture's answer comes from the cache.
func (b *bundle) finds(t *testing.T, url, kind, want string) {
	t.Helper()
	b.says("not to be asked")
	if got := b.run(t, map[string]any{"image_url": url}); got.Cached == nil || *got.Cached != kind || got.WasteType != want {
		t.Errorf("%s: got %+v, want %s, %s", url, got, kind, want)
	}
}

// TestEqualHashOtherPicture has each of two gray pictures of an equal hash have an answer of its own; another file of the first has
// that of the first, and is compared once only.
func TestEqualHashOtherPicture(t *testing.T) {
	b := setup(t)
	one, other := desks(t)
	again := asPNG(t, one, png.BestSpeed)
	b.pictures.extra = map[string][]byte{"one.png": asPNG(t, one, png.BestCompression), "other.png": asPNG(t, other, png.BestCompression), "again.png": again}
	b.says("one")
	first := b.run(t, map[string]any{"image_url": "one.png"})
	b.says("other")
	second := b.run(t, map[string]any{"image_url": "other.png"})
	if first.PHash != second.PHash || second.Cached != nil || second.WasteType != "other" {
		t.Errorf("got %+v and %+v, want an answer of its own", first, second)
	}
	for range 2 {
		b.finds(t, "one.png", "exact", "one")
		b.finds(t, "other.png", "exact", "other")
		b.finds(t, "again.png", "exact", "one")
	}
	known := b.redis.Get(t.Context(), fmt.Sprintf("cache:image:digest:%x", sha256.Sum256(again))).Val()
	if want := fmt.Sprintf(" %x", sha256.Sum256(b.pictures.extra["one.png"])); !strings.HasSuffix(known, want) {
		t.Errorf("got %q kept of the file, want it to end with%s", known, want)
	}
	// What cannot be compared any more is not taken for the same, and gives its place up.
	digest := fmt.Sprintf("%x", sha256.Sum256(b.pictures.extra["one.png"]))
	if n := b.redis.Del(t.Context(), "cache:image:digest:"+digest+":signature:1", fmt.Sprintf("cache:image:digest:%x", sha256.Sum256(again))).Val(); n != 2 {
		t.Fatalf("got %d keys removed, want 2", n)
	}
	b.says("third")
	if third := b.run(t, map[string]any{"image_url": "again.png"}); third.Cached != nil || third.WasteType != "third" {
		t.Errorf("got %+v, want the model asked", third)
	}
	b.finds(t, "again.png", "exact", "third")
	b.finds(t, "one.png", "exact", "third")
}

// TestTransparencyIsPartOfThePicture has pictures that are one to the hash, which does not see it.
func TestTransparencyIsPartOfThePicture(t *testing.T) {
	b := setup(t)
	m, _ := desks(t)
	cut := func(hidden image.Rectangle) []byte {
		out := image.NewNRGBA(m.Rect)
		for y := range m.Rect.Dy() {
			for x := range m.Rect.Dx() {
				v := m.GrayAt(x, y).Y
				c := color.NRGBA{v, v, v, 255}
				if (image.Point{x, y}).In(hidden) {
					c.A = 0
				}
				out.SetNRGBA(x, y, c)
			}
		}
		return asPNG(t, out, png.DefaultCompression)
	}
	b.pictures.extra = map[string][]byte{"left.png": cut(image.Rect(0, 0, 240, 360)), "right.png": cut(image.Rect(240, 0, 480, 360))}
	b.says("the right is seen")
	first := b.run(t, map[string]any{"image_url": "left.png"})
	b.says("the left is seen")
	second := b.run(t, map[string]any{"image_url": "right.png"})
	if first.PHash != second.PHash || second.Cached != nil || second.WasteType != "the left is seen" {
		t.Errorf("got %+v and %+v, want equal hashes and an answer each", first, second)
	}
	b.finds(t, "left.png", "exact", "the right is seen")
	b.finds(t, "right.png", "exact", "the left is seen")
}

// copies are those of a sample that show the same, as JPEG.
func copies(t *testing.T, name string) map[string][]byte {
	t.Helper()
	data, err := fs.ReadFile(samples.FS(), name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	w, h := m.Bounds().Dx(), m.Bounds().Dy()
	drawn := func(w, h int, from func(x, y int) (int, int)) []byte {
		out := image.NewRGBA(image.Rect(0, 0, w, h))
		for y := range h {
			for x := range w {
				fx, fy := from(x, y)
				out.Set(x, y, m.At(fx, fy))
			}
		}
		var b bytes.Buffer
		if err := jpeg.Encode(&b, out, &jpeg.Options{Quality: 85}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	side := w * 4 / 100
	return map[string][]byte{
		"mirrored":     drawn(w, h, func(x, y int) (int, int) { return w - 1 - x, y }),
		"upside down":  drawn(w, h, func(x, y int) (int, int) { return w - 1 - x, h - 1 - y }),
		"turned":       drawn(h, w, func(x, y int) (int, int) { return y, h - 1 - x }),
		"cropped":      drawn(w-2*side, h-2*side, func(x, y int) (int, int) { return x + side, y + side }),
		"in a box":     drawn(w, h+120, func(x, y int) (int, int) { return x, y - 60 }),
		"compressed":   drawn(w, h, func(x, y int) (int, int) { return x, y }),
		"another side": drawn(w/2, h, func(x, y int) (int, int) { return x, y }),
	}
}

// TestCopiesThatAreAltered finds pictures that were turned, cropped or put into a box, and what is turned only where that is wished.
func TestCopiesThatAreAltered(t *testing.T) {
	for _, turned := range []bool{true, false} {
		t.Run(fmt.Sprint(turned), func(t *testing.T) {
			cfg := cache.DefaultConfig()
			cfg.Turned = turned
			b := setupWith(t, cfg)
			b.pictures.extra = copies(t, "bottle.jpg")
			b.says("bottle")
			b.run(t, map[string]any{"image_url": "bottle.jpg"})
			for _, name := range []string{"mirrored", "upside down", "turned", "cropped", "in a box", "compressed", "another side"} {
				isTurned := name == "mirrored" || name == "upside down" || name == "turned"
				if name != "another side" && (turned || !isTurned) {
					b.finds(t, name, "near", "bottle")
					b.finds(t, name, "exact", "bottle")
					continue
				}
				b.says(name)
				if got := b.run(t, map[string]any{"image_url": name}); got.Cached != nil {
					t.Errorf("%s: got %+v, want the model asked", name, got)
				}
			}
		})
	}
}

// oriented returns a JPEG that is to be shown turned, by EXIF's values.
func oriented(data []byte, orientation byte) []byte {
	exif := []byte{'E', 'x', 'i', 'f', 0, 0, 'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0}
	out := slices.Concat(data[:2], []byte{0xff, 0xe1, 0, byte(len(exif) + 2)}, exif)
	return append(out, data[2:]...)
}

// TestOrientationTags has files with the pixels of another one, and so its hash, that are shown turned: they have its answer where
// turned pictures do, and else one of their own.
func TestOrientationTags(t *testing.T) {
	data, err := fs.ReadFile(samples.FS(), "bottle.jpg")
	if err != nil {
		t.Fatal(err)
	}
	for _, turned := range []bool{true, false} {
		t.Run(fmt.Sprint(turned), func(t *testing.T) {
			cfg := cache.DefaultConfig()
			cfg.Turned = turned
			b := setupWith(t, cfg)
			b.pictures.extra = map[string][]byte{}
			b.says("upright")
			b.run(t, map[string]any{"image_url": "bottle.jpg"})
			for o := byte(2); o <= 8; o++ {
				name := fmt.Sprint("orientation ", o)
				b.pictures.extra[name] = oriented(data, o)
				if turned {
					b.finds(t, name, "near", "upright")
					b.finds(t, name, "exact", "upright")
					continue
				}
				b.says(name)
				if got := b.run(t, map[string]any{"image_url": name}); got.Cached != nil || got.WasteType != name {
					t.Errorf("%s: got %+v, want the model asked", name, got)
				}
			}
			b.finds(t, "bottle.jpg", "exact", "upright")
		})
	}
}

// TestDistanceOfNothing has a picture mirrored without a loss: the result says that it is 0 bits away.
func TestDistanceOfNothing(t *testing.T) {
	b := setup(t)
	one, _ := desks(t)
	mirrored := image.NewGray(one.Rect)
	for y := range one.Rect.Dy() {
		for x := range one.Rect.Dx() {
			mirrored.Set(one.Rect.Dx()-1-x, y, one.At(x, y))
		}
	}
	b.pictures.extra = map[string][]byte{"one.png": asPNG(t, one, png.BestSpeed), "mirrored.png": asPNG(t, mirrored, png.BestSpeed)}
	b.run(t, map[string]any{"image_url": "one.png"})
	got := b.run(t, map[string]any{"image_url": "mirrored.png"})
	raw, err := celery.MarshalJSON(got)
	if err != nil || got.Distance == nil || !strings.Contains(string(raw), fmt.Sprintf(`"cached":"near","distance":%d,`, *got.Distance)) {
		t.Errorf("got %s, %v, want the distance of a near picture", raw, err)
	}
}

// freeing serves samples, and counts those that are garbage.
type freeing struct{ freed *atomic.Int32 }

func (f freeing) Fetch(_ context.Context, url string) ([]byte, error) {
	data, err := fs.ReadFile(samples.FS(), url)
	if err == nil {
		data = slices.Clone(data)
		runtime.AddCleanup(&data[0], func(int) { f.freed.Add(1) }, 0)
	}
	return data, err
}

// asked is a model that says, when it is asked a question, whether the file of the picture is let go of.
type asked struct {
	*model
	t     *testing.T
	freed *atomic.Int32
}

func (a asked) Feedback(ctx context.Context, analysis json.RawMessage, question string, opt vision.Options) (string, vision.Usage, error) {
	for end := time.Now().Add(10 * time.Second); a.freed.Load() == 0; runtime.GC() {
		if time.Now().After(end) {
			a.t.Error("the file is still held while a question is answered")
			break
		}
	}
	return a.model.Feedback(ctx, analysis, question, opt)
}

// TestFileIsLetGo asks a question about a picture that is known: its file may be large, and the answer take long.
func TestFileIsLetGo(t *testing.T) {
	b := setup(t)
	b.run(t, map[string]any{"image_url": "bottle.jpg"})
	var freed atomic.Int32
	b.task = NewImageAnalyze(DefaultConfig(), freeing{&freed}, b.cache, b.progress, asked{b.model, t, &freed}, prometheus.NewRegistry(), zap.NewNop())
	b.run(t, map[string]any{"image_url": "bottle.jpg", "user_input": "what?"})
}
