package phash

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math"
	"regexp"
	"strings"

	"github.com/klauspost/compress/zlib"

	"onceover/phash/jpeg"
)

// A metadata is what a file says of its picture beside the pixels, each nil if it says nothing.
type metadata struct {
	exif []byte // a TIFF of one directory, as Exif has it
	xmp  []byte
	icc  []byte // colour profile
}

// readMetadata finds metadata where Pillow finds it. Damaged ones are none: a picture is worth more than what is said of it.
func readMetadata(format string, data []byte) metadata {
	switch format {
	case formatJPEG:
		return metadataOfJPEG(data)
	case formatPNG:
		return metadataOfPNG(data)
	case formatWebP:
		return metadataOfWebP(data)
	case formatTIFF:
		return metadataOfTIFF(data)
	}
	return metadata{}
}

const exifPrefix = "Exif\x00\x00"

// metadataOfJPEG joins the contents of several Exif segments, as Pillow does, and takes the last one of XMP.
func metadataOfJPEG(data []byte) (m metadata) {
	const app1, app2 = 0xe1, 0xe2
	var profiles [256][]byte // by number
	parts, of := 0, 0
	_ = jpeg.Application(data, func(marker uint8, content []byte) {
		if exif, ok := bytes.CutPrefix(content, []byte(exifPrefix)); ok && marker == app1 {
			m.exif = append(m.exif, exif...)
		}
		if xmp, ok := bytes.CutPrefix(content, []byte("http://ns.adobe.com/xap/1.0/\x00")); ok && marker == app1 {
			m.xmp = xmp
		}
		if part, ok := bytes.CutPrefix(content, []byte("ICC_PROFILE\x00")); ok && marker == app2 && len(part) > 2 {
			profiles[part[0]], parts, of = part[2:], parts+1, int(part[1])
		}
	})
	if parts == of {
		m.icc = bytes.Join(profiles[:], nil)
	}
	return m
}

// maxText bounds a compressed text of a PNG, as Pillow does, and a colour profile.
const maxText = 1 << 20

// metadataOfPNG reads the chunk eXIf and the texts that are used in its place, before the pixels and after them.
func metadataOfPNG(data []byte) (m metadata) {
	r := pieces{rest: data[len(pngSignature):]}
	var profile []byte // of ImageMagick
	seen := map[string]bool{}
	for {
		name, size, ok := r.pngHead()
		if !ok {
			break
		}
		chunk, ok := r.next(size)
		if !ok {
			break
		}
		r.next(4) // checksum
		switch name {
		case "eXIf":
			m.exif = chunk
		case "IEND":
			r.rest = nil
		case "iCCP":
			if _, rest, ok := bytes.Cut(chunk, []byte{0}); ok && len(rest) > 1 && m.icc == nil {
				m.icc = inflated(rest[1:])
			}
		case "tEXt", "zTXt", "iTXt":
			key, _, _ := bytes.Cut(chunk, []byte{0})
			switch k := string(key); {
			case k == "exif" && name == "tEXt":
				m.exif = pngText(name, chunk)
			case k == keyRawProfile && !seen[k]: // the first ones: each may be a megabyte
				profile, seen[k] = pngText(name, chunk), true
			case k == keyXMP && !seen[k]:
				m.xmp, seen[k] = pngText(name, chunk), true
			}
		}
	}
	if m.exif == nil {
		m.exif = rawProfile(profile)
	}
	return m
}

// Keywords of texts that are used in the place of a chunk.
const (
	keyRawProfile = "Raw profile type exif" // ImageMagick's
	keyXMP        = "XML:com.adobe.xmp"
)

// pngText returns the text of a chunk (W3C PNG, third edition, 11.3.3).
func pngText(chunk string, content []byte) []byte {
	_, text, ok := bytes.Cut(content, []byte{0})
	switch {
	case !ok:
		return nil
	case chunk == "zTXt":
		if len(text) == 0 || text[0] != 0 {
			return nil
		}
		return inflated(text[1:])
	case chunk == "iTXt":
		if len(text) < 2 {
			return nil
		}
		compressed, method, rest := text[0] != 0, text[1], text[2:]
		parts := bytes.SplitN(rest, []byte{0}, 3) // language, keyword in it, text
		switch {
		case len(parts) < 3 || compressed && method != 0:
			return nil
		case compressed:
			return inflated(parts[2])
		}
		return parts[2]
	}
	return text
}

// inflated decompresses data, or returns nil if they are damaged or too large.
func inflated(data []byte) []byte {
	z, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(io.LimitReader(z, maxText+1))
	if err != nil || len(out) > maxText {
		return nil
	}
	return out
}

// rawProfile reads a profile that ImageMagick has written as a text: an empty line, its name, its length, and hex digits.
func rawProfile(text []byte) []byte {
	const head = 3 // lines
	if len(text) > 2*maxText {
		return nil
	}
	lines := strings.SplitN(string(text), "\n", head+1)
	if len(lines) <= head {
		return nil
	}
	digits := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, lines[head])
	profile, err := hex.DecodeString(digits)
	if err != nil {
		return nil
	}
	return profile
}

