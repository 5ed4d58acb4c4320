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

	// For narrowVector: the weights of each output position in blocks of 16, in the form that the processor's version takes, as many
	// blocks for each, and the input positions they begin with.
	blocks  int
	start   [side]int32
	weights []uint8
}

func newNarrower(width int, give func(row *[side]uint8)) *narrower {
	n := &narrower{width: width, filter: lanczos(width), give: give}
	if n.filter == nil {
		return n
	}
	room := n.prepare()
	for i := range n.rows {
		n.rows[i] = make([]uint8, room)
	}
	return n
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
	n.narrow()
	for _, sums := range n.sums[:n.count] {
		var row [side]uint8
		for i, sum := range sums {
			row[i] = round(sum)
		}
		n.give(&row)
	}
	n.count = 0
}

func (n *narrower) prepareGo() (room int) {
	n.pairs = make([]int64, n.width)
	return n.width
}

// narrowGo computes the sums with one multiplication for both rows.
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
