package eval

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/unicode/norm"
)

// pictureFile writes a picture of one colour, with a bar whose length tells it from others of that colour.
func pictureFile(t testing.TB, path string, c color.RGBA, number uint8) {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 64, 64))
	draw.Draw(img, img.Rect, image.NewUniform(c), image.Point{}, draw.Src)
	draw.Draw(img, image.Rect(0, 0, int(number), 8), image.NewUniform(color.Gray{60}), image.Point{}, draw.Src)
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		t.Fatal(err)
	}
	write(t, path, buf.String())
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

var testPictures = Pictures{MaxBytes: 1 << 20, MaxPixels: 1 << 20}

func TestReadLabels(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "mac", norm.NFD.String("유리병"), "1.png"), "x")
	write(t, filepath.Join(dir, "latin", "caf\xe9", "1.png"), "x")
	for _, name := range []string{"glass/1.png", "glass/deep/2.png", "clear PET/3.png", ".git/4.png", "glass/.DS_Store"} {
		write(t, filepath.Join(dir, "pictures", name), "x")
	}
	write(t, filepath.Join(dir, "loose", "1.png"), "x")
	if err := os.Symlink(filepath.Join(dir, "pictures"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"a.csv":       "\ufefflabel, Picture ,note\nglass,a/1.png,x\n\"clear, PET\",\"b \"\"2\"\".png\",\n",
		"a.jsonl":     "{\"picture\": \"a/1.png\", \"label\": \"glass\"}\n\n{\"label\": true, \"picture\": \"/b.png\", \"more\": 1}",
		"only.csv":    "picture\na.png\n",
		"url.csv":     "picture,label\nhttps://example.com/a.png,glass\n,\na.png,\ns3://b/c.png,x\n",
		"bad.jsonl":   "{\"picture\": \"a.png\", \"label\": \"x\"}\nnonsense\n{\"picture\": \"b.png\"}\n{\"picture\": 1}\n",
		"empty.csv":   "",
		"head.csv":    "file,label\na,b\n",
		"twice.csv":   "picture,picture,label\na,b,c\n",
		"short.csv":   "picture,label\na.png\n",
		"labels.txt":  "a.png glass\n",
		"nfd.csv":     "picture,label\na.png," + norm.NFD.String("유리병") + "\n",
		"nfd.jsonl":   `{"picture": "a.png", "label": "` + norm.NFD.String("유리병") + `"}`,
		"latin.csv":   "picture,label\na.png,caf\xe9\n",
		"latin.jsonl": "{\"picture\": \"a.png\", \"label\": \"caf\xe9\"}\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	for _, tt := range []struct {
		path     string
		labelled bool
		want     string // label=path of each picture, or what the error says
	}{
		{"pictures", true, "clear PET=pictures/clear PET/3.png glass=pictures/glass/1.png glass=pictures/glass/deep/2.png"},
		{"link", true, "clear PET=pictures/clear PET/3.png glass=pictures/glass/1.png glass=pictures/glass/deep/2.png"},
		{"loose", false, "=loose/1.png"},
		{"loose", true, "error: 1.png: is in no folder of a class: expected CLASS/1.png"},
		{"a.csv", true, `glass=a/1.png clear, PET=b "2".png`},
		{"a.jsonl", true, "glass=a/1.png true=/b.png"},
		{"a.jsonl", false, "=a/1.png =/b.png"},
		{"only.csv", false, "=a.png"},
		{"only.csv", true, "error: expected the columns picture and label"},
		{"url.csv", true, "error: url.csv:2: picture is a URL|url.csv:3: picture is empty|url.csv:3: label is empty|url.csv:4: label is empty|url.csv:5: picture is a URL"},
		{"bad.jsonl", true, "error: bad.jsonl:2: is not|bad.jsonl:3: label is empty|bad.jsonl:4: is not"},
		{"empty.csv", true, "error: is empty: expected a header"},
		{"head.csv", true, `error: the header is "file,label"`},
		{"twice.csv", true, "error: picture twice"},
		{"short.csv", true, "error: short.csv:2: has 1 field: expected 2"},
		{"nfd.csv", true, "유리병=a.png"},
		{"nfd.jsonl", true, "유리병=a.png"},
		{"mac", true, "유리병=mac/" + norm.NFD.String("유리병") + "/1.png"},
		{"latin.csv", true, "error: latin.csv:2: label is not UTF-8"},
		{"latin.jsonl", true, "error: latin.jsonl:1: is not UTF-8"},
		{"latin", true, "error: the folder's name is not UTF-8"},
		{"labels.txt", true, "error: is neither a folder nor a .csv or .jsonl file"},
		{"gone", true, "error: no such file"},
	} {
		items, err := ReadLabels(filepath.Join(dir, tt.path), tt.labelled)
		var got []string
		for _, it := range items {
			path, relErr := filepath.Rel(dir, it.Path)
			if relErr != nil || strings.HasPrefix(path, "..") {
				path = it.Path
			}
			got = append(got, it.Label+"="+path)
		}
		if wants, isError := strings.CutPrefix(tt.want, "error: "); isError {
			for want := range strings.SplitSeq(wants, "|") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got %v, %v, want %q", tt.path, got, err, want)
				}
			}
		} else if s := strings.Join(got, " "); err != nil || s != tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.path, s, err, tt.want)
		}
	}
}