// metadataOfWebP reads the chunks that the first one announces (RFC 9649, section 2.7).
func metadataOfWebP(data []byte) (m metadata) {
	const header, hasICC, hasEXIF, hasXMP = 12, 1 << 5, 1 << 3, 1 << 2
	r := pieces{rest: data[header:]}
	name, chunk, err := r.chunk()
	if err != nil || name != "VP8X" || len(chunk) == 0 {
		return m
	}
	flags := chunk[0]
	take := func(to *[]byte, flag byte) {
		if *to == nil && flags&flag != 0 {
			*to = chunk
		}
	}
	for {
		if name, chunk, err = r.chunk(); err != nil {
			return m
		}
		switch name {
		case "EXIF":
			take(&m.exif, hasEXIF)
		case "XMP ":
			take(&m.xmp, hasXMP)
		case "ICCP":
			take(&m.icc, hasICC)
		}
	}
}

// metadataOfTIFF reads the colour profile alone: pixels are turned by the orientation when they are decoded.
func metadataOfTIFF(data []byte) (m metadata) {
	const tagICC = 34675
	order, entries := directory(data)
	for _, e := range entries {
		if order.Uint16(e) == tagICC {
			m.icc = valueOf(data, order, e, 1)
		}
	}
	return m
}

// directory returns the entries of the first directory of a TIFF, of 12 bytes each, and its order of bytes.
func directory(data []byte) (order binary.ByteOrder, entries [][]byte) {
	const size = 12
	if len(data) < 8 {
		return nil, nil
	}
	switch string(data[:4]) {
	case "II*\x00", "II\x00*": // the second is a mistake that Pillow forgives
		order = binary.LittleEndian
	case "MM\x00*", "MM*\x00":
		order = binary.BigEndian
	default:
		return nil, nil
	}
	start := uint64(order.Uint32(data[4:]))
	if start+2 > uint64(len(data)) {
		return nil, nil
	}
	r := pieces{rest: data[start+2:]}
	for range order.Uint16(data[start:]) {
		e, ok := r.next(size)
		if !ok {
			break
		}
		entries = append(entries, e)
	}
	return order, entries
}

// valueOf returns the bytes of an entry's values, unit bytes each, nil if they lie beyond the end.
func valueOf(data []byte, order binary.ByteOrder, entry []byte, unit uint64) []byte {
	size := uint64(order.Uint32(entry[4:])) * unit
	if size <= 4 {
		return entry[8 : 8+size]
	}
	at := uint64(order.Uint32(entry[8:]))
	if at+size > uint64(len(data)) {
		return nil
	}
	return data[at : at+size]
}

// xmpOrientation is where XMP has the orientation, by Pillow's pattern.
var xmpOrientation = regexp.MustCompile(`tiff:Orientation(?:="|>)([0-9])`)

// orientation returns how the picture has to be turned to stand upright, by EXIF's values 1 to 8, as Pillow's
// ImageOps.exif_transpose does it. It is 1 where the file says nothing, or nothing sensible.
func (m metadata) orientation() int {
	if o, known := exifOrientation(m.exif); known {
		return o
	}
	if found := xmpOrientation.FindSubmatch(m.xmp); found != nil {
		return sensible(int(found[1][0] - '0'))
	}
	return 1
}

func sensible(orientation int) int {
	if orientation < 1 || orientation > 8 {
		return 1
	}
	return orientation
}

// exifOrientation reads the tag Orientation (EXIF 2.32, 4.6.4), which writers give any type of number. Tags from one on whose
// values lie beyond the end are not read, as by Pillow. known is false if there is none, be its value sensible or not.
func exifOrientation(exif []byte) (_ int, known bool) {
	for range 2 { // in PNG and WebP some writers keep the prefix, and others write one of their own
		exif = bytes.TrimPrefix(exif, []byte(exifPrefix))
	}
	order, entries := directory(exif)
	total := uint64(0) // bytes outside of entries
	for _, e := range entries {
		unit, known := exifUnits[order.Uint16(e[2:])]
		if !known {
			continue
		}
		if size := uint64(order.Uint32(e[4:])) * unit; size > 4 {
			if total += size; total > uint64(len(exif)) {
				continue
			}
		}
		v := valueOf(exif, order, e, unit)
		if v == nil {
			return 1, false
		}
		if order.Uint16(e) == tagOrientation && len(v) > 0 {
			return sensible(exifNumber(order, order.Uint16(e[2:]), v)), true
		}
	}
	return 1, false
}

// exifUnits are the sizes of a value of each type of TIFF, in bytes.
var exifUnits = map[uint16]uint64{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}

// exifNumber returns the first of some values if it is a whole number, else 0. Bytes and text are no numbers to Pillow.
func exifNumber(order binary.ByteOrder, kind uint16, v []byte) int {
	var n float64
	switch kind {
	case 3:
		n = float64(order.Uint16(v))
	case 8:
		n = float64(int16(order.Uint16(v)))
	case 4, 13:
		n = float64(order.Uint32(v))
	case 9:
		n = float64(int32(order.Uint32(v)))
	case 6:
		n = float64(int8(v[0]))
	case 5:
		n = float64(order.Uint32(v)) / float64(order.Uint32(v[4:]))
	case 10:
		n = float64(int32(order.Uint32(v))) / float64(int32(order.Uint32(v[4:])))
	case 11:
		n = float64(math.Float32frombits(order.Uint32(v)))
	case 12:
		n = math.Float64frombits(order.Uint64(v))
	case 16:
		n = float64(order.Uint64(v))
	}
	if n != math.Trunc(n) || n < 1 || n > 8 {
		return 0
	}
	return int(n)
}
