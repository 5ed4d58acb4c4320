package phash

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

var views = flag.Int("views", 150, "`number` of pictures that TestSeenAsPython compares")

// TestSeenAsPython compares what people see with Pillow's ImageOps.exif_transpose and convert("RGB"), on pictures that say how they
// are to be turned in every way that Pillow reads, and with transparency.
func TestSeenAsPython(t *testing.T) {
	t.Parallel()
	python := os.Getenv("ONCEOVER_TEST_PYTHON")
	if python == "" {
		t.Skip("ONCEOVER_TEST_PYTHON is not set: no comparison with Pillow")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python, "testdata/seen.py", dir, strconv.Itoa(*views), strconv.Itoa(*seed))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run seen.py: %v", err)
	}
	most, sum, n := 0, 0, 0
	turned := map[string]int{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		data, err := os.ReadFile(filepath.Join(dir, f[0]))
		if err != nil || len(f) != 5 {
			t.Fatalf("%q: %v", line, err)
		}
		l, err := LookAt(data, AcrossFirst)
		if err != nil {
			t.Errorf("%s, %s: %v", f[0], f[1], err)
			continue
		}
		if l.Orientation > 1 {
			turned[f[1]]++
		}
		w, _ := strconv.Atoi(f[2])
		h, _ := strconv.Atoi(f[3])
		m := l.Upright()
		if fw, fh := fit(w, h, MaxSide); m.Rect.Dx() != fw || m.Rect.Dy() != fh {
			t.Errorf("%s, %s: got %v, want %d x %d", f[0], f[1], m.Rect, fw, fh)
			continue
		}
		want, err := hex.DecodeString(f[4])
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range cellMeans(m) {
			d := max(int(v)-int(want[i]), int(want[i])-int(v))
			if d > farthest {
				t.Errorf("%s, %s, orientation %d, %v: cell %d of 8 x 8 has %d, want %d", f[0], f[1], l.Orientation, m.Rect, i/3, v, want[i])
				break
			}
			most, sum, n = max(most, d), sum+d, n+1
		}
	}
	t.Logf("the means of cells differ by %.2f on average, %d at most; turned: %v", float64(sum)/float64(n), most, turned)
}

// farthest is how far the mean of a cell of 8 x 8 may be from Pillow's, in levels: an image has its chroma for each 2 x 2 pixels, and
// cells end between them.
const farthest = 16

// cellMeans returns the means of R, G and B of 8 x 8 cells, divided as numpy.array_split does.
func cellMeans(m *image.YCbCr) (means []uint8) {
	bounds := func(n int) (at [9]int) {
		for i := range 8 {
			at[i+1] = at[i] + n/8
			if i < n%8 {
				at[i+1]++
			}
		}
		return at
	}
	across, down := bounds(m.Rect.Dx()), bounds(m.Rect.Dy())
	for cy := range 8 {
		for cx := range 8 {
			var sum [3]int
			n := 0
			for y := down[cy]; y < down[cy+1]; y++ {
				for x := across[cx]; x < across[cx+1]; x++ {
					c := m.YCbCrAt(x, y)
					r, g, b := color.YCbCrToRGB(c.Y, c.Cb, c.Cr)
					sum[0], sum[1], sum[2], n = sum[0]+int(r), sum[1]+int(g), sum[2]+int(b), n+1
				}
			}
			for _, s := range sum {
				means = append(means, uint8((s+n/2)/max(n, 1)))
			}
		}
	}
	return means
}

