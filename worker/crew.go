package worker

import "sync"

// A crew runs functions on goroutines of which some wait for the next one: a new goroutine's stack would grow anew for each job, which
// took a tenth of a hit's time. The zero value is ready.
type crew struct {
	mu     sync.Mutex
	idle   []chan func()
	over   bool
	asleep sync.WaitGroup // those that are idle
}

// mostIdle is how many goroutines wait at most, with some KiB of stack each.
const mostIdle = 64

// run runs f on another goroutine. f must not panic.
func (c *crew) run(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		next := c.idle[n-1]
		c.idle[n-1] = nil
		c.idle = c.idle[:n-1]
		next <- f // it has room for one
		return
	}
	go c.work(f)
}

func (c *crew) work(f func()) {
	next := make(chan func(), 1)
	for f != nil && c.rest(f, next) {
		f = <-next
		c.asleep.Done()
	}
}

// rest runs f, and reports whether the goroutine is idle then.
func (c *crew) rest(f func(), next chan func()) bool {
	f()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || len(c.idle) == mostIdle {
		return false
	}
	c.asleep.Add(1)
	c.idle = append(c.idle, next)
	return true
}

// end ends the goroutines that are idle; others end with what they run.
func (c *crew) end() {
	c.mu.Lock()
	c.over = true
	for _, next := range c.idle {
		next <- nil
	}
	c.idle = nil
	c.mu.Unlock()
	c.asleep.Wait()
}
