package jpeg

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../testdata/golden/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestErrors(t *testing.T) {
	t.Parallel()
	gray := read(t, "jpeg-gray.jpg")
	colour := read(t, "jpeg-420-33x17.jpg")
	at := func(data []byte, marker byte) int { return bytes.Index(data, []byte{0xff, marker}) }
	with := func(data []byte, i int, b ...byte) []byte { // in place of what is there
		return slices.Concat(data[:i], b, data[i+len(b):])
	}
	insert := func(data []byte, i int, b ...byte) []byte { return slices.Concat(data[:i], b, data[i:]) }
	frame := at(gray, 0xc0)
	tables := at(gray, 0xc4)
	scan := at(gray, 0xda)
	for _, c := range []struct {
		name        string
		data        []byte
		unsupported bool
		text        string
	}{
		{"nothing", nil, false, "start-of-image"},
		{"no start", gray[2:], false, "start-of-image"},
		{"start only", gray[:2], false, "start-of-image"},
		{"start and something else", insert(gray, 2, 'x'), false, "start-of-image"},
		{"beginning of a marker", gray[:3], false, "ends before"},
		{"no frame", slices.Concat(gray[:frame], gray[scan:]), false, "before the frame header"},
		{"no scan", slices.Concat(gray[:scan], []byte{0xff, 0xd9}), false, "no picture"},
		{"second frame", insert(gray, scan, gray[frame:frame+13]...), false, "second frame"},
		{"second start", insert(gray, frame, 0xff, 0xd8), false, "second start"},
		{"no end", gray[:len(gray)-2], false, "ends before"},
		{"half", gray[:len(gray)/2], false, "ends before"},
		{"height in a later marker", with(gray, frame+5, 0, 0), false, "size of"},
		{"no width", with(gray, frame+7, 0, 0), false, "size of"},
		{"many pixels", with(gray, frame+5, 0xff, 0, 0xff, 0), false, "too few"},
		{"large side", with(gray, frame+5, 0, 1, 0xff, 0xff), true, "65500"},
		{"12 bits", with(gray, frame+4, 12), true, "8 bits"},
		{"two components", with(colour, at(colour, 0xc0)+9, 2), true, "components"},
		{"sampling factor 0", with(gray, frame+11, 0x01), false, "sampling"},
		{"sampling factor 5", with(gray, frame+11, 0x15), false, "sampling"},
		{"fractional sampling", with(colour, at(colour, 0xc0)+11, 0x31, 1, 2, 0x21), true, "integral"},
		{"long frame header", with(gray, frame+9, 3), false, "frame header"},
		{"arithmetic", with(gray, frame+1, 0xc9), true, "arithmetic"},
		{"progressive arithmetic", with(gray, frame+1, 0xca), true, "arithmetic"},
		{"lossless", with(gray, frame+1, 0xc3), true, "lossless"},
		{"hierarchical", with(gray, frame+1, 0xc5), true, "hierarchical"},
		{"hierarchical from the start", insert(gray, 2, 0xff, 0xde, 0, 2), true, "hierarchical"},
		{"reserved marker", insert(gray, 2, 0xff, 0xf0, 0, 2), false, "unknown marker"},
		{"early marker", insert(gray, 2, 0xff, 0x01), false, "before the first scan"},
		{"no quantisation table", with(gray, frame+12, 3), false, "no quantisation table 3"},
		{"quantisation table 4", with(gray, at(gray, 0xdb)+4, 4), false, "quantisation table 4"},
		{"short quantisation table", with(gray, at(gray, 0xdb)+4, 0x10), false, "cut short"},
		{"Huffman table 4", with(gray, tables+4, 4), false, "Huffman table 0x04"},
		{"Huffman table of all ones", with(gray, tables+5, 2), false, "Huffman table"},
		{"no Huffman table", with(gray, scan+6, 0x22), false, "without its Huffman table"},
		{"Huffman table 5", with(gray, scan+6, 0x50), false, "Huffman table 5"},
		{"other component", with(gray, scan+5, 9), false, "component 9"},
		{"component twice", with(colour, at(colour, 0xda)+7, 1), false, "component 1"},
		{"no components", with(gray, scan+4, 0), false, "scan header"},
		{"restart interval", insert(gray, scan, 0xff, 0xdd, 0, 3, 0), false, "restart interval"},
		{"second scan", insert(gray, len(gray)-2, gray[scan:]...), false, "second scan"},
		{"short JFIF", insert(gray, 2, 0xff, 0xe0, 0, 6, 'J', 'F', 'I', 'F'), false, "JFIF"},
		{"short Adobe", insert(gray, 2, 0xff, 0xee, 0, 7, 'A', 'd', 'o', 'b', 'e'), false, "Adobe"},
		{"conditioning", insert(gray, scan, 0xff, 0xcc, 0, 4, 0x20, 0), false, "conditioning"},
		{"bad progression", with(with(gray, frame+1, 0xc2), scan+7, 0, 5), false, "coefficients 0 to 5"},
	} {
		var g grayPicture
		err := Decode(c.data, &g)
		var unsupported UnsupportedError
		var damaged DamagedError
		if ok := c.unsupported && errors.As(err, &unsupported) || !c.unsupported && errors.As(err, &damaged); !ok || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %T %v, want %q, unsupported %v", c.name, err, err, c.text, c.unsupported)
		}
	}
}

