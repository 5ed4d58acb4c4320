package phash

import (
	"errors"
	"testing"
)

// Whatever the bytes, there is a hash of the picture that Inspect announced or a *FormatError, and no panic.
func FuzzSum(f *testing.F) {
	for _, g := range readGolden(f) {
		if len(g.data) < 4000 {
			f.Add(g.data)
		}
	}
	f.Add([]byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"))
	f.Add([]byte("<svg/>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := Inspect(data)
		var format *FormatError
		if err != nil {
			if !errors.As(err, &format) || info != (Info{}) {
				t.Fatalf("Inspect: got %v, %v, want nothing and a *FormatError", info, err)
			}
		} else if info.Width < 1 || info.Height < 1 {
			t.Fatalf("Inspect: got %d x %d, want at least 1 x 1", info.Width, info.Height)
		}
		if info.Width > 2000 || info.Height > 2000 {
			return // valid, but too slow to fuzz
		}
		hash, err := Sum(data)
		if err != nil && (!errors.As(err, &format) || hash != Hash{}) {
			t.Fatalf("Sum: got %v, %v, want nothing and a *FormatError", hash, err)
		}
		if _, err := Of(data, TallDownFirst); err != nil && !errors.As(err, &format) {
			t.Fatalf("Of: got %v, want a *FormatError", err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add(Hash{1, 2, 3, 4}.String())
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Parse(s)
		if err != nil {
			return
		}
		if got, err := Parse(h.String()); err != nil || got != h {
			t.Fatalf("Parse(%q): got %v, %v after String and Parse, want %v", s, got, err, h)
		}
	})
}
