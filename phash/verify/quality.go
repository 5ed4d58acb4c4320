package verify

// MinQuality is the least Quality of a picture that may answer another one, or be answered by
// another one's answer. Below it there is too little in a picture to compare: docs/near-duplicates.md
// says how it was chosen.
const MinQuality = 5

// Quality returns how much there is to compare in the picture, from 0 for a plain surface to 100:
// the sum of the differences of neighbours in 64 x 64 cells of luma, each in whole percents of the
// full range, divided by 90. It is the measure of PDQ, "The TMK+PDQF Video-Hashing Algorithm and the
// PDQ Image-Hashing Algorithm" (Facebook, 2019).
func (v *View) Quality() int {
	p := v.planes().coarse
	n, sum := p.side, 0
	for y := range n {
		for x := range n {
			here := p.pix[y*n+x]
			if x > 0 {
				sum += percents(here - p.pix[y*n+x-1])
			}
			if y > 0 {
				sum += percents(here - p.pix[(y-1)*n+x])
			}
		}
	}
	return min(sum/90, 100)
}

// Poor reports whether there is too little to compare in the picture of the signature.
func (s *Signature) Poor() bool { return s.View().Quality() < MinQuality }

// percents returns a difference of luma in whole percents of the range, rounded towards 0.
func percents(difference float32) int {
	if difference < 0 {
		difference = -difference
	}
	return int(difference * 100 / 255)
}
