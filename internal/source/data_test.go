package source

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestFetchData(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, url string
		want      string // the content, or a part of the error
		kind      Kind
		ok        bool
	}{
		{"base64", "data:image/png;base64,cGljdHVyZQ==", "picture", 0, true},
		{"base64 without padding", "data:image/png;base64,cGljdHVyZQ", "picture", 0, true},
		{"base64, escaped", "data:image/png;base64,cGljdHVyZQ%3D%3d", "picture", 0, true},
		{"base64 in lines", "data:image/png;base64,cGlj\r\n dHVy%0A\tZQ==\n", "picture", 0, true},
		{"base64 with + and /", "data:;base64,+/+/", "\xfb\xff\xbf", 0, true},
		{"capitals", "DATA:IMAGE/PNG;BASE64,cGljdHVyZQ==", "picture", 0, true},
		{"parameters", "data:image/png;a=b;c=%2C;base64,cGljdHVyZQ==", "picture", 0, true},
		{"no media type", "data:,a%20b+c?d", "a b+c?d", 0, true},
		{"bytes", "data:image/gif,%00%ff,GIF", "\x00\xff,GIF", 0, true},
		{"fragment", "data:,picture#part", "picture", 0, true},
		{"base64 elsewhere", "data:text/plain;base64;charset=utf-8,cGlj", "cGlj", 0, true},
		{"base64 at the cap", "data:;base64," + strings.Repeat("AAAA", 33) + "AA==", strings.Repeat("\x00", 100), 0, true},
		{"at the cap", "data:," + strings.Repeat("%00", 100), strings.Repeat("\x00", 100), 0, true},

		{"base64 over the cap", "data:;base64," + strings.Repeat("AAAA", 33) + "AAA=", "larger than 100 bytes", TooLarge, false},
		{"over the cap", "data:," + strings.Repeat("%00", 101), "larger than 100 bytes", TooLarge, false},
		{"base64 over the cap and malformed", "data:;base64," + strings.Repeat("!", 500), "larger than 100 bytes", TooLarge, false},
		{"no comma", "data:image/png;base64;SECRET", "without a comma", BadURL, false},
		{"nothing", "data:", "without a comma", BadURL, false},
		{"wrong escape", "data:,SECRET%zz", "percent", BadURL, false},
		{"cut escape", "data:,SECRET%0", "percent", BadURL, false},
		{"not base64", "data:;base64,SECRET!!", "standard alphabet", BadURL, false},
		{"the URL alphabet", "data:;base64,SECRET-_", "standard alphabet", BadURL, false},
		{"one letter too many", "data:;base64,SECRETSEC", "standard alphabet", BadURL, false},
		{"padding alone", "data:;base64,====", "standard alphabet", BadURL, false},
		{"padding inside", "data:;base64,cGlj=dHVy", "standard alphabet", BadURL, false},
		{"padding without need", "data:;base64,cGlj=", "standard alphabet", BadURL, false},
		{"empty", "data:image/png,", "empty", Unusable, false},
		{"empty base64", "data:image/png;base64,", "empty", Unusable, false},
		{"blank base64", "data:image/png;base64, \n", "empty", Unusable, false},
	}
	f := newTestFetcher(t, hooks{}, func(c *Config) { c.MaxBytes = 100 })
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := fetch(t, f, tt.url)
			if !tt.ok {
				if e := wantKind(t, err, tt.kind, tt.want); strings.Contains(e.Msg, "SECRET") {
					t.Errorf("error shows the body: %q", e.Msg)
				}
			} else if err != nil || string(got) != tt.want {
				t.Errorf("got %q and error %v, want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzDataURL(f *testing.F) {
	for _, rest := range []string{
		"image/png;base64,iVBORw0KGgo=", ",a%20b", ";base64,", "image/png;base64,%3D", "x", ";base64,QUJD\nQQ", ",#", "a;base64,====",
	} {
		f.Add(rest, []byte("picture"))
	}
	const limit = 1000
	f.Fuzz(func(t *testing.T, rest string, content []byte) {
		data, err := decodeData(rest, limit)
		if err == nil && (len(data) == 0 || len(data) > limit) {
			t.Errorf("got %d bytes, want 1 to %d", len(data), limit)
		}
		if err == nil && len(data) > len(rest) {
			t.Errorf("got %d bytes from %d", len(data), len(rest))
		}
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("got error %v (%T), want an *Error", err, err)
		}
		if e != nil && e.Kind != BadURL && e.Kind != TooLarge && e.Kind != Unusable {
			t.Errorf("got kind %v", e.Kind)
		}
		// What is encoded must come back.
		data, err = decodeData("image/png;base64,"+base64.StdEncoding.EncodeToString(content), limit)
		if ok := len(content) > 0 && len(content) <= limit; ok != (err == nil) || ok && !bytes.Equal(data, content) {
			t.Errorf("round trip of %d bytes: got %d and error %v", len(content), len(data), err)
		}
	})
}
