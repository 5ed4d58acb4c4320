//go:build amd64 || arm64

package phash

// prepare makes ready for narrow, and returns how many bytes of a row that reads.
func (n *narrower) prepare() (room int) {
	if !vector {
		return n.prepareGo()
	}
	return n.prepareVector()
}

// narrow computes the weighted sums of the two rows.
func (n *narrower) narrow() {
	if !vector {
		n.narrowGo()
		return
	}
	narrowVector(&n.sums, &n.rows[0][0], &n.rows[1][0], &n.start, &n.weights[0], n.blocks)
}

const (
	blockTaps = 16
	blockSize = 4 * blockTaps // bytes
)

// prepareVector makes blocks of the weights, and drops these.
func (n *narrower) prepareVector() (room int) {
	f := n.filter
	for _, w := range f.weight {
		n.blocks = max(n.blocks, (len(w)+blockTaps-1)/blockTaps)
	}
	size := blockTaps * n.blocks
	n.weights = make([]uint8, n.blocks*blockSize*side)
	for i, weights := range f.weight {
		start := max(min(f.start[i], n.width-size), 0) // blocks may not go past the row
		n.start[i] = int32(start)
		blocks := n.weights[n.blocks*blockSize*i:]
		for j, w := range weights {
			at := f.start[i] - start + j
			put(blocks[at/blockTaps*blockSize:], at%blockTaps, w)
		}
		f.weight[i] = nil
	}
	return max(n.width, size)
}

//go:noescape
func narrowVector(sums *[2][side]int32, row0, row1 *uint8, start *[side]int32, weights *uint8, blocks int)