// TestLookKeepsTheHash has the hash of what people see be near that of the file: of opaque pictures that are not tiny.
func TestLookKeepsTheHash(t *testing.T) {
	t.Parallel()
	most, compared := 0, 0
	for _, g := range readGolden(t) {
		l, err := LookAt(g.data, AcrossFirst)
		if err != nil {
			t.Errorf("%s: got %v, want a picture of all that has a hash", g.file, err)
			continue
		}
		if l.Hash != g.want {
			t.Errorf("%s: got hash %v, want %v", g.file, l.Hash, g.want)
		}
		p, _, err := open(g.data)
		if err != nil {
			t.Fatal(err)
		}
		if p.alpha != nil || p.seen != nil || l.Hash.Degenerate() || min(p.width, p.height) < 64 {
			continue
		}
		m := l.Image
		small, err := thumbnail(picture{width: m.Rect.Dx(), height: m.Rect.Dy(), row: func(y int, gray []uint8) { copy(gray, m.Y[y*m.YStride:]) }}, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		d := hash(small).Distance(l.Hash)
		if d > farthestHash {
			t.Errorf("%s: the hash of what is seen is %d bits away, want at most %d", g.file, d, farthestHash)
		}
		most, compared = max(most, d), compared+1
	}
	if compared < 50 {
		t.Errorf("%d pictures were compared, want 50 at least", compared)
	}
	t.Logf("%d pictures, at most %d bits", compared, most)
}

// farthestHash is how far the hash of what is seen may be from that of the file, in bits.
const farthestHash = 8

// TestLook compares with the picture of which files of all formats were made.
func TestLook(t *testing.T) {
	t.Parallel()
	read := func(file string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(modesDir, file))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want, err := png.Decode(bytes.NewReader(read("colours.png")))
	if err != nil {
		t.Fatal(err)
	}
	for file, tolerance := range map[string]int{
		"colours.png": 6, "colours.bmp": 6, "colours.tif": 6, "colours.webp": 6, "colours-cmyk.tif": 6,
		"colours-lossy.webp": 20, "colours.jpg": 20, "colours-jpeg.tif": 20, "colours.gif": 20,
	} {
		l, err := LookAt(read(file), AcrossFirst)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		got := l.Upright()
		if got.Bounds() != want.Bounds() {
			t.Errorf("%s: got %v, want %v", file, got.Bounds(), want.Bounds())
			continue
		}
		if d := meanDifference(got, want); d > tolerance {
			t.Errorf("%s: got colours that differ by %d on average, want at most %d", file, d, tolerance)
		}
	}
	if l, err := LookAt([]byte("<svg/>"), AcrossFirst); err == nil {
		t.Errorf("got %v, want an error", l)
	}
}

func meanDifference(a, b image.Image) int {
	sum := 0
	r := a.Bounds()
	for y := range r.Dy() {
		for x := range r.Dx() {
			p, _ := color.NRGBAModel.Convert(a.At(x, y)).(color.NRGBA)
			q, _ := color.NRGBAModel.Convert(b.At(x, y)).(color.NRGBA)
			for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
				sum += max(d, -d)
			}
		}
	}
	return sum / (3 * r.Dx() * r.Dy())
}

// TestCases has files of which others have shown to the model what they do not hash.
func TestCases(t *testing.T) {
	t.Parallel()
	chunk := func(name string, content []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(content)))
		b = append(append(b, name...), content...)
		return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
	}
	var file bytes.Buffer
	m := image.NewNRGBA(image.Rect(0, 0, 64, 64))
	for i := range m.Pix {
		m.Pix[i] = 200
		if i%4 == 3 {
			m.Pix[i] = 255
		}
	}
	if err := png.Encode(&file, m); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	// Text before IHDR, as Pillow takes it.
	text := append(append(bytes.Clone(whole[:8]), chunk("tEXt", []byte("Software\x00x"))...), whole[8:]...)
	a, errA := LookAt(whole, AcrossFirst)
	b, errB := LookAt(text, AcrossFirst)
	if errA != nil || errB != nil || a.Hash != b.Hash || a.Image.Y[0] != 200 {
		t.Errorf("text before IHDR: got %v, %v; %v, %v", a, errA, b, errB)
	}
	for name, pixels := range map[string]string{"no header": string(whole[:8]) + string(whole[33:]), "header alone": string(whole[:33])} {
		if _, err := LookAt([]byte(pixels), AcrossFirst); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// TestShrinkerIsAreaMean compares with the definition: the mean over the covered area, computed in floating point.
func TestShrinkerIsAreaMean(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ w, h, toW, toH, channels int }{
		{1, 1, 1, 1, 1}, {7, 5, 3, 2, 3}, {40, 33, 40, 7, 1}, {40, 33, 9, 33, 3}, {64, 48, 16, 12, 1}, {100, 70, 99, 69, 3}, {50, 3, 1, 1, 1},
		{17, 90, 5, 31, 3}, {3, 2, 8, 8, 1}, {2000, 3, 1024, 3, 1},
	} {
		src := make([]uint8, tt.w*tt.h*tt.channels)
		for i := range src {
			src[i] = uint8(i*i*31 + i*7)
		}
		out := make([]uint8, tt.toW*tt.toH*tt.channels)
		s := newShrinker(evenly(tt.w, tt.toW), evenly(tt.h, tt.toH), tt.channels, out, tt.toW*tt.channels)
		for y := range tt.h {
			s.add(y, src[y*tt.w*tt.channels:][:tt.w*tt.channels])
		}
		overlap := func(i int, lo, hi float64) float64 { return max(0, min(float64(i+1), hi)-max(float64(i), lo)) }
		fw, fh := float64(tt.w)/float64(tt.toW), float64(tt.h)/float64(tt.toH)
		for y := range tt.toH {
			for x := range tt.toW {
				for c := range tt.channels {
					want := 0.0
					for sy := range tt.h {
						down := overlap(sy, float64(y)*fh, float64(y+1)*fh)
						for sx := range tt.w {
							if down > 0 {
								want += down * overlap(sx, float64(x)*fw, float64(x+1)*fw) * float64(src[(sy*tt.w+sx)*tt.channels+c])
							}
						}
					}
					want /= fw * fh
					if got := float64(out[(y*tt.toW+x)*tt.channels+c]); got < want-0.51 || got > want+0.51 {
						t.Fatalf("%+v: sample %d,%d,%d: got %v, want %v", tt, x, y, c, got, want)
					}
				}
			}
		}
	}
}

