package phash

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"onceover/phash/jpeg"
)

// A Fault is the reason why there is no hash.
type Fault int

const (
	// Unrecognized means that the content is no kind of picture known here.
	Unrecognized Fault = iota + 1
	// Unsupported means that the content was recognised and may be fine, but it is of a kind, or uses a feature of an accepted
	// format, that cannot be hashed.
	Unsupported
	// Damaged means that the content is of an accepted format and truncated, corrupt or contradictory.
	Damaged
)

// A FormatError is what [Inspect], [Sum] and [Of] return when the data cannot be hashed. None of them returns another type
// of error. Repeating the call with the same data gives the same error.
type FormatError struct {
	Fault Fault
	Found string // what the content is, for people: "JPEG", "HEIC", "an HTML page"; empty if Unrecognized
	Err   error  // the detail, or nil
}

const accepted = "accepted are JPEG, PNG, GIF, WebP, BMP and TIFF"

// Error says what was found, what is wrong with it and, unless the file is damaged, what is accepted instead.
func (e *FormatError) Error() string {
	var s string
	switch e.Fault {
	case Unsupported:
		s = e.Found + " is not supported"
	case Damaged:
		s = e.Found + " is damaged or incomplete"
	default:
		s = "not a picture of a known format"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Fault != Damaged {
		s += "; " + accepted
	}
	if hint := hints[e.Found]; hint != "" {
		s += "; " + hint
	}
	return s
}

// hints say what people can do about files that phones and apps make.
var hints = map[string]string{
	"HEIC": fromPhones, "HEIF": fromPhones, "AVIF": fromPhones,
	"PNG in the form of iOS apps (CgBI)": "take the picture from its source, or convert it with pngcrush -revert-iphone-optimizations",
}

const fromPhones = "have the upload form ask for JPEG (accept=\"image/jpeg\", for which phones convert), set the phone's camera to its most compatible format, or convert where pictures are uploaded"

// Unwrap returns the detail.
func (e *FormatError) Unwrap() error { return e.Err }

// Formats as in Info.Format.
const (
	formatJPEG = "jpeg"
	formatPNG  = "png"
	formatGIF  = "gif"
	formatWebP = "webp"
	formatBMP  = "bmp"
	formatTIFF = "tiff"
)

// title returns the name that people know an accepted format by, or "" for other formats.
func title(format string) string {
	switch format {
	case formatJPEG:
		return "JPEG"
	case formatPNG:
		return "PNG"
	case formatGIF:
		return "GIF"
	case formatWebP:
		return "WebP"
	case formatBMP:
		return "BMP"
	case formatTIFF:
		return "TIFF"
	}
	return ""
}

// A faultError is how the code for one format says what kind of fault it met; other errors mean Damaged.
type faultError struct {
	fault Fault
	text  string
}

func (e *faultError) Error() string { return e.text }

func unsupported(format string, args ...any) error {
	return &faultError{Unsupported, fmt.Sprintf(format, args...)}
}

func damaged(format string, args ...any) error {
	return &faultError{Damaged, fmt.Sprintf(format, args...)}
}

// formatError wraps an error met in a file of an accepted format.
func formatError(format string, err error) error {
	fault := Damaged
	var own *faultError
	var jpegErr jpeg.UnsupportedError
	switch {
	case errors.As(err, &own):
		fault = own.fault
	case errors.As(err, &jpegErr):
		fault = Unsupported
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	found := title(format)
	if fault == Unsupported {
		found = "this kind of " + found
	}
	return &FormatError{Fault: fault, Found: found, Err: err}
}

// sniff tells what data begins with: one of the accepted formats, or the name of something else, or neither.
func sniff(data []byte) (format, other string) {
	starts := func(prefix string) bool { return bytes.HasPrefix(data, []byte(prefix)) }
	switch {
	case starts("\xff\xd8\xff"):
		return formatJPEG, ""
	case starts(pngSignature):
		if len(data) >= 16 && string(data[12:16]) == "CgBI" {
			return "", "PNG in the form of iOS apps (CgBI)"
		}
		return formatPNG, ""
	case starts("GIF87a"), starts("GIF89a"):
		return formatGIF, ""
	case starts("RIFF") && len(data) >= 12 && string(data[8:12]) == "WEBP":
		return formatWebP, ""
	case starts("II\x2a\x00"), starts("MM\x00\x2a"):
		return formatTIFF, ""
	case starts("BM"):
		return formatBMP, ""
	case starts("\xff\x0a"), starts("\x00\x00\x00\x0cJXL \r\n\x87\n"):
		return "", "JPEG XL"
	case starts("\xff\x4f\xff\x51"), starts("\x00\x00\x00\x0cjP  \r\n\x87\n"):
		return "", "JPEG 2000"
	case starts("II\x2b\x00"), starts("MM\x00\x2b"):
		return "", "BigTIFF"
	case starts("%PDF-"):
		return "", "PDF"
	case starts("\x00\x00\x01\x00"):
		return "", "ICO"
	case starts("\x00\x00\x02\x00") && len(data) > 5 && data[4] > 0 && data[5] == 0:
		return "", "CUR"
	case starts("8BPS"):
		return "", "PSD"
	case starts("qoif"):
		return "", "QOI"
	case starts("DDS "):
		return "", "DDS"
	case starts("icns"):
		return "", "ICNS"
	case starts("\x0a\x05\x01"), starts("\x0a\x02\x01"), starts("\x0a\x03\x01"):
		return "", "PCX"
	case starts("\x28\x00\x00\x00") && len(data) >= 40 && data[12] == 1 && data[13] == 0:
		return "", "DIB"
	case starts("%!PS"):
		return "", "PostScript"
	case len(data) > 2 && data[0] == 'P' && data[1] >= '1' && data[1] <= '7' && strings.ContainsRune(" \t\r\n#", rune(data[2])):
		return "", "PPM"
	case bytes.HasSuffix(data, []byte("TRUEVISION-XFILE.\x00")):
		return "", "TGA"
	case len(data) >= 12 && string(data[4:8]) == "ftyp":
		return "", sniffISO(data)
	}
	return "", sniffText(data)
}

// sniffISO tells the members of the ISO base media family apart by their brands (ISO/IEC 14496-12, 4.3; 23008-12, annex B;
// AVIF 6).
func sniffISO(data []byte) string {
	const offset, longest = 8, 128
	size := min(int(data[2])<<8|int(data[3]), len(data), longest)
	for i := offset; i+4 <= size; i += 4 {
		switch string(data[i : i+4]) {
		case "avif", "avis":
			return "AVIF"
		case "heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs":
			return "HEIC"
		case "jxl ":
			return "JPEG XL"
		}
	}
	switch string(data[offset : offset+4]) {
	case "mif1", "msf1":
		return "HEIF"
	}
	return "a video or another ISO media file"
}

// sniffText recognises markup: drawings, and the web pages that servers send in place of a picture.
func sniffText(data []byte) string {
	const window = 1024
	head := bytes.ToLower(data[:min(len(data), window)])
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(head) == 0 || head[0] != '<' {
		return ""
	}
	switch {
	case bytes.Contains(head, []byte("<svg")), bytes.Contains(head, []byte("<!doctype svg")):
		return "SVG"
	case bytes.Contains(head, []byte("<html")), bytes.Contains(head, []byte("<!doctype html")):
		return "an HTML page"
	case bytes.HasPrefix(head, []byte("<?xml")):
		return "XML"
	}
	return ""
}
