package page

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the frame of the page
	"encoding/base64"
	"fmt"
	"html/template"
	"image"
	"image/jpeg"
	"io"

	"golang.org/x/image/draw"
)

var (
	//go:embed page.html
	frame string
	//go:embed page.css
	baseStyle string
)

// Page is a kind of report. It is safe for concurrent use.
type Page struct {
	template      *template.Template
	style, script string
}

// New returns a page of a template text, which defines the templates title and body, and may use the template picture for
// a [Picture]. style stands behind the base style. script, unless it is "", runs at the end of the page, which allows no other
// one, and no HTML that a script makes of text. New panics if the text is no template.
func New(text, style, script string) *Page {
	return &Page{template.Must(template.Must(template.New("page").Parse(frame)).Parse(text)), baseStyle + style, script}
}

// Write writes the page that data is shown on, with who made it and when.
func (p *Page) Write(w io.Writer, data any, program, at string) error {
	policy := "default-src 'none'; img-src data:; style-src " + source(p.style) + "; base-uri 'none'; form-action 'none'"
	if p.script != "" {
		policy += "; script-src " + source(p.script) + "; require-trusted-types-for 'script'; trusted-types 'none'"
	}
	return p.template.Execute(w, struct {
		Policy      string // Content-Security-Policy
		Style       template.CSS
		Script      template.JS
		Data        any
		Program, At string
	}{policy, template.CSS(p.style), template.JS(p.script), data, program, at})
}

// source allows a text in a Content-Security-Policy.
func source(text string) string {
	digest := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'"
}

// Thumb is a small copy of a picture, as a data URL. Its zero value is shown as no picture.
type Thumb struct {
	Data          template.URL
	Width, Height int // pixels
}

// Picture is a small copy with the picture's name.
type Picture struct {
	Thumb
	Name string
}

// Draw makes a small copy whose longer side has at most side pixels.
func Draw(img image.Image, side int) (Thumb, error) {
	size := img.Bounds().Size()
	longer := max(size.X, size.Y, side)
	t := Thumb{Width: max(1, size.X*side/longer), Height: max(1, size.Y*side/longer)}
	small := image.NewRGBA(image.Rect(0, 0, t.Width, t.Height))
	draw.CatmullRom.Scale(small, small.Bounds(), img, img.Bounds(), draw.Src, nil)
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, small, &jpeg.Options{Quality: 80}); err != nil {
		return Thumb{}, fmt.Errorf("draw a small copy: %w", err)
	}
	t.Data = template.URL("data:image/jpeg;base64," + base64.StdEncoding.EncodeToString(buf.Bytes()))
	return t, nil
}
