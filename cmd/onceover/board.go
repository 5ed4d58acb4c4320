package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"onceover/progress"
)

// board shows the progress of jobs: a bar each on a terminal, else a line for
// each change. Safe for concurrent use.
type board struct {
	out    io.Writer
	bars   *mpb.Progress // nil when not on a terminal
	mu     sync.Mutex
	byName map[string]*boardLine
}

type boardLine struct {
	bar   *mpb.Bar
	mu    sync.Mutex
	stage string
}

func newBoard(out *os.File) *board {
	b := &board{out: out, byName: map[string]*boardLine{}}
	if isTerminal(out) {
		b.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(34), mpb.WithRefreshRate(30*time.Millisecond))
	}
	return b
}

// show draws an update of the job called name.
func (b *board) show(name string, u progress.Update) {
	if b.bars == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		text := u.Message
		if u.Error != "" {
			text += ": " + u.Error
		}
		fmt.Fprintf(b.out, "%-26s %3d%%  %-11s %s\n", name, u.Progress, u.Stage, text)
		return
	}
	l := b.line(name)
	l.mu.Lock()
	l.stage = u.Stage
	l.mu.Unlock()
	if u.Stage == stageFailed {
		l.bar.Abort(false)
		return
	}
	l.bar.SetCurrent(int64(u.Progress))
}

// stageFailed is the stage that package progress gives to a failed job.
const stageFailed = "failed"

func (b *board) line(name string) *boardLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.byName[name]
	if !ok {
		l = &boardLine{}
		l.bar = b.bars.AddBar(100,
			mpb.PrependDecorators(decor.Name(name, decor.WC{W: 26, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Any(func(decor.Statistics) string {
				l.mu.Lock()
				defer l.mu.Unlock()
				return "  " + l.stage
			}, decor.WC{W: 13, C: decor.DindentRight})))
		b.byName[name] = l
	}
	return l
}

// close leaves the bars as they are and stops drawing.
func (b *board) close() {
	if b.bars == nil {
		return
	}
	b.mu.Lock()
	for _, l := range b.byName {
		l.bar.Abort(false)
	}
	b.mu.Unlock()
	b.bars.Wait()
}
