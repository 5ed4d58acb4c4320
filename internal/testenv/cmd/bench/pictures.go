package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"onceover/phash"
	"onceover/vision"
)

// pictures measures CPU time from a file to its hash and to what the model is shown, beside Pillow and imagehash.
func pictures(ctx context.Context, b *bench, o options) ([]*table, error) {
	photo, err := drawPhoto(4000, 3000)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "photo.jpg")
	if err := os.WriteFile(file, photo, 0o600); err != nil {
		return nil, err
	}
	t := &table{title: "A photo of 12 megapixels", note: fmt.Sprintf("A JPEG of %.1f MB, from the file to its hash and to a JPEG of 1,024 pixels; CPU time in ms; least, median and most of 9.", float64(len(photo))/1e6),
		head: []string{"stage", "onceover", "Pillow and imagehash", "ours of theirs"}}
	var ours [3][]float64
	for range 9 {
		var look *phash.Look
		for i, f := range []func() error{
			func() error { _, err := phash.Sum(photo); return err },
			func() (err error) { look, err = phash.LookAt(photo, phash.AcrossFirst); return err },
			func() error { _, err := vision.PreviewOf(look); return err },
		} {
			before := cpuOfSelf()
			if err := f(); err != nil {
				return nil, err
			}
			ours[i] = append(ours[i], (cpuOfSelf()-before).Seconds()*1000)
		}
	}
	var theirs [3][]float64
	if b.python != "" {
		cmd := exec.CommandContext(ctx, b.python, "-c", pillowStages, file)
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("measure Pillow: %w", err)
		}
		if err := json.Unmarshal(out, &theirs); err != nil {
			return nil, err
		}
	}
	row := func(name string, a, b []float64) {
		cells := []string{name, spreadOver(a).text("%.0f"), "", ""}
		if len(b) > 0 {
			them := spreadOver(b)
			cells[2], cells[3] = them.text("%.0f"), fmt.Sprintf("%.2f", spreadOver(a)[1]/them[1])
		}
		t.add(cells...)
	}
	sums := func(all [3][]float64) (out []float64) {
		for i := range all[0] {
			out = append(out, all[1][i]+all[2][i])
		}
		return out
	}
	whole, pillow := sums(ours), sums(theirs)
	row("decode and hash", ours[0], theirs[0])
	row("decode once: hash, and 1,024 pixels", ours[1], theirs[1])
	row("encode those", ours[2], theirs[2])
	row("what a miss takes", whole, pillow)
	return []*table{t}, nil
}

// pillowStages prints the CPU times of each stage, in ms.
const pillowStages = `
import io, json, sys, time
import imagehash
from PIL import Image, ImageOps

data = open(sys.argv[1], "rb").read()
stages = [[], [], []]
for _ in range(9):
    t0 = time.process_time()
    imagehash.phash(Image.open(io.BytesIO(data)), hash_size=16)
    t1 = time.process_time()
    image = Image.open(io.BytesIO(data))
    image.load()
    imagehash.phash(image, hash_size=16)
    shown = ImageOps.exif_transpose(image).convert("RGB")
    shown.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    t2 = time.process_time()
    shown.save(io.BytesIO(), "JPEG", quality=85)
    t3 = time.process_time()
    for stage, took in zip(stages, (t1 - t0, t2 - t1, t3 - t2)):
        stage.append(took * 1000)
print(json.dumps(stages))
`

// cpuOfSelf is the CPU time of this process.
func cpuOfSelf() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// drawPhoto draws something with the detail of a photo: soft shapes, edges, and the noise of a camera.
func drawPhoto(w, h int) ([]byte, error) {
	rng := rand.New(rand.NewPCG(1, 2))
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	type wave struct{ fx, fy, phase, depth float64 }
	var waves [3][12]wave
	for c := range waves {
		for i := range waves[c] {
			scale := math.Pow(2, float64(i))
			waves[c][i] = wave{rng.NormFloat64() * scale, rng.NormFloat64() * scale, rng.Float64() * 7, 60 / math.Sqrt(scale)}
		}
	}
	sines := make([]float64, 4096)
	for i := range sines {
		sines[i] = math.Sin(2 * math.Pi * float64(i) / float64(len(sines)))
	}
	for y := range h {
		for x := range w {
			var p [3]uint8
			for c := range p {
				v := 128 + 4*rng.NormFloat64()
				for _, f := range waves[c] {
					at := f.fx*float64(x)/float64(w) + f.fy*float64(y)/float64(h) + f.phase
					v += f.depth * sines[int(at*float64(len(sines)))&(len(sines)-1)]
				}
				p[c] = uint8(max(0, min(255, v)))
			}
			img.SetRGBA(x, y, color.RGBA{p[0], p[1], p[2], 255})
		}
	}
	var out bytes.Buffer
	err := jpeg.Encode(&out, img, &jpeg.Options{Quality: 90})
	return out.Bytes(), err
}
