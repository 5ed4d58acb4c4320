package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFetchFile(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	root := filepath.Join(base, "root")
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("root/a.png", "a")
	write("root/sub/b?#% 플.png", "b")
	write("root/empty.png", "")
	write("root/cap.png", strings.Repeat("x", 100))
	write("root/large.png", strings.Repeat("x", 101))
	write("root2/outside.png", "outside")
	write("outside.png", "outside")
	link("a.png", "inward")
	link("../root/a.png", "out-and-in")
	link("../outside.png", "outward")
	link(filepath.Join(base, "outside.png"), "absolute")
	link("..", "parent")
	link("/", "slash")
	link("loop", "loop")
	link("/dev/zero", "device")

	at := "file://" + root + "/"
	tests := []struct {
		name, url string
		want      string // the content, or a part of the error
		kind      Kind
		ok        bool
	}{
		{"file", at + "a.png", "a", 0, true},
		{"localhost", "file://LOCALHOST" + root + "/a.png", "a", 0, true},
		{"one slash", "file:" + root + "/a.png", "a", 0, true},
		{"capitals", "FILE://" + root + "/a.png", "a", 0, true},
		{"escapes", at + "sub/b%3F%23%25%20%ED%94%8C.png", "b", 0, true},
		{"dots that stay", at + "sub/../a.png", "a", 0, true},
		{"link inwards", at + "inward", "a", 0, true},
		{"at the cap", at + "cap.png", strings.Repeat("x", 100), 0, true},

		{"over the cap", at + "large.png", "larger than 100 bytes", TooLarge, false},
		{"empty", at + "empty.png", "empty", Unusable, false},
		{"missing", at + "b.png", "no such file", NotFound, false},
		{"below a file", at + "a.png/b.png", "no such file", NotFound, false},
		{"name too long", at + strings.Repeat("n", 300), "file name", BadURL, false},
		{"loop", at + "loop", "file name", BadURL, false},
		{"the root itself", "file://" + root, "not a regular file", Forbidden, false},
		{"folder", at + "sub", "not a regular file", Forbidden, false},
		{"beside the root", "file://" + base + "/outside.png", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"root as a prefix of the name", "file://" + root + "2/outside.png", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"system file", "file:///etc/passwd", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"device", "file:///dev/zero", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"dots", at + "../outside.png", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"dots, escaped", at + "%2e%2e/outside.png", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"dots and slash, escaped", at + "..%2foutside.png", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"many dots", at + strings.Repeat("../", 50) + "etc/passwd", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"link outwards", at + "outward", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"link outwards, absolute", at + "absolute", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"link out and in again", at + "out-and-in", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"through a link to the parent", at + "parent/outside.png", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"through a link to /", at + "slash/etc/passwd", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"link to a device", at + "device", "ONCEOVER_IMAGE_ROOT", Forbidden, false},
		{"another host", "file://server" + root + "/a.png", "another host", Forbidden, false},
		{"userinfo", "file://user@" + root + "/a.png", "another host", Forbidden, false},
		{"query", at + "a.png?x", "%3F", BadURL, false},
		{"fragment", at + "a.png#x", "%3F", BadURL, false},
		{"relative", "file:a.png", "absolute path", BadURL, false},
		{"NUL", at + "a.png%00.txt", "absolute path", BadURL, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newTestFetcher(t, hooks{}, func(c *Config) {
				c.Root = root + "/./" // need not be tidy
				c.MaxBytes = 100
			})
			got, err := fetch(t, f, tt.url)
			if !tt.ok {
				wantKind(t, err, tt.kind, tt.want)
			} else if err != nil || string(got) != tt.want {
				t.Errorf("got %q and error %v, want %q", got, err, tt.want)
			}
		})
	}
	t.Run("no root", func(t *testing.T) {
		_, err := fetch(t, newTestFetcher(t, hooks{}, nil), at+"a.png")
		wantKind(t, err, Forbidden, "set ONCEOVER_IMAGE_ROOT")
	})
}
