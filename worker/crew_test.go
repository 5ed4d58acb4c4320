package worker

import (
	"runtime"
	"strings"
	"sync"
	"testing"
)

// number is that of the goroutine that calls it.
func number() string {
	buf := make([]byte, 64)
	return strings.Fields(string(buf[:runtime.Stack(buf, false)]))[1]
}

// TestCrew runs functions one after the other, and many at once: goroutines that are idle are used again, and end with the crew. What
// runs then goes on.
func TestCrew(t *testing.T) {
	t.Parallel()
	var c crew
	done := make(chan string)
	idle := func() {
		for n := 0; n == 0; runtime.Gosched() {
			c.mu.Lock()
			n = len(c.idle)
			c.mu.Unlock()
		}
	}
	c.run(func() { done <- number() })
	first := <-done
	for range 10 {
		idle()
		c.run(func() { done <- number() })
		if got := <-done; got != first {
			t.Errorf("got goroutine %s, want %s again", got, first)
		}
	}
	const many = 3 * mostIdle
	var all sync.WaitGroup
	all.Add(many)
	enough := make(chan struct{})
	for range many {
		c.run(func() {
			all.Done()
			<-enough
		})
	}
	all.Wait() // at once
	close(enough)
	last := make(chan struct{})
	c.run(func() { <-last })
	c.end()
	if len(c.idle) > 0 {
		t.Errorf("got %d idle goroutines of a crew that has ended", len(c.idle))
	}
	close(last)
	c.run(func() { done <- number() }) // as of a job that ends late
	<-done
}
