package progress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/redisretry"
)

// Event is an update of a job with its place among the job's updates.
type Event struct {
	Update
	// ID is that of an entry of a Redis stream, "" for an update that is in none, as one of a worker that writes none.
	ID string
	// Reset says that the updates between this one and the last that the listener had are not known any more.
	Reset bool
}

const (
	// streamLength is how many updates of a job are kept. A full run has up to 15, and each retry a few.
	streamLength = 64
	// keptEvents is how many of a job a feed holds while somebody listens.
	keptEvents = 2 * streamLength
	// rereadAfter is when a job is looked at although no message came: messages may be lost.
	rereadAfter = 15 * time.Second
	// pollEvery is how often a job is looked at whose updates are in no stream, or of which no messages come.
	pollEvery = time.Second
)

// Feed tells listeners of the updates of jobs as they are written. The updates are read from the stream of their job, and a message
// of Redis (PUBLISH) says that there are new ones. However many listen, it uses one connection for messages, and the store's for
// reading; those who listen to one job share each reading. Safe for concurrent use.
type Feed struct {
	store *Store

	mu     sync.Mutex
	topics map[string]*topic // by job id
	dirty  map[string]bool   // jobs whose subscription may have to change
	work   chan struct{}     // holds an element while there are any
}

// NewFeed returns a feed of the jobs of s. It tells of nothing new before [Feed.Run].
func NewFeed(s *Store) *Feed {
	return &Feed{store: s, topics: map[string]*topic{}, dirty: map[string]bool{}, work: make(chan struct{}, 1)}
}

// Run receives messages until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	sub := f.store.client.Subscribe(ctx)
	var receiving sync.WaitGroup
	receiving.Go(func() {
		for m := range sub.ChannelWithSubscriptions() {
			switch m := m.(type) {
			case *redis.Message:
				f.wake(m.Channel, false)
			case *redis.Subscription: // also after a connection was lost, when messages may be too
				if m.Kind == "subscribe" {
					f.wake(m.Channel, true)
				}
			}
		}
	})
	for ctx.Err() == nil {
		select {
		case <-f.work:
			add, remove := f.changes()
			// What fails is subscribed when the client has a connection again.
			if len(add) > 0 {
				_ = sub.Subscribe(ctx, add...)
			}
			if len(remove) > 0 {
				_ = sub.Unsubscribe(ctx, remove...)
			}
		case <-ctx.Done():
		}
	}
	sub.Close() // its connection is of no more use
	receiving.Wait()
}

// changes returns the channels to subscribe to and to leave.
func (f *Feed) changes() (add, remove []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for job := range f.dirty {
		switch t := f.topics[job]; {
		case t == nil:
			remove = append(remove, eventsKey(job))
		case !t.subscribed:
			t.subscribed = true
			add = append(add, eventsKey(job))
		}
	}
	clear(f.dirty)
	return add, remove
}

// change has Run look at the subscription of a job. f.mu is held.
func (f *Feed) change(job string) {
	f.dirty[job] = true
	select {
	case f.work <- struct{}{}:
	default:
	}
}

// wake notes that there may be new updates.
func (f *Feed) wake(channel string, subscribed bool) {
	job, ok := jobOfEvents(channel)
	if !ok {
		return
	}
	f.mu.Lock()
	t := f.topics[job]
	f.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.woken++
	t.heard, t.deaf = t.heard || subscribed, t.deaf && subscribed
	t.tell()
}

// topic is a job that somebody listens to.
type topic struct {
	job        string
	listeners  int  // guarded by Feed.mu, as is
	subscribed bool // whether its channel was subscribed to

	mu      sync.Mutex
	heard   bool // Redis has confirmed the subscription
	deaf    bool // updates came without a message: their writer may lack a right
	woken   int  // messages so far, the first for whoever listens first
	read    int  // of these, those that came before the last reading
	readAt  time.Time
	reading bool
	events  []Event // the newest, in their order
	shown   *Update // what is shown of the job
	changed chan struct{}
}

// tell lets all listeners look. t.mu is held.
func (t *topic) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// due is how long it is until the job has to be looked at. t.mu is held.
func (t *topic) due() time.Duration {
	if t.read < t.woken {
		return 0
	}
	every := rereadAfter
	if !t.heard || t.deaf || len(t.events) == 0 && t.shown != nil {
		every = pollEvery
	}
	return max(0, time.Until(t.readAt.Add(every)))
}

// Listener hears of the updates of one job. It is for one goroutine.
type Listener struct {
	feed  *Feed
	topic *topic
	begun bool
	last  string  // id of the last event
	shown *Update // the last update, where it has no id
}

// Listen returns a listener of a job. after is the id of the last event that it has had, and it hears all that came after that; "" for none,
// and it hears the newest one at first. The caller closes it.
func (f *Feed) Listen(jobID, after string) *Listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[jobID]
	if t == nil {
		t = &topic{job: jobID, woken: 1, changed: make(chan struct{})}
		f.topics[jobID] = t
		f.change(jobID)
	}
	t.listeners++
	return &Listener{feed: f, topic: t, last: after}
}

// Close ends listening.
func (l *Listener) Close() {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	if l.topic.listeners--; l.topic.listeners == 0 {
		delete(l.feed.topics, l.topic.job)
		l.feed.change(l.topic.job)
	}
}