// TestCheck names all pictures that cannot be used, and pictures with two labels.
func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	red := color.RGBA{220, 0, 0, 255}
	pictureFile(t, filepath.Join(dir, "red/1.png"), red, 1)
	pictureFile(t, filepath.Join(dir, "red/copy.png"), red, 1)
	pictureFile(t, filepath.Join(dir, "red/2.png"), red, 2)
	items, err := ReadLabels(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	seen := make([]int, len(items))
	err = testPictures.Check(t.Context(), items, 2, func(i int, data []byte) error { seen[i] = len(data); return nil })
	if err != nil || slices.Contains(seen, 0) {
		t.Fatalf("got %v, sizes %v", err, seen)
	}
	if th := testPictures.Thumb(items[0]); th.Width != 64 || !strings.HasPrefix(string(th.Data), "data:image/jpeg;base64,") {
		t.Errorf("got a small copy %d wide: %.40s", th.Width, th.Data)
	}
	if th := testPictures.Thumb(Item{Path: items[0].Path, Digest: "of another file"}); th.Data != "" {
		t.Errorf("a file that has changed is drawn: %.40s", th.Data)
	}
	distinct, copies, err := Distinct(items)
	if err != nil || len(distinct) != 2 || copies != 1 {
		t.Errorf("got %d pictures and %d copies, %v, want 2 and 1", len(distinct), copies, err)
	}
	if !slices.IsSortedFunc(distinct, func(a, b Item) int { return strings.Compare(a.Digest, b.Digest) }) {
		t.Error("the pictures are not in the order of their digests")
	}

	pictureFile(t, filepath.Join(dir, "pink/1.png"), red, 1)
	pictureFile(t, filepath.Join(dir, "pink/2.png"), red, 2)
	if items, err = ReadLabels(dir, true); err != nil {
		t.Fatal(err)
	}
	if err = testPictures.Check(t.Context(), items, 2, nil); err != nil {
		t.Fatal(err)
	}
	var faults Faults
	if _, _, err := Distinct(items); !errors.As(err, &faults) || len(faults) != 3 || !strings.Contains(faults[0], "another label") {
		t.Errorf("got %v, want three files with two labels", err)
	}

	write(t, filepath.Join(dir, "red/text.png"), "no picture")
	write(t, filepath.Join(dir, "red/cut.png"), "\x89PNG\r\n\x1a\n")
	if items, err = ReadLabels(dir, true); err != nil {
		t.Fatal(err)
	}
	items = append(items, Item{ID: "gone.png", Path: filepath.Join(dir, "gone.png"), Source: "labels.csv:9"}, Item{ID: "red", Path: filepath.Join(dir, "red"), Source: "red"})
	small := Pictures{MaxBytes: testPictures.MaxBytes, MaxPixels: 64*64 - 1}
	err = testPictures.Check(t.Context(), items, 2, nil)
	if !errors.As(err, &faults) || len(faults) != 4 {
		t.Fatalf("got %v, want four faults", err)
	}
	for _, want := range []string{"labels.csv:9: gone.png: no such file", "red/text.png: not a picture", "red/cut.png: ", "red: is not a regular file"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err = small.Check(t.Context(), items[:1], 1, nil); err == nil || !strings.Contains(err.Error(), "pixels") {
		t.Errorf("got %v, want too many pixels", err)
	}
	if err = (Pictures{MaxBytes: 10, MaxPixels: 1 << 20}).Check(t.Context(), items[:1], 1, nil); err == nil || !strings.Contains(err.Error(), "more than 10 bytes") {
		t.Errorf("got %v, want too many bytes", err)
	}
}

// TestRelabel names each label once that cannot be an answer.
// TestFaultsOnATerminal are on one line each, and move no cursor.
func TestFaultsOnATerminal(t *testing.T) {
	t.Parallel()
	var f Faults
	f.add("%s: is in no folder", "a\x1b[31m\nb\u202e.png")
	if got := f.Error(); got != "a [31m b .png: is in no folder" {
		t.Errorf("got %q", got)
	}
}

func TestRelabel(t *testing.T) {
	t.Parallel()
	items := []Item{{Label: "PET", Source: "l:2"}, {Label: "glas", Source: "l:3"}, {Label: "PET", Source: "l:4"}, {Label: "glas", Source: "l:5"}, {Label: "x", Source: "l:6"}}
	err := Relabel(items, func(label string) (string, error) {
		if label == "PET" {
			return "clear PET bottle", nil
		}
		return "", errors.New("expected PET")
	})
	want := "l:3: label \"glas\" of 2 pictures cannot be an answer: expected PET\nl:6: label \"x\" of 1 picture cannot be an answer: expected PET"
	if err == nil || err.Error() != want || items[2].Label != "clear PET bottle" {
		t.Errorf("got %v and %+v, want %s", err, items[2], want)
	}
	if err := Relabel(items[:1], func(label string) (string, error) { return label, nil }); err != nil {
		t.Error(err)
	}
}

func TestFaultsAreCut(t *testing.T) {
	t.Parallel()
	var f Faults
	for range maxFaults + 7 {
		f.add("x")
	}
	if got := f.Error(); strings.Count(got, "\n") != maxFaults || !strings.HasSuffix(got, "and 7 more") {
		t.Errorf("got %q", got)
	}
}

func FuzzCSV(f *testing.F) {
	for _, s := range []string{"picture,label\na.png,glass\n", "label,picture\n\"x\ny\",b\n", "\ufeffPicture,label\n,\nhttp://x,y\n", "picture\n", "a;b\n\"", "picture,label\n\x00,\xff\n"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, doc string, labelled bool) { checkReader(t, readCSV, doc, labelled) })
}

