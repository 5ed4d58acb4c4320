package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
)

// slowly writes into a buffer, each time when it is let go on.
type slowly struct {
	bytes.Buffer
	begun, goOn chan struct{}
	writes      int
}

func (s *slowly) Write(p []byte) (int, error) {
	s.begun <- struct{}{}
	<-s.goOn
	s.writes++
	return s.Buffer.Write(p)
}

// TestJoinedLines has lines come while one is written: they go together, each whole, in the order in which each goroutine wrote its own.
func TestJoinedLines(t *testing.T) {
	t.Parallel()
	out := &slowly{begun: make(chan struct{}), goOn: make(chan struct{})}
	w := newJoined(out)
	var first, others sync.WaitGroup
	first.Go(func() { fmt.Fprintln(w, "first") })
	<-out.begun
	const writers, lines = 8, 50
	for n := range writers {
		others.Go(func() {
			for i := range lines {
				fmt.Fprintf(w, "%d %d\n", n, i)
			}
		})
	}
	others.Wait() // nobody waits for the file
	out.goOn <- struct{}{}
	first.Wait()
	<-out.begun
	out.goOn <- struct{}{}
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
	var next [writers]int
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if got[0] != "first" || len(got) != 1+writers*lines {
		t.Fatalf("got %d lines, the first %q", len(got), got[0])
	}
	for _, line := range got[1:] {
		var n, i int
		if _, err := fmt.Sscanf(line, "%d %d", &n, &i); err != nil || i != next[n] {
			t.Fatalf("got %q, want line %d of its writer", line, next[n])
		}
		next[n]++
	}
	if out.writes != 2 {
		t.Errorf("got %d writes, want 2", out.writes)
	}
}

// TestJoinedAlone has one line come: it is written when Write returns.
func TestJoinedAlone(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := newJoined(&out)
	for n := range 3 {
		fmt.Fprintln(w, n)
		if want := strings.Repeat("x\n", n+1); strings.Count(out.String(), "\n") != strings.Count(want, "\n") {
			t.Errorf("got %q after %d lines", out.String(), n+1)
		}
	}
}

func BenchmarkJoined(b *testing.B) {
	line := []byte(strings.Repeat("x", 400) + "\n")
	w := newJoined(io.Discard)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			_, _ = w.Write(line)
		}
	})
}