// TestDisplayP3 converts colours of a profile that phones write.
func TestDisplayP3(t *testing.T) {
	t.Parallel()
	fixed := func(v float64) []byte { return binary.BigEndian.AppendUint32(nil, uint32(int32(v*65536))) }
	tags := [][2]string{}
	add := func(name string, content ...[]byte) {
		tags = append(tags, [2]string{name, string(bytes.Join(content, nil))})
	}
	xyz := func(x, y, z float64) []byte {
		return bytes.Join([][]byte{[]byte("XYZ \x00\x00\x00\x00"), fixed(x), fixed(y), fixed(z)}, nil)
	}
	curve := bytes.Join([][]byte{[]byte("para\x00\x00\x00\x00\x00\x03\x00\x00"), fixed(2.4), fixed(1 / 1.055), fixed(0.055 / 1.055), fixed(1 / 12.92), fixed(0.04045)}, nil)
	add("rXYZ", xyz(0.51512, 0.24120, -0.00105))
	add("gXYZ", xyz(0.29198, 0.69225, 0.04189))
	add("bXYZ", xyz(0.15710, 0.06657, 0.78407))
	for _, c := range "rgb" {
		add(string(c)+"TRC", curve)
	}
	profile := make([]byte, 128)
	copy(profile[16:], "RGB XYZ ")
	profile = binary.BigEndian.AppendUint32(profile, uint32(len(tags)))
	at := len(profile) + 12*len(tags)
	body := ""
	for _, tag := range tags {
		profile = append(profile, tag[0]...)
		profile = binary.BigEndian.AppendUint32(profile, uint32(at+len(body)))
		profile = binary.BigEndian.AppendUint32(profile, uint32(len(tag[1])))
		body += tag[1]
	}
	profile = append(profile, body...)
	c := parseICC(profile)
	if c == nil {
		t.Fatal("the profile is not read")
	}
	for _, tt := range [][6]uint8{ // by LittleCMS, relative colorimetric
		{128, 128, 128, 128, 128, 128}, {255, 255, 255, 255, 255, 255}, {0, 0, 0, 0, 0, 0}, {200, 100, 50, 215, 93, 31}, {100, 180, 120, 65, 182, 114},
		{30, 60, 200, 17, 61, 208},
	} {
		m := image.NewYCbCr(image.Rect(0, 0, 2, 2), image.YCbCrSubsampleRatio420)
		fromRGB(m, bytes.Repeat(tt[:3], 4))
		c.convert(m)
		y := m.YCbCrAt(0, 0)
		r, g, b := color.YCbCrToRGB(y.Y, y.Cb, y.Cr)
		for i, v := range []uint8{r, g, b} {
			if d := int(v) - int(tt[3+i]); d > 3 || d < -3 {
				t.Errorf("%v: got %d %d %d, want %v", tt[:3], r, g, b, tt[3:])
				break
			}
		}
	}
	for i := range profile {
		broken := bytes.Clone(profile)
		broken[i] ^= 0xff
		parseICC(broken) // does not panic
		parseICC(profile[:i])
	}
}

