package phash

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/jpeg"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"testing"
)

// photo12 returns a baseline file of 4000 x 3000 pixels with 4:2:0 sampling: one row of units, encoded once, then repeated between
// restart markers.
func photo12(t testing.TB) []byte {
	t.Helper()
	const width, height, unit = 4000, 3000, 16
	rng := rand.New(rand.NewPCG(1, 1))
	m := image.NewYCbCr(image.Rect(0, 0, width, unit), image.YCbCrSubsampleRatio420)
	for _, plane := range [][]uint8{m.Y, m.Cb, m.Cr} {
		for i := range plane {
			plane[i] = uint8(100 + i%16 + rng.IntN(20))
		}
	}
	var strip bytes.Buffer
	if err := jpeg.Encode(&strip, m, &jpeg.Options{Quality: 90}); err != nil {
		t.Fatal(err)
	}
	data := strip.Bytes()
	binary.BigEndian.PutUint16(data[bytes.Index(data, []byte{0xff, 0xc0})+5:], height)
	scan := bytes.Index(data, []byte{0xff, 0xda})
	start := scan + 2 + int(binary.BigEndian.Uint16(data[scan+2:]))
	row := data[start : len(data)-2]
	file := bytes.Clone(data[:scan])
	file = append(file, 0xff, 0xdd, 0, 4, 0, width/unit)
	file = append(file, data[scan:start]...)
	for i := range (height + unit - 1) / unit {
		if i > 0 {
			file = append(file, 0xff, 0xd0+byte(i-1)%8)
		}
		file = append(file, row...)
	}
	return append(file, 0xff, 0xd9)
}

// A baseline JPEG is hashed in a few rows' memory. A process of its own is asked, which does nothing else.
func TestPeakMemory(t *testing.T) {
	t.Parallel()
	const variable = "ONCEOVER_TEST_PEAK_OF"
	if file := os.Getenv(variable); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		peak := resident(t)
		runtime.ReadMemStats(&before)
		if _, err := Sum(data); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		fmt.Printf("allocated=%d resident=%d\n", after.TotalAlloc-before.TotalAlloc, resident(t)-peak)
		return
	}
	file := filepath.Join(t.TempDir(), "photo.jpg")
	if err := os.WriteFile(file, photo12(t), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPeakMemory$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+file)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := regexp.MustCompile(`allocated=(\d+) resident=(\d+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("got %s, want numbers", out)
	}
	allocated, _ := strconv.Atoi(string(m[1]))
	grown, _ := strconv.Atoi(string(m[2]))
	const most, mostResident = 2 << 20, 16 << 20
	if allocated > most || grown > mostResident {
		t.Errorf("got %d bytes allocated, %d more resident, want at most %d and %d", allocated, grown, most, mostResident)
	}
	t.Logf("%d bytes allocated in all, peak grown by %d", allocated, grown)
}

// resident returns the most memory that the process ever had, in bytes, or 0 where the system does not say.
func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
