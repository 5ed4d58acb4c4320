package loadtest

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"runtime"

	"golang.org/x/image/draw"
	"golang.org/x/sync/errgroup"

	"onceover/cache"
	"onceover/phash"
	"onceover/phash/verify"
)

// maxTries is how many pictures are drawn for one that a near copy can be made of.
const maxTries = 20

// album draws pictures of coloured shapes with a little noise, each from its number: the same for a seed, and none like another.
type album struct {
	seed uint64
	side int // of the longer side, in pixels
}

// draw returns picture i; try gives another one in its place.
func (a album) draw(i, try int) *image.RGBA {
	rng := rand.New(rand.NewPCG(a.seed, uint64(i)<<8|uint64(try)))
	w, h := a.side, max(1, a.side*3/4)
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	shade := func() color.RGBA {
		return color.RGBA{uint8(rng.IntN(256)), uint8(rng.IntN(256)), uint8(rng.IntN(256)), 255}
	}
	draw.Draw(img, img.Bounds(), image.NewUniform(shade()), image.Point{}, draw.Src)
	for range 24 {
		corner := image.Pt(rng.IntN(w)-w/8, rng.IntN(h)-h/8)
		size := image.Pt(w/20+rng.IntN(w/3+1), h/20+rng.IntN(h/3+1))
		draw.Draw(img, image.Rectangle{corner, corner.Add(size)}, image.NewUniform(shade()), image.Point{}, draw.Src)
	}
	for p := 0; p < len(img.Pix); p += 4 { // what a camera adds
		n := int(rng.Uint64() % 9)
		for c := range 3 {
			img.Pix[p+c] = uint8(max(0, min(255, int(img.Pix[p+c])+n-4)))
		}
	}
	return img
}

func encode(img image.Image, quality int) ([]byte, error) {
	var out bytes.Buffer
	if err := jpeg.Encode(&out, img, &jpeg.Options{Quality: quality}); err != nil {
		return nil, fmt.Errorf("encode a picture: %w", err)
	}
	return out.Bytes(), nil
}

// one draws picture i as a file.
func (a album) one(i int) ([]byte, error) { return encode(a.draw(i, 0), 85) }

// pair draws picture i, and a copy that shows the same to the cache, with a hash that is 1 to radius bits off.
func (a album) pair(i, radius int) (original, copied []byte, err error) {
	rule := cache.DefaultConfig()
	for try := range maxTries {
		img := a.draw(i, try)
		if original, err = encode(img, 85); err != nil {
			return nil, nil, err
		}
		first, err := phash.LookAt(original, phash.AcrossFirst)
		if err != nil {
			return nil, nil, fmt.Errorf("look at a picture: %w", err)
		}
		signature := verify.Of(first).Signature()
		for _, part := range []int{7, 6, 8, 5, 9} { // tenths of its sides
			small := image.NewRGBA(image.Rect(0, 0, max(1, img.Rect.Dx()*part/10), max(1, img.Rect.Dy()*part/10)))
			draw.CatmullRom.Scale(small, small.Bounds(), img, img.Bounds(), draw.Src, nil)
			if copied, err = encode(small, 75); err != nil {
				return nil, nil, err
			}
			other, err := phash.LookAt(copied, phash.AcrossFirst)
			if err != nil {
				return nil, nil, fmt.Errorf("look at a copy: %w", err)
			}
			if d := first.Hash.Distance(other.Hash); d >= 1 && d <= radius && rule.Matches(verify.Of(other), signature) {
				return original, copied, nil
			}
		}
	}
	return nil, nil, fmt.Errorf("of %d pictures with %d pixels a side no copy is near, with a hash 1 to %d bits off: expected larger pictures or a larger radius", maxTries, a.side, radius)
}

// parallel calls f with 0 to n-1, on all cores.
func parallel(ctx context.Context, n int, f func(int) error) error {
	g, failed := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		if failed.Err() != nil {
			break
		}
		g.Go(func() error { return f(i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}
