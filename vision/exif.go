package vision

import (
	"bytes"
	"encoding/binary"
)

// orientation returns the EXIF orientation of an image file, 1 to 8, read from JPEG, PNG, WebP and TIFF.
// It is 1 (upright) wherever the file says nothing, or nothing sensible: metadata is a hint, and a picture
// with damaged metadata is still a picture.
func orientation(file []byte) int {
	switch {
	case bytes.HasPrefix(file, []byte("\xff\xd8")):
		return tiffOrientation(jpegExif(file))
	case bytes.HasPrefix(file, []byte("\x89PNG\r\n\x1a\n")):
		return tiffOrientation(pngExif(file))
	case bytes.HasPrefix(file, []byte("RIFF")):
		return tiffOrientation(webpExif(file))
	default:
		return tiffOrientation(file)
	}
}

// jpegExif returns the TIFF block of the first Exif segment (APP1), or nil.
// Layout: ISO/IEC 10918-1 annex B (markers), EXIF 2.32 section 4.7.2 (APP1).
func jpegExif(file []byte) []byte {
	const sos, eoi, app1 = 0xda, 0xd9, 0xe1
	for p := file[2:]; len(p) >= 4 && p[0] == 0xff; {
		marker := p[1]
		if marker == 0xff { // a fill byte before the marker
			p = p[1:]
			continue
		}
		if marker == sos || marker == eoi {
			return nil
		}
		n := int(binary.BigEndian.Uint16(p[2:])) // counts itself, not the marker
		if n < 2 || 2+n > len(p) {
			return nil
		}
		if block, ok := bytes.CutPrefix(p[4:2+n], []byte("Exif\x00\x00")); ok && marker == app1 {
			return block
		}
		p = p[2+n:]
	}
	return nil
}

// pngExif returns the content of the eXIf chunk, or nil. Layout: PNG, third edition, sections 5.3 and 11.3.4.5.
func pngExif(file []byte) []byte {
	for p := file[8:]; len(p) >= 12; {
		n := binary.BigEndian.Uint32(p)
		if uint64(n)+12 > uint64(len(p)) {
			return nil
		}
		if string(p[4:8]) == "eXIf" {
			return p[8 : 8+n]
		}
		p = p[12+n:]
	}
	return nil
}

// webpExif returns the content of the EXIF chunk, or nil. Layout: RFC 9649 section 2.7.
func webpExif(file []byte) []byte {
	if len(file) < 12 || string(file[8:12]) != "WEBP" {
		return nil
	}
	for p := file[12:]; len(p) >= 8; {
		n := uint64(binary.LittleEndian.Uint32(p[4:]))
		padded := n + n%2
		if 8+padded > uint64(len(p)) {
			return nil
		}
		if string(p[:4]) == "EXIF" {
			// Some writers keep the prefix that the block has in JPEG.
			return bytes.TrimPrefix(p[8:8+n], []byte("Exif\x00\x00"))
		}
		p = p[8+padded:]
	}
	return nil
}

// tiffOrientation reads tag 0x0112 of the first directory of a TIFF block; 1 if it is absent or out of range.
// Layout: TIFF 6.0 section 2 and page 36.
func tiffOrientation(b []byte) int {
	const tagOrientation, typeShort, entrySize = 0x0112, 3, 12
	if len(b) < 8 {
		return 1
	}
	var order binary.ByteOrder
	switch string(b[:4]) {
	case "II*\x00":
		order = binary.LittleEndian
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 1
	}
	offset := uint64(order.Uint32(b[4:]))
	if offset+2 > uint64(len(b)) {
		return 1
	}
	count := int(order.Uint16(b[offset:]))
	for p := b[offset+2:]; count > 0 && len(p) >= entrySize; count, p = count-1, p[entrySize:] {
		if order.Uint16(p) != tagOrientation {
			continue
		}
		if v := order.Uint16(p[8:]); order.Uint16(p[2:]) == typeShort && v >= 1 && v <= 8 {
			return int(v)
		}
		return 1
	}
	return 1
}
