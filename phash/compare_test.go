package phash

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestPython compares with the real thing on fresh pictures of every mode that Pillow writes. ONCEOVER_TEST_PYTHON is the path of
// a Python interpreter that has imagehash.
func TestPython(t *testing.T) {
	t.Parallel()
	python := os.Getenv("ONCEOVER_TEST_PYTHON")
	if python == "" {
		t.Skip("ONCEOVER_TEST_PYTHON is not set: no comparison with Python's imagehash")
	}
	const count, seed = 250, 20260101
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python, "testdata/compare.py", dir, strconv.Itoa(count), strconv.Itoa(seed))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run compare.py: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	order := orderOf(t, lines[0])
	exact, tall, agree, inexact := 0, 0, 0, 0
	for _, line := range lines[1:] {
		f := strings.Split(strings.TrimSuffix(line, "\r"), "\t")
		if len(f) != 3 {
			t.Fatalf("compare.py: got %q, want 3 fields", line)
		}
		want, err := Parse(f[2])
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, f[0]))
		if err != nil {
			t.Fatal(err)
		}
		fp, err := Of(data, order)
		got := fp.Hash
		if f[1] == "close" {
			inexact++
			if err == nil && got == want {
				agree++
			}
			continue
		}
		exact++
		if err != nil {
			t.Errorf("%s: got error %v, want %v", f[0], err, want)
			continue
		}
		if got != want {
			t.Errorf("%s: got %v, want %v, distance %d", f[0], got, want, got.Distance(want))
		}
		if info, err := Inspect(data); err == nil && order.downFirst(info.Width, info.Height) {
			tall++
		}
	}
	if exact+inexact != count {
		t.Errorf("got %d pictures, want %d", exact+inexact, count)
	}
	t.Logf("Pillow %s: %d lossless pictures compared, %d of them resampled down first; %d of %d lossy ones the same",
		lines[0], exact, tall, agree, inexact)
}

// orderOf returns the order of resampling of a release of Pillow.
func orderOf(t *testing.T, version string) Order {
	t.Helper()
	var part [2]int
	for i, s := range strings.SplitN(version, ".", 3)[:2] {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("Pillow version: got %q, want numbers with dots between", version)
		}
		part[i] = n
	}
	switch {
	case part[0] >= 13:
		return TallDownFirst
	case part[0] == 12 && part[1] >= 2:
		return VeryTallDownFirst
	}
	return AcrossFirst
}