// What may stand in a file beside the picture changes nothing.
func TestTolerated(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"jpeg-gray.jpg", "jpeg-restart.jpg", "jpeg-422-progressive.jpg"} {
		data := read(t, name)
		var want grayPicture
		if err := Decode(data, &want); err != nil {
			t.Fatal(err)
		}
		scan := bytes.Index(data, []byte{0xff, 0xda})
		end := len(data) - 2
		for what, changed := range map[string][]byte{
			"bytes after the end":     slices.Concat(data, []byte("more\xff\xd8")),
			"fill bytes":              slices.Concat(data[:scan], []byte{0xff, 0xff}, data[scan:end], []byte{0xff, 0xff}, data[end:]),
			"bytes between segments":  slices.Concat(data[:scan], []byte("\x00\xff\x00abc"), data[scan:]),
			"bytes before the end":    slices.Concat(data[:end], []byte{1, 2, 3}, data[end:]),
			"comment":                 slices.Concat(data[:scan], []byte("\xff\xfe\x00\x05abc"), data[scan:]),
			"comment before the end":  slices.Concat(data[:end], []byte("\xff\xfe\x00\x05abc"), data[end:]),
			"segment without length":  slices.Concat(data[:scan], []byte("\xff\xe5\x00\x00"), data[scan:]),
			"lines in a later marker": slices.Concat(data[:end], []byte("\xff\xdc\x00\x04\x00\x01"), data[end:]),
		} {
			var got grayPicture
			if err := Decode(changed, &got); err != nil || !bytes.Equal(got.pix, want.pix) {
				t.Errorf("%s with %s: got other pixels or error %v", name, what, err)
			}
		}
	}
}

// The Huffman tables of the standard are there even if the file has none.
func TestStandardTables(t *testing.T) {
	t.Parallel()
	data := read(t, "jpeg-420-q75.jpg") // made without optimisation
	var want, got grayPicture
	if err := Decode(data, &want); err != nil {
		t.Fatal(err)
	}
	for {
		i := bytes.Index(data, []byte{0xff, 0xc4})
		if i < 0 {
			break
		}
		data = slices.Concat(data[:i], data[i+2+int(data[i+2])<<8+int(data[i+3]):])
	}
	if err := Decode(data, &got); err != nil || !bytes.Equal(got.pix, want.pix) {
		t.Errorf("without tables: got other pixels or error %v", err)
	}
}

// A file of very many scans of nothing is refused in time.
func TestManyScans(t *testing.T) {
	t.Parallel()
	data := read(t, "jpeg-gray-progressive.jpg")
	scan := bytes.LastIndex(data, []byte{0xff, 0xda})
	end := len(data) - 2
	last := data[scan:end]
	data = slices.Concat(data[:end], bytes.Repeat(last[:10], 20000), data[end:])
	var g grayPicture
	err := Decode(data, &g)
	var unsupported UnsupportedError
	if !errors.As(err, &unsupported) {
		t.Errorf("got error %v, want an UnsupportedError", err)
	}
}
