package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html"
	"image"
	"image/jpeg"
	"strings"
	"testing"
)

// TestWrite writes names of another kind, and a style whose digest is the policy's.
func TestWrite(t *testing.T) {
	t.Parallel()
	evil := `</title><script>alert(1)</script>"`
	p := New(`{{define "title"}}{{.}}{{end}}{{define "body"}}<p>{{.}}</p>{{end}}`, ".mine { color: red; }\n", "")
	var out bytes.Buffer
	if err := p.Write(&out, evil, evil, "today"); err != nil {
		t.Fatal(err)
	}
	doc := out.String()
	for _, bad := range []string{"<script", "script-src", "ZgotmplZ", "http://", "https://"} {
		if strings.Contains(doc, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	_, style, _ := strings.Cut(doc, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	digest := sha256.Sum256([]byte(style))
	if want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'"; !strings.Contains(html.UnescapeString(doc), want) || !strings.Contains(style, ".mine") {
		t.Errorf("the page allows no style of digest %s", want)
	}
	if strings.Count(doc, "&lt;script&gt;") != 3 || !strings.Contains(doc, "today") {
		t.Errorf("got\n%s", doc)
	}
}

// TestScript writes a page with a script, whose digest alone is allowed, and which is written as it is.
func TestScript(t *testing.T) {
	t.Parallel()
	script := "'use strict';\nif (1 < 2 && '\\u2028' > `${1}`) { /* \u00e9 */ }\n"
	var out bytes.Buffer
	if err := New(`{{define "title"}}t{{end}}{{define "body"}}{{.}}{{end}}`, "", script).Write(&out, "</script><script>alert(1)</script>", "p", "today"); err != nil {
		t.Fatal(err)
	}
	doc := out.String()
	_, got, _ := strings.Cut(doc, "<script>")
	got, _, _ = strings.Cut(got, "</script>")
	if got != script || strings.Count(doc, "<script") != 1 {
		t.Errorf("got\n%s", doc)
	}
	digest := sha256.Sum256([]byte(got))
	if want := "; script-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "';"; !strings.Contains(html.UnescapeString(doc), want) {
		t.Errorf("the page allows no script of digest %s:\n%s", want, doc)
	}
}

func TestDraw(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ x, y, wantX, wantY int }{{400, 200, 100, 50}, {200, 400, 50, 100}, {30, 20, 30, 20}, {1000, 1, 100, 1}} {
		got, err := Draw(image.NewGray(image.Rect(0, 0, tt.x, tt.y)), 100)
		if err != nil {
			t.Fatal(err)
		}
		data, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(string(got.Data), "data:image/jpeg;base64,"))
		if err != nil {
			t.Fatal(err)
		}
		size, err := jpeg.DecodeConfig(bytes.NewReader(data))
		if err != nil || got.Width != tt.wantX || got.Height != tt.wantY || size.Width != got.Width || size.Height != got.Height {
			t.Errorf("%d x %d: got %d x %d of %d x %d, %v", tt.x, tt.y, got.Width, got.Height, size.Width, size.Height, err)
		}
	}
}
