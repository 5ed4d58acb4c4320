//go:build !amd64 && !arm64

package phash

// See across_vector.go.

func (p *widthPlan) prepare() {}

func (n *narrower) narrow() { n.narrowGo() }