// TestTurnedHashes compares with the hashes of pictures that are turned pixel by pixel.
func TestTurnedHashes(t *testing.T) {
	t.Parallel()
	far, n := 0, 0
	for _, g := range readTable(t, goldenDir) {
		l, err := LookAt(g.data, AcrossFirst)
		if err != nil {
			t.Errorf("%s: %v", g.file, err)
			continue
		}
		p, _, err := open(g.data)
		if err != nil {
			t.Fatal(err)
		}
		if p.alpha != nil || p.seen != nil || l.Hash.Degenerate() || min(p.width, p.height) < 64 {
			continue
		}
		m := l.Image
		w, h := m.Rect.Dx(), m.Rect.Dy()
		if l.Turned[0] != l.Hash {
			t.Errorf("%s: got %v, want %v", g.file, l.Turned[0], l.Hash)
		}
		for turn := range l.Turned {
			tw, th := w, h
			if turn&4 != 0 {
				tw, th = h, w
			}
			p := picture{width: tw, height: th, row: func(y int, gray []uint8) {
				for x := range gray {
					sx, sy := x, y
					if turn&4 != 0 {
						sx, sy = y, x
					}
					if turn&1 != 0 {
						sx = w - 1 - sx
					}
					if turn&2 != 0 {
						sy = h - 1 - sy
					}
					gray[x] = m.Y[sy*m.YStride+sx]
				}
			}}
			small, err := thumbnail(p, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			d := hash(small).Distance(l.Turned[turn])
			if n++; d > farthestTurned { // as of a checkerboard, where many frequencies are near the median
				far++
				t.Logf("%s, turn %d: the hash of the turned picture is %d bits away", g.file, turn, d)
			}
		}
	}
	if far*50 > n {
		t.Errorf("of %d turned pictures %d are more than %d bits away, want at most 2 %%", n, far, farthestTurned)
	}
}

// farthestTurned is how far the hash of a turned picture may be from the one that is computed, in bits.
const farthestTurned = 12

// TestBMPAlpha shows a picture with alpha on white, and one whose alpha nobody has set as it is.
func TestBMPAlpha(t *testing.T) {
	t.Parallel()
	file := func(alphas ...uint8) []byte {
		b := make([]byte, 14+108)
		copy(b, "BM")
		le := binary.LittleEndian
		le.PutUint32(b[10:], 14+108)
		le.PutUint32(b[14:], 108)
		le.PutUint32(b[18:], uint32(len(alphas)))
		le.PutUint32(b[22:], 1)
		le.PutUint16(b[26:], 1)
		le.PutUint16(b[28:], 32)
		le.PutUint32(b[30:], bmpBitFields)
		for i, mask := range []uint32{0xff0000, 0xff00, 0xff, 0xff000000} {
			le.PutUint32(b[54+4*i:], mask)
		}
		for _, a := range alphas {
			b = append(b, 40, 40, 40, a)
		}
		return b
	}
	for name, tt := range map[string]struct {
		file []byte
		want []uint8
	}{
		"alpha":       {file(255, 0, 128), []uint8{40, 255, 147}},
		"alpha of 0":  {file(0, 0, 0), []uint8{40, 40, 40}},
		"opaque":      {file(255, 255, 255), []uint8{40, 40, 40}},
		"alpha alone": {file(0, 0, 1), []uint8{255, 255, 254}},
	} {
		l, err := LookAt(tt.file, AcrossFirst)
		if err != nil || !bytes.Equal(l.Image.Y[:3], tt.want) {
			t.Errorf("%s: got %v, %v, want %v", name, l, err, tt.want)
		}
	}
}

// TestManyTexts has a small PNG with many texts that inflate to a megabyte each: few of them are read.
func TestManyTexts(t *testing.T) {
	var text, file bytes.Buffer
	z := zlib.NewWriter(&text)
	if _, err := z.Write(make([]byte, maxText)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(&file, image.NewGray(image.Rect(0, 0, 8, 8))); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	out := bytes.Clone(whole[:33])
	for _, key := range []string{"Comment", keyXMP, keyRawProfile, "icc"} {
		for range 200 {
			name, content := "zTXt", key+"\x00\x00"+text.String()
			if key == "icc" {
				name = "iCCP"
			}
			at := len(out)
			out = binary.BigEndian.AppendUint32(out, uint32(len(content)))
			out = append(append(out, name...), content...)
			out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[at+4:]))
		}
	}
	out = append(out, whole[33:]...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := LookAt(out, AcrossFirst); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	const most = 32 << 20
	if n := after.TotalAlloc - before.TotalAlloc; n > most {
		t.Errorf("%d MiB were allocated, want at most %d", n>>20, most>>20)
	}
}
