package violence

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/jpeg" // previews
	"image/png"
	"math/rand/v2"

	"onceover/phash"
)

// A picture has 8 x 8 blocks of 8 x 8 pixels, as JPEG has. The first 24 blocks are
// black or white, the bits of its number and of a check; the rest are random greys,
// so that all pictures have different hashes. Some noise keeps the hashes from being
// degenerate, as half of the frequencies would be 0 without.
const (
	blocks      = 8
	blockSize   = 8
	numberBits  = 16
	checkBits   = 8
	maxPictures = 1 << numberBits
)

func checkOf(number int) int { return (number*40503 + 77) >> 5 & (1<<checkBits - 1) }

// album draws pictures, no two with the same hash.
type album struct {
	seed uint64
	seen map[phash.Hash]bool
}

func (a *album) draw(number int) ([]byte, error) {
	for salt := range uint64(100) {
		data, err := drawPicture(number, rand.New(rand.NewPCG(a.seed, uint64(number)<<8|salt)))
		if err != nil {
			return nil, err
		}
		h, err := phash.Sum(data)
		if err != nil {
			return nil, fmt.Errorf("hash picture %d: %w", number, err)
		}
		if !h.Degenerate() && !a.seen[h] {
			a.seen[h] = true
			return data, nil
		}
	}
	return nil, fmt.Errorf("draw picture %d: no hash of its own in 100 tries", number)
}

func drawPicture(number int, rng *rand.Rand) ([]byte, error) {
	code := number<<checkBits | checkOf(number)
	img := image.NewGray(image.Rect(0, 0, blocks*blockSize, blocks*blockSize))
	for b := range blocks * blocks {
		grey := 30 + rng.IntN(180)
		if b < numberBits+checkBits {
			grey = 20 + 200*(code>>b&1)
		}
		for p := range blockSize * blockSize {
			img.SetGray(b%blocks*blockSize+p%blockSize, b/blocks*blockSize+p/blockSize, color.Gray{Y: uint8(grey + rng.IntN(20))})
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		return nil, fmt.Errorf("encode picture %d: %w", number, err)
	}
	return out.Bytes(), nil
}

// readNumber finds the number of a picture in its preview.
func readNumber(preview []byte) (int, error) {
	img, _, err := image.Decode(bytes.NewReader(preview))
	if err != nil {
		return 0, fmt.Errorf("decode preview: %w", err)
	}
	if img.Bounds() != image.Rect(0, 0, blocks*blockSize, blocks*blockSize) {
		return 0, fmt.Errorf("the preview is %v", img.Bounds())
	}
	code := 0
	for b := range numberBits + checkBits {
		centre := color.GrayModel.Convert(img.At(b%blocks*blockSize+blockSize/2, b/blocks*blockSize+blockSize/2))
		if centre.(color.Gray).Y >= 128 {
			code |= 1 << b
		}
	}
	number := code >> checkBits
	if code&(1<<checkBits-1) != checkOf(number) {
		return 0, errors.New("the preview shows no number")
	}
	return number, nil
}
