package fleet

import (
	"slices"
	"sync"
	"time"
)

// line is where the calls of an endpoint wait in this process: the higher priority first, then the earlier. The first
// asks Redis, and the others wait for it. While the answer is yes time after time, the next ones ask beside it, as many
// calls that may begin would wait for as many round trips.
type line struct {
	mu      sync.Mutex
	waiting []*waiter
	bytes   int // of those that wait
	calls   int // in flight of this process
	asking  int // of those that wait
	yes     int // answers since the last no
	most    int // may ask at once
	last    answer
}

const (
	// mostAsking is how many of a line ask Redis at once at most.
	mostAsking = 16
	// yesPerAsking is how many times in a row the answer is yes before one more may ask.
	yesPerAsking = 4
)

// waiter is a call in the line.
type waiter struct {
	l        *line
	priority uint8
	user     string
	bytes    int
	aside    bool          // lets others go first for a moment
	first    bool          // may ask, as one of the first
	full     bool          // might have asked, but for the calls of this process
	turn     chan struct{} // has an element when it may ask, or something has changed that it waits for
}

// join gets in line, unless those that wait hold more than most bytes.
func (l *line) join(priority uint8, user string, bytes, most int) (w *waiter, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) > 0 && l.bytes+bytes > most {
		return nil, false
	}
	w = &waiter{l: l, priority: priority, user: user, bytes: bytes, turn: make(chan struct{}, 1)}
	at := slices.IndexFunc(l.waiting, func(o *waiter) bool { return o.priority < priority })
	if at < 0 {
		at = len(l.waiting)
	}
	l.waiting = slices.Insert(l.waiting, at, w)
	l.bytes += bytes
	l.assign()
	return w, true
}

// leave leaves the line.
func (w *waiter) leave() {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.l.waiting = slices.DeleteFunc(w.l.waiting, func(o *waiter) bool { return o == w })
	w.l.bytes -= w.bytes
	w.l.assign()
}

// ended notes that a call of this process has.
func (l *line) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls--
	for _, w := range l.waiting {
		if w.first {
			w.poke()
		}
	}
}

// assign lets the first ones ask that are not aside. l.mu is held.
func (l *line) assign() {
	n := min(1+l.yes/yesPerAsking, l.most)
	for _, w := range l.waiting {
		first := !w.aside && n > 0
		if first {
			n--
			if !w.first {
				w.poke()
			}
		}
		w.first = first
	}
}

// poke has the waiter look. It never blocks.
func (w *waiter) poke() {
	select {
	case w.turn <- struct{}{}:
	default:
	}
}

// begin reports whether the waiter is to ask now, which it is not if most calls of this process are in flight. If so,
// it calls answered.
func (w *waiter) begin(most int) bool {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.full = w.first && w.l.calls+w.l.asking >= most
	if !w.first || w.full {
		return false
	}
	w.l.asking++
	return true
}

// answered notes what Redis says to the waiter.
func (w *waiter) answered(a answer, err error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.l.asking--
	w.l.last = a
	if err == nil && a.what == "go" {
		w.l.calls++
		w.l.yes++
		return // it leaves
	}
	w.l.yes = 0
	w.l.assign()
	for _, o := range w.l.waiting {
		if o.first && o.full {
			o.poke()
		}
	}
}

// stepAside lets those of other users have the turn for a while: what keeps this call keeps all of its user.
func (w *waiter) stepAside(d time.Duration) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	var of []*waiter
	for _, o := range w.l.waiting {
		if o.user == w.user {
			o.aside = true
			of = append(of, o)
		}
	}
	time.AfterFunc(d, func() { // it may find them gone
		w.l.mu.Lock()
		defer w.l.mu.Unlock()
		for _, o := range of {
			o.aside = false
		}
		w.l.assign()
	})
	w.l.assign()
}

// heard is what Redis has said last: to one of those that wait, if there are any.
func (l *line) heard() answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// len is how many wait.
func (l *line) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}
