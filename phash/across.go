package phash

// A narrower is the horizontal pass: it takes the rows of a picture and gives out rows of 64 pixels. It works on two rows at once,
// so that it lags behind by one.
type narrower struct {
	*widthPlan
	give  func(row *[side]uint8)
	rows  [2][]uint8 // the rows to do, with some bytes more
	count int        // how many of them there are
	sums  [2][side]int32
	row   [side]uint8 // that is given out
	pairs []int64     // for narrowGo: both rows in one, 32 bits for each
}

// A widthPlan is what narrowers of one width share. It does not change.
type widthPlan struct {
	width  int
	filter *filter // nil if rows have 64 pixels already
	room   int     // bytes of a row that are read

	// For narrowVector, which needs no weights of filter: those of each output position in blocks of 16, in the form that the
	// processor's version takes, as many blocks for each, and the input positions they begin with.
	blocks  int
	start   [side]int32
	weights []uint8
}

var keptPlans kept[widthPlan]

func newPlan(width int) *widthPlan {
	p := &widthPlan{width: width, filter: newLanczos(width), room: width}
	if p.filter != nil {
		p.prepare()
	}
	return p
}

func newNarrower(width int, give func(row *[side]uint8)) *narrower {
	n := &narrower{widthPlan: keptPlans.of(width, newPlan), give: give}
	if n.filter == nil {
		return n
	}
	for i := range n.rows {
		n.rows[i] = make([]uint8, n.room)
	}
	if n.weights == nil {
		n.pairs = make([]int64, width)
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
	for i := range n.sums[:n.count] {
		for x, sum := range n.sums[i] {
			n.row[x] = round(sum)
		}
		n.give(&n.row)
	}
	n.count = 0
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
