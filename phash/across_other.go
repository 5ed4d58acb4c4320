//go:build !amd64 && !arm64

package phash

// See across_vector.go.

func (n *narrower) prepare() (room int) { return n.prepareGo() }

func (n *narrower) narrow() { n.narrowGo() }
