package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"onceover/vision/eval"
)

// evalProgress shows how far an evaluation is: a bar on a terminal, else a line for each tenth. Safe for concurrent use.
type evalProgress struct {
	out  io.Writer
	bars *mpb.Progress // nil when not on a terminal
	bar  *mpb.Bar

	mu      sync.Mutex
	began   time.Time
	earlier int // pictures of earlier runs
	last    eval.Progress
	tenth   int // that a line was written of last
}

func newEvalProgress(out io.Writer, total int) *evalProgress {
	p := &evalProgress{out: out, began: time.Now(), earlier: -1, tenth: -1}
	if file, ok := out.(*os.File); !ok || !isTerminal(file) {
		return p
	}
	p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(30), mpb.WithRefreshRate(100*time.Millisecond))
	p.bar = p.bars.AddBar(int64(total), mpb.PrependDecorators(decor.CountersNoUnit("%d / %d ")), mpb.AppendDecorators(
		decor.Any(func(decor.Statistics) string { return "  " + p.text(time.Now()) })))
	return p
}

// text says what was found so far, and how long the rest will take.
func (p *evalProgress) text(now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf("%s right", number(p.last.Right))
	if p.last.CostMicroUSD > 0 {
		text += ", " + usd(p.last.CostMicroUSD)
	}
	if done, left := p.last.Done-p.earlier, p.last.Total-p.last.Done; p.last.Done > 0 && left > 0 {
		each := now.Sub(p.began) / time.Duration(done)
		text += fmt.Sprintf(", %v left", (each * time.Duration(left)).Round(time.Second))
	}
	return text
}

// show draws a step.
func (p *evalProgress) show(now eval.Progress) {
	p.mu.Lock()
	if p.last = now; p.earlier < 0 {
		p.earlier = now.Done - 1
	}
	tenth := 10 * now.Done / max(1, now.Total)
	line := p.bars == nil && tenth > p.tenth
	p.tenth = max(p.tenth, tenth)
	p.mu.Unlock()
	if p.bars != nil {
		p.bar.SetCurrent(int64(now.Done))
	} else if line {
		p.say(fmt.Sprintf("%s of %s: %s", number(now.Done), number(now.Total), p.text(time.Now())))
	}
}

// say writes a line beside the bar.
func (p *evalProgress) say(text string) {
	if p.bars != nil {
		_, _ = p.bars.Write([]byte(text + "\n")) // fails once the bar is gone, and so is the need
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, text)
}

// close takes the bar away.
func (p *evalProgress) close() {
	if p.bars != nil {
		p.bar.Abort(false)
		p.bars.Wait()
	}
}
