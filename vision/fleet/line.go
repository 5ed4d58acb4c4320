package fleet

import (
	"slices"
	"sync"
	"time"
)

// line is where the calls of an endpoint wait in this process: the higher priority first, then the earlier. The first
// asks Redis, and the others wait for it.
type line struct {
	mu      sync.Mutex
	waiting []*waiter
	first   *waiter // whose turn it is
	bytes   int     // of those that wait
	calls   int     // in flight of this process
}

// waiter is a call in the line.
type waiter struct {
	l        *line
	priority uint8
	user     string
	bytes    int
	aside    bool          // lets others go first for a moment
	turn     chan struct{} // has an element when it is the waiter's turn, or something has changed that it waits for
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

// leave leaves the line; begins says that the call begins.
func (w *waiter) leave(begins bool) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.l.waiting = slices.DeleteFunc(w.l.waiting, func(o *waiter) bool { return o == w })
	w.l.bytes -= w.bytes
	if begins {
		w.l.calls++
	}
	w.l.assign()
}

// ended notes that a call of this process has.
func (l *line) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls--
	if l.first != nil {
		l.first.poke()
	}
}

// assign gives the turn to the first one that is not aside. l.mu is held.
func (l *line) assign() {
	var first *waiter
	for _, w := range l.waiting {
		if !w.aside {
			first = w
			break
		}
	}
	if l.first == first {
		return
	}
	if l.first = first; first != nil {
		first.poke()
	}
}

// poke has the waiter look. It never blocks.
func (w *waiter) poke() {
	select {
	case w.turn <- struct{}{}:
	default:
	}
}

// has reports whether it is the waiter's turn, with fewer than most calls of this process in flight.
func (w *waiter) has(most int) bool {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	return w.l.first == w && w.l.calls < most
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

// len is how many wait.
func (l *line) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}
