package jpeg

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// grayPicture is a Sink that keeps the rows.
type grayPicture struct {
	pix    []uint8
	rows   int
	chroma [2]int // rows of each plane
}

func (g *grayPicture) Gray(row []uint8) {
	g.pix = append(g.pix, row...)
	g.rows++
}

func (g *grayPicture) Chroma(plane, width, height, y int, row []uint8) {
	if len(row) != width || y != g.chroma[plane] || y >= height {
		panic(fmt.Sprintf("plane %d of %d x %d: row %d of %d samples after %d rows", plane, width, height, y, len(row), g.chroma[plane]))
	}
	g.chroma[plane]++
}

// TestPillow compares with Pillow on fresh files of every kind, half of them damaged. ONCEOVER_TEST_PYTHON is the path of a Python
// interpreter that has Pillow; ONCEOVER_TEST_JPEG_FILES and ONCEOVER_TEST_JPEG_SEED ask for another number of files and others.
func TestPillow(t *testing.T) {
	t.Parallel()
	python := os.Getenv("ONCEOVER_TEST_PYTHON")
	if python == "" {
		t.Skip("ONCEOVER_TEST_PYTHON is not set: no comparison with Pillow")
	}
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			return otherwise
		}
		return n
	}
	count, seed := number("ONCEOVER_TEST_JPEG_FILES", 300), number("ONCEOVER_TEST_JPEG_SEED", 1)
	for script, count := range map[string]int{"generate.py": count, "ends.py": count / 20} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			comparePillow(t, python, script, count, seed)
		})
	}
}

// comparePillow compares with what Pillow makes of the files that a script writes.
func comparePillow(t *testing.T, python, script string, count, seed int) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", script), dir, strconv.Itoa(count), strconv.Itoa(seed))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run %s: %v", script, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < count {
		t.Fatalf("got %d files, want %d", len(lines), count)
	}
	same, refused, less := 0, 0, 0
	reasons := make(map[string]int)
	for _, line := range lines {
		f := strings.Split(strings.TrimSuffix(line, "\r"), "\t")
		data, err := os.ReadFile(filepath.Join(dir, f[0]))
		if err != nil {
			t.Fatal(err)
		}
		got := "refused"
		var g grayPicture
		err = Decode(data, &g)
		if err == nil {
			c, err := DecodeConfig(data)
			if err != nil || len(g.pix) != c.Width*c.Height {
				t.Errorf("%s, %s: got %d pixels, want %d x %d, %v", f[0], f[1], len(g.pix), c.Width, c.Height, err)
			}
			got = fmt.Sprintf("%dx%d-%x", c.Width, c.Height, sha256.Sum256(g.pix))
		}
		switch {
		case got == f[2] && err != nil:
			refused++
		case got == f[2]:
			same++
		case err != nil && expected(err):
			less++
			reasons[err.Error()]++
		default:
			t.Errorf("%s, %s: got %s, %v, want %s", f[0], f[1], got, err, f[2])
		}
	}
	t.Logf("%d the same, %d refused by both, %d refused here: %v", same, refused, less, reasons)
}

// expected reports whether an error is one of those that Pillow does not have.
func expected(err error) bool {
	var unsupported UnsupportedError
	var damaged DamagedError
	return errors.As(err, &unsupported) ||
		errors.As(err, &damaged) && strings.Contains(err.Error(), "too few")
}
