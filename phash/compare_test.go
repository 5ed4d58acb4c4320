package phash

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var (
	pictures = flag.Int("pictures", 400, "`number` of pictures that TestPython compares")
	seed     = flag.Int("seed", 20260101, "`number` that they are made from")
)

// TestPython compares with the real thing on fresh pictures of every kind that Pillow reads. ONCEOVER_TEST_PYTHON is the path of a
// Python interpreter that has imagehash.
func TestPython(t *testing.T) {
	t.Parallel()
	python := os.Getenv("ONCEOVER_TEST_PYTHON")
	if python == "" {
		t.Skip("ONCEOVER_TEST_PYTHON is not set: no comparison with Python's imagehash")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python, "testdata/compare.py", dir, strconv.Itoa(*pictures), strconv.Itoa(*seed))
	var stderr bytes.Buffer // libtiff complains there of the files cut short
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run compare.py: %v\n%s", err, stderr.Bytes())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	order, err := ParseOrder(strings.TrimSpace(lines[0]))
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int) // by kind, and other things
	for _, line := range lines[1:] {
		f := strings.Split(strings.TrimSuffix(line, "\r"), "\t")
		if len(f) != 3 {
			t.Fatalf("compare.py: got %q, want 3 fields", line)
		}
		name, kind := f[0], f[1]
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		count[kind]++
		fp, err := Of(data, order)
		if kind == "refused" {
			if err == nil {
				t.Errorf("%s, cut short or corrupted: got %v, want an error as from Pillow", name, fp.Hash)
			}
			continue
		}
		want, parseErr := Parse(f[2])
		if parseErr != nil {
			t.Fatal(parseErr)
		}
		switch {
		case kind == "cut" && err != nil:
		case err != nil:
			t.Errorf("%s: got error %v, want %v", name, err, want)
		case fp.Hash != want:
			t.Errorf("%s: got %v, want %v, distance %d", name, fp.Hash, want, fp.Hash.Distance(want))
		default:
			if info, err := Inspect(data); err == nil && order.downFirst(info.Width, info.Height) {
				count["down first"]++
			}
		}
	}
	if n := count["exact"] + count["refused"] + count["cut"]; n != *pictures {
		t.Errorf("got %d pictures, want %d", n, *pictures)
	}
	t.Logf("Pillow %s: %v", lines[0], count)
}
