package violence

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// tally counts what is done, and collects what is not as promised. Safe for
// concurrent use.
type tally struct {
	log   io.Writer
	began time.Time

	mu      sync.Mutex
	acts    map[string]int
	crashes map[string]int // by crash point
	faults  []string
}

func newTally(log io.Writer) *tally {
	return &tally{log: log, began: time.Now(), acts: map[string]int{}, crashes: map[string]int{}}
}

// say logs a line with the time.
func (t *tally) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.log, "%s %6.1fs  %s\n", time.Now().Format("15:04:05"), time.Since(t.began).Seconds(), fmt.Sprintf(format, args...))
}

func (t *tally) did(act string) { t.add(act, 1) }

func (t *tally) add(act string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acts[act] += n
}

func (t *tally) hit(point string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.crashes[point]++
}

func (t *tally) hits(point string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.crashes[point]
}

func (t *tally) count(act string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acts[act]
}

func (t *tally) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	t.say("FAULT: %s", text)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults = append(t.faults, text)
}

// list returns the counts of a map in the order of the names.
func list(m map[string]int) []Count {
	var out []Count
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, Count{name, m[name]})
	}
	return out
}