// Next returns the events that are new, in their order, and waits until there are any. The error is why ctx ended, or that the job
// cannot be read; the listener can go on after it.
func (l *Listener) Next(ctx context.Context) ([]Event, error) {
	t := l.topic
	for {
		t.mu.Lock()
		for !t.reading && t.due() == 0 {
			if err := l.fetch(ctx); err != nil { // unlocks meanwhile
				t.mu.Unlock()
				return nil, ended(ctx, err)
			}
		}
		events, changed, wait := l.news(), t.changed, rereadAfter
		if !t.reading { // else whoever reads tells
			wait = t.due()
		}
		t.mu.Unlock()
		if len(events) > 0 {
			return events, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		timer.Stop()
	}
}

// ended returns why ctx ended, if it did while all was well, and else err.
func ended(ctx context.Context, err error) error {
	var away *redisretry.UnavailableError
	if ctx.Err() != nil && !errors.As(err, &away) {
		return context.Cause(ctx)
	}
	return err
}

// news are the events that the listener has not had. t.mu is held.
func (l *Listener) news() []Event {
	t := l.topic
	if t.read == 0 {
		return nil // nothing is known yet
	}
	if len(t.events) == 0 {
		if t.shown == nil || l.begun && l.shown != nil && *l.shown == *t.shown {
			return nil
		}
		e := Event{Update: *t.shown, Reset: l.last != ""}
		l.begun, l.shown, l.last = true, t.shown, ""
		return []Event{e}
	}
	newest := t.events[len(t.events)-1]
	i := slices.IndexFunc(t.events, func(e Event) bool { return e.ID == l.last })
	switch {
	case l.last == newest.ID:
		return nil
	case l.last != "" && i >= 0:
		l.begun, l.last = true, newest.ID
		return slices.Clone(t.events[i+1:])
	}
	// The first event of all, or what it has had is not known any more.
	newest.Reset = l.last != "" || l.begun && l.shown == nil
	l.begun, l.last, l.shown = true, newest.ID, nil
	return []Event{newest}
}

// fetch reads what is new of a job, for all who listen to it. t.mu is held, and released meanwhile.
func (l *Listener) fetch(ctx context.Context) error {
	t := l.topic
	t.reading = true
	seen, unasked, from := t.woken, t.heard && t.read == t.woken, "-"
	if n := len(t.events); n > 0 {
		from = t.events[n-1].ID
	}
	t.mu.Unlock()
	events, shown, err := l.feed.store.events(ctx, t.job, from)
	gap := err == nil && from != "-" && (len(events) == 0 || events[0].ID != from)
	if gap { // the last one that is known is gone, and others may be
		events, shown, err = l.feed.store.events(ctx, t.job, "-")
	}
	t.mu.Lock()
	t.reading = false
	defer t.tell()
	if err != nil {
		return err
	}
	switch {
	case gap:
		t.events = nil
	case from != "-":
		events = events[1:]
	}
	t.deaf = t.deaf || unasked && len(events) > 0 && t.woken == seen
	t.read, t.readAt, t.shown = seen, time.Now(), shown
	t.events = append(t.events, events...)
	if n := len(t.events) - keptEvents; n > 0 {
		t.events = slices.Delete(t.events, 0, n)
	}
	return nil
}

// Ended reports whether the listener has had the last event of a job that is over.
func (l *Listener) Ended() bool {
	l.topic.mu.Lock()
	defer l.topic.mu.Unlock()
	n := len(l.topic.events)
	return n > 0 && l.topic.events[n-1].Over() && l.topic.events[n-1].ID == l.last
}

// Gone reports whether nothing is shown of the job any more: what was has run out, or was deleted.
func (l *Listener) Gone() bool {
	l.topic.mu.Lock()
	defer l.topic.mu.Unlock()
	return l.topic.read > 0 && len(l.topic.events) == 0 && l.topic.shown == nil
}

// Known reports whether anything is shown of the job.
func (l *Listener) Known(ctx context.Context) (bool, error) {
	t := l.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.read == 0 {
		if !t.reading {
			if err := l.fetch(ctx); err != nil { // unlocks meanwhile
				return false, ended(ctx, err)
			}
			continue
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		t.mu.Lock()
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
	}
	return len(t.events) > 0 || t.shown != nil, nil
}

// events reads the updates in a job's stream from an id on, and what is shown of it.
func (s *Store) events(ctx context.Context, jobID, from string) ([]Event, *Update, error) {
	entries := redis.NewXMessageSliceCmd(ctx, "xrange", eventsKey(jobID), from, "+")
	doc := redis.NewStringCmd(ctx, "get", Key(jobID))
	if err := s.guard.Send(ctx, entries, doc); err != nil && !errors.Is(err, redis.Nil) {
		return nil, nil, fmt.Errorf("read the updates of job %s: %w", jobID, err)
	}
	var out []Event
	for _, entry := range entries.Val() {
		text, _ := entry.Values["doc"].(string)
		e := Event{ID: entry.ID}
		if err := json.Unmarshal([]byte(text), &e.Update); err != nil {
			return nil, nil, fmt.Errorf("decode update %s of job %s: %w", entry.ID, jobID, err)
		}
		out = append(out, e)
	}
	if doc.Err() != nil {
		return out, nil, nil
	}
	var u Update
	if err := json.Unmarshal([]byte(doc.Val()), &u); err != nil {
		return nil, nil, fmt.Errorf("decode progress of job %s: %w", jobID, err)
	}
	return out, &u, nil
}
