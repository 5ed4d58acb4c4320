package phash

// A cell is the stretch of samples along a side of a picture that one sample of a smaller one is the mean of. Weights add up to
// wholeCell.
type cell struct {
	first, last             int    // the same where the cell lies within a sample
	firstWeight, lastWeight uint64 // lastWeight is 0 where first and last are the same
	innerWeight             uint64 // of each sample between them
}

const (
	cellBits  = 24
	wholeCell = 1 << cellBits
)

// cellOf returns the cell from start to end, in samples of which there are n.
func cellOf(start, end float64, n int) cell {
	c := cell{first: min(int(start), n-1)}
	c.last = max(min(int(end), n-1), c.first)
	if float64(c.last) >= end { // end is the border between two samples
		c.last = max(c.last-1, c.first)
	}
	if c.first == c.last {
		c.firstWeight = wholeCell
		return c
	}
	each := wholeCell / (end - start)
	c.innerWeight = uint64(each)
	c.lastWeight = uint64((min(end, float64(c.last+1)) - float64(c.last)) * each)
	// What is lost by rounding goes here, so that the mean of equal samples is their value.
	c.firstWeight = wholeCell - c.lastWeight - c.innerWeight*uint64(c.last-c.first-1)
	return c
}

// evenly divides n samples among m cells.
func evenly(n, m int) []cell {
	cells := make([]cell, m)
	for i := range cells {
		cells[i] = cellOf(float64(i)*float64(n)/float64(m), float64(i+1)*float64(n)/float64(m), n)
	}
	return cells
}

// A shrinker takes the rows of a plane, or of several that lie side by side in each pixel, and writes the means of the areas that
// the samples of a smaller one cover. Weights have 24 fraction bits, and rows that are done across have 8.
type shrinker struct {
	channels int // 1 or 3
	wide     []cell
	tall     []cell
	row      []uint16 // the row under way, done across
	sums     []uint64 // of the row of out under way
	y        int      // that row
	out      []uint8
	stride   int
}

func newShrinker(wide, tall []cell, channels int, out []uint8, stride int) *shrinker {
	n := channels * len(wide)
	return &shrinker{channels: channels, wide: wide, tall: tall, row: make([]uint16, n), sums: make([]uint64, n), out: out, stride: stride}
}

// add takes row y; rows come in order, each once.
func (s *shrinker) add(y int, row []uint8) {
	if s.y == len(s.tall) {
		return
	}
	if s.channels == 1 {
		across1(s.row, row, s.wide)
	} else {
		across3(s.row, row, s.wide)
	}
	// A row may be the last of one cell and the first of the next, or within several.
	for s.y < len(s.tall) && s.tall[s.y].first <= y {
		c := &s.tall[s.y]
		weight := c.innerWeight
		switch y {
		case c.first:
			weight = c.firstWeight
		case c.last:
			weight = c.lastWeight
		}
		if c.first == c.last {
			for x, v := range s.row {
				s.out[s.y*s.stride+x] = uint8((uint32(v) + 1<<7) >> 8)
			}
			s.y++
			continue
		}
		for x, v := range s.row {
			s.sums[x] += weight * uint64(v)
		}
		if y < c.last {
			return
		}
		out := s.out[s.y*s.stride:]
		for x, sum := range s.sums {
			out[x] = uint8((sum + 1<<(cellBits+7)) >> (cellBits + 8))
		}
		clear(s.sums)
		s.y++
	}
}

// across1 writes the means of a row's cells, with 8 fraction bits.
func across1(dst []uint16, row []uint8, cells []cell) {
	dst = dst[:len(cells)]
	for i := range cells {
		c := &cells[i]
		if c.first == c.last {
			dst[i] = uint16(row[c.first]) << 8
			continue
		}
		inner := uint64(0)
		for _, v := range row[c.first+1 : c.last] {
			inner += uint64(v)
		}
		sum := c.firstWeight*uint64(row[c.first]) + c.innerWeight*inner + c.lastWeight*uint64(row[c.last])
		dst[i] = uint16((sum + 1<<(cellBits-9)) >> (cellBits - 8))
	}
}

// across3 is across1 for three samples a pixel.
func across3(dst []uint16, row []uint8, cells []cell) {
	for i := range cells {
		c := &cells[i]
		to := dst[3*i : 3*i+3 : 3*i+3]
		f := row[3*c.first : 3*c.first+3 : 3*c.first+3]
		if c.first == c.last {
			to[0], to[1], to[2] = uint16(f[0])<<8, uint16(f[1])<<8, uint16(f[2])<<8
			continue
		}
		var r, g, b uint64
		for in := row[3*c.first+3 : 3*c.last]; len(in) >= 3; in = in[3:] {
			r += uint64(in[0])
			g += uint64(in[1])
			b += uint64(in[2])
		}
		l := row[3*c.last : 3*c.last+3 : 3*c.last+3]
		mean := func(first uint8, inner uint64, last uint8) uint16 {
			sum := c.firstWeight*uint64(first) + c.innerWeight*inner + c.lastWeight*uint64(last)
			return uint16((sum + 1<<(cellBits-9)) >> (cellBits - 8))
		}
		to[0], to[1], to[2] = mean(f[0], r, l[0]), mean(f[1], g, l[1]), mean(f[2], b, l[2])
	}
}
