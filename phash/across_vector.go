//go:build amd64 || arm64

package phash

// prepare makes ready for narrow.
func (p *widthPlan) prepare() {
	if vector {
		p.prepareVector()
	}
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
func (p *widthPlan) prepareVector() {
	f := p.filter
	for _, w := range f.weight {
		p.blocks = max(p.blocks, (len(w)+blockTaps-1)/blockTaps)
	}
	size := blockTaps * p.blocks
	p.weights = make([]uint8, p.blocks*blockSize*side)
	for i, weights := range f.weight {
		start := max(min(f.start[i], p.width-size), 0) // blocks may not go past the row
		p.start[i] = int32(start)
		blocks := p.weights[p.blocks*blockSize*i:]
		for j, w := range weights {
			at := f.start[i] - start + j
			put(blocks[at/blockTaps*blockSize:], at%blockTaps, w)
		}
		f.weight[i] = nil
	}
	p.room = max(p.width, size)
}

//go:noescape
func narrowVector(sums *[2][side]int32, row0, row1 *uint8, start *[side]int32, weights *uint8, blocks int)