func FuzzJSONL(f *testing.F) {
	for _, s := range []string{`{"picture":"a.png","label":"glass"}`, "{\"picture\":\"a\",\"label\":1}\r\n\r\n{}", "null\n[]\n\"", `{"picture":"C:\\a.png","label":{"a": [1, 2]}}`} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, doc string, labelled bool) { checkReader(t, readJSONL, doc, labelled) })
}

// checkReader: whatever the file, each picture has a path and, where labels are wanted, a label; it is no URL; and the
// places of faults are lines of the file.
func checkReader(t *testing.T, read func(r io.Reader, name string, labelled bool) ([]Item, Faults, error), doc string, labelled bool) {
	items, faults, err := read(strings.NewReader(doc), "f", labelled)
	if err != nil && (len(items) > 0 || len(faults) > 0) {
		t.Fatalf("got %d pictures beside %v", len(items), err)
	}
	for _, it := range items {
		if strings.TrimSpace(it.ID) == "" || (it.Label == "") == labelled || strings.Contains(it.ID, "://") && remote.MatchString(it.ID) {
			t.Fatalf("got %+v", it)
		}
	}
	lines := strings.Count(doc, "\n") + strings.Count(doc, "\r") + 1
	if n := len(items) + len(faults); n > 2*lines {
		t.Fatalf("got %d of %d lines", n, lines)
	}
	again, faultsAgain, _ := read(strings.NewReader(doc), "f", labelled)
	if diff := cmp.Diff(items, again) + cmp.Diff(faults, faultsAgain); diff != "" {
		t.Fatalf("read again:\n%s", diff)
	}
}
