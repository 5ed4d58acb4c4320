package phash

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// tiffBlock is the smallest TIFF block that carries an orientation, after as many other tags as given.
func tiffBlock(order binary.AppendByteOrder, orientation uint16, others int) []byte {
	b := []byte("II*\x00")
	if order == binary.AppendByteOrder(binary.BigEndian) {
		b = []byte("MM\x00*")
	}
	b = order.AppendUint32(b, 8)
	b = order.AppendUint16(b, uint16(others+1))
	for range others {
		b = append(order.AppendUint16(b, 0x0100), make([]byte, 10)...)
	}
	b = order.AppendUint16(b, 0x0112)
	b = order.AppendUint16(b, 3) // SHORT
	b = order.AppendUint32(b, 1)
	b = order.AppendUint16(b, orientation)
	return append(b, make([]byte, 6)...) // rest of the value, no next directory
}

// withExif inserts an APP1 segment after the SOI marker of a JPEG file.
func withExif(jpeg, tiff []byte) []byte {
	segment := binary.BigEndian.AppendUint16([]byte("\xff\xe1"), uint16(2+6+len(tiff)))
	segment = append(append(segment, "Exif\x00\x00"...), tiff...)
	return append(append(bytes.Clone(jpeg[:2]), segment...), jpeg[2:]...)
}

func pngChunk(name string, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	b = append(append(b, name...), data...)
	return append(b, 0, 0, 0, 0) // the checksum, which is not looked at
}

func webpChunk(name string, data []byte) []byte {
	b := append([]byte(name), binary.LittleEndian.AppendUint32(nil, uint32(len(data)))...)
	return append(append(b, data...), make([]byte, len(data)%2)...)
}

// formatOf is the format that a file says it has.
func formatOf(file []byte) string {
	format, _ := sniff(file)
	return format
}

func TestOrientation(t *testing.T) {
	t.Parallel()
	little, big := tiffBlock(binary.LittleEndian, 6, 0), tiffBlock(binary.BigEndian, 6, 3)
	jpegOf := func(tiff []byte) []byte { return withExif([]byte("\xff\xd8\xff\xda\x00\x02"), tiff) }
	edit := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	const signature = "\x89PNG\r\n\x1a\n"

	tests := []struct {
		name string
		file []byte
		want int
	}{
		{"jpeg, little endian", jpegOf(little), 6},
		{"jpeg, big endian, not the first tag", jpegOf(big), 6},
		{"jpeg, after JFIF and a fill byte", append([]byte("\xff\xd8\xff\xe0\x00\x04xx\xff"), jpegOf(little)[2:]...), 6},
		{"jpeg, after XMP in APP1", append([]byte("\xff\xd8\xff\xe1\x00\x06http"), jpegOf(little)[2:]...), 6},
		{"jpeg, behind the start of scan", append([]byte("\xff\xd8\xff\xda\x00\x02"), jpegOf(little)[2:]...), 1},
		{"jpeg without metadata", []byte("\xff\xd8\xff\xd9"), 1},
		{"jpeg, segment longer than the file", []byte("\xff\xd8\xff\xe1\xff\xffExif\x00\x00"), 1},
		{"jpeg, segment shorter than its length field", []byte("\xff\xd8\xff\xe1\x00\x01Exif\x00\x00"), 1},
		{"png", append([]byte(signature), append(pngChunk("IHDR", make([]byte, 13)), pngChunk("eXIf", big)...)...), 6},
		{"png, chunk longer than the file", append([]byte(signature), "\xff\xff\xff\xffeXIfxxxxxx"...), 1},
		{"webp", append([]byte("RIFF....WEBP"), append(webpChunk("VP8X", []byte("\x08123456789")), append(webpChunk("VP8 ", []byte("odd")), webpChunk("EXIF", little)...)...)...), 6},
		{"webp, with the prefix of JPEG", append([]byte("RIFF....WEBP"), append(webpChunk("VP8X", []byte("\x08123456789")), webpChunk("EXIF", append([]byte("Exif\x00\x00"), big...))...)...), 6},
		{"webp that announces no EXIF", append([]byte("RIFF....WEBP"), append(webpChunk("VP8X", []byte("\x00123456789")), webpChunk("EXIF", little)...)...), 1},
		{"webp without the chunk VP8X", append([]byte("RIFF....WEBP"), webpChunk("EXIF", little)...), 1},
		{"webp, chunk longer than the file", []byte("RIFF....WEBPEXIF\xff\xff\xff\xffxx"), 1},
		{"tiff, whose pixels are turned already", little, 1},
		{"value 0", jpegOf(tiffBlock(binary.BigEndian, 0, 0)), 1},
		{"value 9", jpegOf(tiffBlock(binary.BigEndian, 9, 0)), 1},
		{"value of type LONG", jpegOf(edit(little, 12, 4)), 6},
		{"value of type BYTE", jpegOf(edit(little, 12, 1)), 1},
		{"an empty segment first", append([]byte("\xff\xd8\xff\xe1\x00\x08Exif\x00\x00"), jpegOf(little)[2:]...), 6},
		{"cut in two", append([]byte("\xff\xd8\xff\xe1\x00\x0cExif\x00\x00II*\x00"), jpegOf(little[4:])[2:]...), 6},
		{"junk between segments", append([]byte("\xff\xd8\xff\xe0\x00\x04xxjunk"), jpegOf(little)[2:]...), 6},
		{"directory beyond the block", jpegOf(edit(little, 4, 0xff, 0xff, 0xff, 0xff)), 1},
		{"directory at the very end", jpegOf(edit(little, 4, byte(len(little)-2))), 1},
		{"directory claims more tags than there are", jpegOf(edit(tiffBlock(binary.LittleEndian, 6, 1), 8, 0xff, 0xff)), 6},
		{"neither byte order", jpegOf(edit(little, 0, 'X')), 1},
		{"empty", nil, 1},
		{"cut off", []byte("\xff\xd8\xff"), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := readMetadata(formatOf(tt.file), tt.file).orientation(); got != tt.want {
				t.Errorf("orientation: got %d, want %d", got, tt.want)
			}
		})
	}
}

func FuzzOrientation(f *testing.F) {
	block := tiffBlock(binary.LittleEndian, 6, 2)
	f.Add(block)
	f.Add(withExif([]byte("\xff\xd8\xff\xd9"), tiffBlock(binary.BigEndian, 8, 0)))
	f.Add(append([]byte(pngSignature), pngChunk("eXIf", block)...))
	f.Add(append([]byte("RIFF....WEBP"), webpChunk("EXIF", block)...))
	f.Fuzz(func(t *testing.T, file []byte) {
		if got := readMetadata(formatOf(file), file).orientation(); got < 1 || got > 8 {
			t.Errorf("orientation: got %d, want 1 to 8", got)
		}
	})
}
