package jpeg

// codes is a Huffman table as a file gives it (T.81, annex C).
type codes struct {
	count  [17]uint8  // codes of each length
	symbol [256]uint8 // by length, then code
	dc, ac *table     // made from it on first use as such
}

// lookBits is the length of the longest codes that are looked up at once; the most frequent ones are shorter by far.
const lookBits = 10

// A table decodes symbols, and with them the values that follow most.
//
// An entry of value is indexed by the next lookBits bits, and holds in bits
//
//	0 to 4    how many bits code and value have, or the code alone if value is 0; 0 for codes of more than lookBits
//	8 to 11   the symbol's high half: the run of zeros before the value
//	12 to 15  the symbol's low half: how many bits the value has
//	16 to 31  the value, if it lies within the bits looked up, or 0
type table struct {
	value   [1 << lookBits]uint32
	maxCode [18]int32 // the last code of each length, -1 if there is none; of length 17 a sentinel
	offset  [18]int32 // what makes a code an index of symbol
	symbol  *[256]uint8
}

// forDC returns the table for differences of DC values, whose symbols are sizes of up to 15 bits.
func (c *codes) forDC() (*table, error) {
	if c == nil {
		return nil, damaged("scan without its Huffman table")
	}
	if c.dc == nil {
		n := 0
		for _, count := range c.count {
			n += int(count)
		}
		for _, s := range c.symbol[:n] {
			if s > 15 {
				return nil, damaged("Huffman table for DC values has the symbol %d", s)
			}
		}
		t, err := c.table()
		if err != nil {
			return nil, err
		}
		c.dc = t
	}
	return c.dc, nil
}

// forAC returns the table for AC coefficients.
func (c *codes) forAC() (*table, error) {
	if c == nil {
		return nil, damaged("scan without its Huffman table")
	}
	if c.ac == nil {
		t, err := c.table()
		if err != nil {
			return nil, err
		}
		c.ac = t
	}
	return c.ac, nil
}

func (c *codes) table() (*table, error) {
	t := &table{symbol: &c.symbol}
	code, n := int32(0), int32(0)
	for length := 1; length <= 16; length++ {
		count := int32(c.count[length])
		t.maxCode[length] = -1
		if count > 0 {
			t.offset[length] = n - code
			t.maxCode[length] = code + count - 1
		}
		if code+count >= 1<<length && count > 0 {
			return nil, damaged("Huffman table has more codes than there can be") // none may be all ones
		}
		if length <= lookBits {
			for i := range count {
				t.enter(uint32(code+i), length, c.symbol[n+i])
			}
		}
		n += count
		code = (code + count) << 1
	}
	t.maxCode[17] = 1<<31 - 1
	return t, nil
}

// enter fills the entries that begin with a code.
func (t *table) enter(code uint32, length int, symbol uint8) {
	run, size := uint32(symbol>>4), int(symbol&15)
	rest := lookBits - length // bits after the code
	first := code << rest
	for tail := range uint32(1) << rest {
		e := run<<8 | uint32(size)<<12 | uint32(length)
		if size > 0 && size <= rest {
			v := extend(uint64(tail)<<(64-rest), uint(size))
			e = uint32(v)<<16 | run<<8 | uint32(size)<<12 | uint32(length+size)
		}
		t.value[first+tail] = e
	}
}

// extend makes the signed value (T.81, F.2.2.1) of the first size bits, 1 to 15 of them.
func extend(bits uint64, size uint) int32 {
	v := int32(bits >> ((64 - size) & 63))
	positive := int32(int64(bits) >> 63) // all ones if the first bit is one
	return v - (int32(1)<<(size&31)-1)&^positive
}

// installStandardTables puts the tables of T.81, annex K.3, where the file has none up to its first scan: Motion JPEG leaves them
// out. libjpeg-turbo does so for sequential files.
func (d *decoder) installStandardTables() {
	if d.progressive {
		return
	}
	for i := range 2 {
		if d.dc[i] == nil {
			d.dc[i] = standard(standardDC[i][:])
		}
		if d.ac[i] == nil {
			d.ac[i] = standard([]byte(standardAC[i]))
		}
	}
}

func standard(s []byte) *codes {
	c := new(codes)
	copy(c.count[1:], s[:16])
	copy(c.symbol[:], s[16:])
	return c
}

// Tables K.3 and K.4: how many codes there are of each length, then the symbols.
var standardDC = [2][28]byte{
	{0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
	{0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
}

// Tables K.5 and K.6, in the same form.
var standardAC = [2]string{
	"" +
		"\x00\x02\x01\x03\x03\x02\x04\x03\x05\x05\x04\x04\x00\x00\x01\x7d" +
		"\x01\x02\x03\x00\x04\x11\x05\x12\x21\x31\x41\x06\x13\x51\x61\x07\x22\x71\x14\x32\x81\x91\xa1\x08" +
		"\x23\x42\xb1\xc1\x15\x52\xd1\xf0\x24\x33\x62\x72\x82\x09\x0a\x16\x17\x18\x19\x1a\x25\x26\x27\x28" +
		"\x29\x2a\x34\x35\x36\x37\x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58\x59" +
		"\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74\x75\x76\x77\x78\x79\x7a\x83\x84\x85\x86\x87\x88\x89" +
		"\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4\xb5\xb6" +
		"\xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xe1\xe2" +
		"\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
	"" +
		"\x00\x02\x01\x02\x04\x04\x03\x04\x07\x05\x04\x04\x00\x01\x02\x77" +
		"\x00\x01\x02\x03\x11\x04\x05\x21\x31\x06\x12\x41\x51\x07\x61\x71\x13\x22\x32\x81\x08\x14\x42\x91" +
		"\xa1\xb1\xc1\x09\x23\x33\x52\xf0\x15\x62\x72\xd1\x0a\x16\x24\x34\xe1\x25\xf1\x17\x18\x19\x1a\x26" +
		"\x27\x28\x29\x2a\x35\x36\x37\x38\x39\x3a\x43\x44\x45\x46\x47\x48\x49\x4a\x53\x54\x55\x56\x57\x58" +
		"\x59\x5a\x63\x64\x65\x66\x67\x68\x69\x6a\x73\x74\x75\x76\x77\x78\x79\x7a\x82\x83\x84\x85\x86\x87" +
		"\x88\x89\x8a\x92\x93\x94\x95\x96\x97\x98\x99\x9a\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xb2\xb3\xb4" +
		"\xb5\xb6\xb7\xb8\xb9\xba\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda" +
		"\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa",
}
