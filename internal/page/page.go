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
	template *template.Template
	style    string
}

// New returns a page of a template text, which defines the templates title and body, and may use the template picture for
// a [Picture]. style stands behind the base style. It panics if the text is no template.
func New(text, style string) *Page {
	return &Page{template.Must(template.Must(template.New("page").Parse(frame)).Parse(text)), baseStyle + style}
}

// Write writes the page that data is shown on, with who made it and when.
func (p *Page) Write(w io.Writer, data any, program, at string) error {
	digest := sha256.Sum256([]byte(p.style))
	return p.template.Execute(w, struct {
		Policy      string // Content-Security-Policy
		Style       template.CSS
		Data        any
		Program, At string
	}{
		"default-src 'none'; img-src data:; style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'; base-uri 'none'; form-action 'none'",
		template.CSS(p.style), data, program, at,
	})
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
