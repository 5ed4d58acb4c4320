// Package verifytest makes views for tests that are about hashes and not about pictures.
package verifytest

import (
	"math"

	"onceover/phash"
	"onceover/phash/verify"
)

// View returns the view of a picture of a hash. Its shapes are those of all pictures of the same scene, and so are its details.
func View(h phash.Hash, c phash.Colour, scene int) *verify.View {
	s := &verify.Signature{Hashes: verify.Hashes{Hash: h}}
	side := int(math.Sqrt(float64(len(s.Luma))))
	for i := range s.Luma {
		x, y := float64(i%side)/float64(side), float64(i/side)/float64(side)
		n := float64(scene)
		s.Luma[i] = uint8(128 + 50*math.Sin((9+7*n)*x+(4+5*n)*y) + 40*math.Sin((5+3*n)*x*x-13*y+2*n))
	}
	side = int(math.Sqrt(float64(len(s.Cb))))
	cells := int(math.Sqrt(float64(len(c) / 2)))
	for i := range s.Cb {
		at := i/side*cells/side*cells + i%side*cells/side
		s.Cb[i], s.Cr[i] = c[2*at], c[2*at+1]
	}
	return s.View()
}
