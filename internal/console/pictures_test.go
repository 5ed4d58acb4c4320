package console

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"onceover/cache"
	"onceover/celery"
	"onceover/phash"
	"onceover/phash/verify"
)

// cached is what the cache has of pictures, by their hashes.
type cached struct{ cache *cache.Cache }

func (c cached) Look(ctx context.Context, name string, file []byte) (*Picture, error) {
	if file != nil {
		name = string(file)
	}
	h, err := phash.Parse(name)
	if err != nil {
		return nil, ErrNoPicture
	}
	key := cache.Key(h, cache.Variant{})
	out := &Picture{Name: name, Hash: name, Key: key, Answer: "miss", Neighbours: []Neighbour{{Hash: name, Distance: 4, Verdict: "differs", Why: "in a part", Category: "<i>glass"}}}
	found, err := c.cache.Inspect(ctx, key)
	if err != nil || found[0] == nil {
		return out, err
	}
	doc, err := json.Marshal(found[0].Entry)
	out.Answer, out.Entry, out.Left, out.File = "exact", string(doc), found[0].TTL.Round(time.Hour), found[0].File
	return out, err
}

func (c cached) Correct(ctx context.Context, name string, doc []byte, only bool) (cache.Corrected, error) {
	correction, err := cache.ParseCorrection(doc)
	if err != nil {
		return cache.Corrected{}, &CorrectionError{err.Error()}
	}
	h, err := phash.Parse(name)
	if err != nil {
		return cache.Corrected{}, ErrNoPicture
	}
	return c.cache.Correct(ctx, cache.Picture{Fingerprint: phash.Fingerprint{Hash: h}}, cache.Variant{}, correction, only)
}

func (c cached) Thumbnail(ctx context.Context, file string) (image.Image, error) {
	var d cache.Digest
	if n, err := hex.Decode(d[:], []byte(file)); err != nil || n != len(d) {
		return nil, ErrNoPicture
	}
	return c.cache.Thumbnail(ctx, d)
}

func (c cached) Undo(ctx context.Context, id string) (int, error) { return c.cache.Undo(ctx, id) }

func (c cached) File(context.Context, *celery.Request) ([]byte, error) {
	return nil, errors.New("no such host")
}

// TestPictures looks at a picture's entry, corrects it, and takes that back.
func TestPictures(t *testing.T) {
	b := setup(t, withTokens, func(_ *Config, n *Needs) {
		n.Picture = func(context.Context, *celery.Request) ([]byte, error) { return nil, errors.New("no such host") }
	})
	b.run()
	hash := strings.Repeat("a5c3", 16)
	h, err := phash.Parse(hash)
	if err != nil {
		t.Fatal(err)
	}
	entry := `{"waste_type": "plastic", "confidence": 0.5, "feedback": "<b>rinse", "category": "bottle", "recyclable": true, "analyzed_at": "2026-12-01T00:00:00"}`
	if err := b.connect(1).Set(t.Context(), cache.Key(h, cache.Variant{}), entry, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	read := b.reader()
	read.token = signed(t, "kim", nil, adminScope)
	if a := read.get(Base + "pictures"); a.status != http.StatusOK {
		t.Errorf("got %d", a.status)
	}
	for _, bad := range []string{"x", strings.Repeat("g", 64), hash[:63]} {
		if a := read.do(http.MethodGet, Base+"pictures?hash="+bad, nil); a.status != http.StatusBadRequest || !strings.Contains(a.text(), "64 hex digits") {
			t.Errorf("%s: got %d %s", bad, a.status, a.text())
		}
	}
	page := read.get(Base + "pictures?hash=+" + strings.ToUpper(hash))
	for _, want := range []string{"its own entry", `"category": "bottle"`, "runs out in 1 h", "<i>glass", "in a part"} {
		if !strings.Contains(strings.ReplaceAll(page.text(), `":"`, `": "`), want) {
			t.Errorf("got no %q in %s", want, page.text())
		}
	}
	action, fields := page.form(t, "/pictures")
	for doc, want := range map[string]string{"{": "correction", `{"category": ""}`: "empty", "": "correction"} {
		fields.Set("doc", doc)
		if a := read.do(http.MethodPost, action, fields); a.status != http.StatusBadRequest || !strings.Contains(a.text(), "Nothing was corrected") || !strings.Contains(a.text(), want) {
			t.Errorf("%q: got %d %s", doc, a.status, a.text())
		}
	}
	fields.Set("doc", `{"category": "can"}`)
	if _, page = read.post(action, fields); !strings.Contains(page.said(), "Corrected, with 0 entries") || !strings.Contains(page.text(), "can") {
		t.Errorf("got %q, %s", page.said(), page.text())
	}
	action, _ = read.get(Base+"changes").form(t, "/undo")
	if _, page = read.post(action, url.Values{}); page.said() != "Undone: 1 entries are as they were." {
		t.Errorf("got %q", page.said())
	}
	if page = read.get(Base + "pictures?hash=" + hash); !strings.Contains(page.text(), "bottle") {
		t.Errorf("got %s", page.text())
	}
	if a := read.do(http.MethodPost, action, url.Values{}); a.status != http.StatusNotFound {
		t.Errorf("undone twice: got %d", a.status)
	}
	// The picture of a job cannot be had.
	b.keep(job(t, "a", map[string]any{"image_url": "https://store.example/a.jpg"}))
	if a := read.do(http.MethodGet, read.get(Base+"failed/a:0").link("What the cache has of it"), nil); a.status != http.StatusNotFound || !strings.Contains(a.text(), "no such host") {
		t.Errorf("got %d %s", a.status, a.text())
	}
}

// TestThumbnail shows what is kept of the picture of an entry, and says so where nothing is.
func TestThumbnail(t *testing.T) {
	b := setup(t)
	hash, file := strings.Repeat("a5c3", 16), strings.Repeat("0f1e", 16)
	h, err := phash.Parse(hash)
	if err != nil {
		t.Fatal(err)
	}
	var s verify.Signature
	for i := range s.Luma {
		s.Luma[i] = uint8(i)
	}
	entry := `{"waste_type": "plastic", "confidence": 0.5, "feedback": "", "category": "bottle", "recyclable": true, "analyzed_at": "", "picture_sha256": "` + file + `"}`
	for key, value := range map[string]string{cache.Key(h, cache.Variant{}): entry, "cache:image:digest:" + file + ":signature:1": s.String()} {
		if err := b.connect(1).Set(t.Context(), key, value, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	read := b.reader()
	var shown []string
	for _, n := range read.get(Base + "pictures?hash=" + hash).elements("img") {
		if src := attr(n, "src"); strings.HasPrefix(src, Base+"pictures/") {
			shown = append(shown, src)
		}
	}
	if want := Base + "pictures/" + file + "/thumbnail"; len(shown) != 1 || shown[0] != want {
		t.Fatalf("got the images %q, want %s", shown, want)
	}
	a := read.get(shown[0])
	m, err := png.Decode(bytes.NewReader([]byte(a.body)))
	if err != nil || m.Bounds() != image.Rect(0, 0, 48, 48) || a.header.Get("Content-Type") != "image/png" {
		t.Fatalf("got a %s of %d bytes, %v", a.header.Get("Content-Type"), len(a.body), err)
	}
	for name, want := range map[string]int{strings.Repeat("0", 64): http.StatusNotFound, "x": http.StatusBadRequest} {
		if a := read.do(http.MethodGet, Base+"pictures/"+name+"/thumbnail", nil); a.status != want {
			t.Errorf("%s: got %d, want %d", name, a.status, want)
		}
	}
}
