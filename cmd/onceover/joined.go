package main

import (
	"io"
	"sync"
)

// joined writes the lines of many goroutines to one file. A line that comes while another one is written goes with all that have come by
// then: a busy worker would spend its time in the kernel otherwise. A line that comes alone is written before Write returns. It is a
// zapcore.WriteSyncer.
type joined struct {
	out io.Writer

	mu      sync.Mutex
	written sync.Cond
	waiting []byte
	spare   []byte // that was written, for the lines to come
	busy    bool
}

// mostWaiting is how many bytes of lines wait at most: beyond, their writers do.
const mostWaiting = 1 << 20

func newJoined(out io.Writer) *joined {
	w := &joined{out: out}
	w.written.L = &w.mu
	return w
}

// Write never fails: a log that cannot be written is nothing that a job can do something about.
func (w *joined) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy && len(w.waiting) > mostWaiting {
		w.written.Wait()
	}
	w.waiting = append(w.waiting, line...)
	if w.busy {
		return len(line), nil
	}
	w.busy = true
	if w.flush(); len(w.waiting) > 0 {
		go w.rest() // this goroutine has others to do; Sync waits for that one
	} else {
		w.busy = false
	}
	return len(line), nil
}

// rest writes until nothing is left.
func (w *joined) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) > 0 {
		w.flush()
	}
	w.busy = false
	w.written.Broadcast()
}

// flush writes what waits. w.mu is held, but while it writes.
func (w *joined) flush() {
	lines := w.waiting
	w.waiting, w.spare = w.spare[:0], nil
	w.mu.Unlock()
	_, _ = w.out.Write(lines)
	w.mu.Lock()
	if cap(lines) <= mostWaiting/16 {
		w.spare = lines
	}
	w.written.Broadcast()
}

// Sync waits until all lines are written.
func (w *joined) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy {
		w.written.Wait()
	}
	return nil
}
