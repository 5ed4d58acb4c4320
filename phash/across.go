package phash

// A narrower is the horizontal pass: it takes the rows of a picture and gives out rows of 64 pixels. It works on two rows at once,
// so that it lags behind by one.
type narrower struct {
	width  int
	filter *filter // nil if rows have 64 pixels already
	give   func(row *[side]uint8)
	rows   [2][]uint8 // the rows to do, with some bytes more
	count  int        // how many of them there are
	sums   [2][side]int32

	// For narrowGo: both rows in one, 32 bits for each.
	pairs []int64

	// For narrowAVX2: the weights of each output position in blocks of 16, 16 high halves before 16 low halves, as many blocks
	// for each, and the input positions they begin with.
	blocks  int
	start   [side]int32
	weights []int16
}

func newNarrower(width int, give func(row *[side]uint8)) *narrower {
	n := &narrower{width: width, filter: lanczos(width), give: give}
	if n.filter == nil {
		return n
	}
	room := width
	if useAVX2 {
		n.cut()
		room = max(width, blockTaps*n.blocks)
	} else {
		n.pairs = make([]int64, width)
	}
	for i := range n.rows {
		n.rows[i] = make([]uint8, room)
	}
	return n
}

const blockTaps = 16

// cut makes blocks of the weights, and drops these. A weight is 65536 times its high half plus its low half, both with sign.
func (n *narrower) cut() {
	f := n.filter
	for _, w := range f.weight {
		n.blocks = max(n.blocks, (len(w)+blockTaps-1)/blockTaps)
	}
	size := blockTaps * n.blocks
	n.weights = make([]int16, 2*size*side)
	for i, weights := range f.weight {
		start := max(min(f.start[i], n.width-size), 0) // blocks may not go past the row
		n.start[i] = int32(start)
		to := n.weights[2*size*i:]
		for j, w := range weights {
			at := f.start[i] - start + j
			at += at / blockTaps * blockTaps
			low := int16(w)
			to[at], to[at+blockTaps] = int16((w-int32(low))>>16), low
		}
		f.weight[i] = nil
	}
}

// take takes the next row.
func (n *narrower) take(row []uint8) {
	if n.filter == nil {
		n.give((*[side]uint8)(row))
		return
	}
	copy(n.rows[n.count], row)
	if n.count++; n.count == len(n.rows) {
		n.finish()
	}
}

// finish gives out what is left after the last row.
func (n *narrower) finish() {
	if n.count == 0 {
		return
	}
	if useAVX2 {
		narrowAVX2(&n.sums, &n.rows[0][0], &n.rows[1][0], &n.start, &n.weights[0], n.blocks)
	} else {
		n.narrowGo()
	}
	for _, sums := range n.sums[:n.count] {
		var row [side]uint8
		for i, sum := range sums {
			row[i] = round(sum)
		}
		n.give(&row)
	}
	n.count = 0
}

// narrowGo computes the weighted sums of two rows with one multiplication for both.
func (n *narrower) narrowGo() {
	a, b := n.rows[0][:n.width], n.rows[1][:n.width]
	for x, v := range a {
		n.pairs[x] = int64(v) | int64(b[x])<<32
	}
	for i, weights := range n.filter.weight {
		pairs := n.pairs[n.filter.start[i]:]
		pairs = pairs[:len(weights)]
		sum := int64(0)
		for j, w := range weights {
			sum += int64(w) * pairs[j]
		}
		n.sums[0][i] = int32(sum)
		n.sums[1][i] = int32((sum - int64(int32(sum))) >> 32)
	}
}
