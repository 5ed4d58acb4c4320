package violence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// life is one process of a worker, from its start to its end. The worker names it to
// the picture host and to the model.
type life struct {
	name string // "0-012": the slot, and which of its processes
	slot *slot
	log  string

	began  time.Time
	ended  time.Time // zero while it runs
	killed bool      // it did not end in an orderly way

	lost    []time.Time    // when it lost the broker
	late    []time.Time    // when the broker ended a consumer of it,
	torn    []time.Time    // and when its connection with that
	givenUp map[string]int // returns that the worker itself has made, by task id
}

// Log lines that are looked for.
const (
	lineLost    = "broker lost, reconnecting"
	lineLate    = "the broker has ended a consumer"
	lineGivenUp = "job goes back to its queue"
)

// RabbitMQ may close the channel of a consumer twice over a time-out. It takes the second
// answer for a fault of the connection, and the worker logs that, or that the connection
// was not open any more.
const (
	twice = "expected 'channel.open'"
	gone  = "channel/connection is not open"
)

// read finds in the log of a life how often it lost what it had.
func (l *life) read() error {
	text, err := os.ReadFile(l.log)
	if err != nil {
		return err
	}
	l.lost, l.late, l.torn, l.givenUp = nil, nil, nil, map[string]int{}
	for line := range bytes.Lines(text) {
		if !bytes.Contains(line, []byte(lineLost)) && !bytes.Contains(line, []byte(lineLate)) && !bytes.Contains(line, []byte(lineGivenUp)) {
			continue
		}
		var entry struct {
			Time   time.Time
			Msg    string
			Error  string
			TaskID string `json:"task_id"`
		}
		if json.Unmarshal(line, &entry) != nil {
			continue // cut short by the end of the process
		}
		switch {
		case strings.HasPrefix(entry.Msg, lineLost) && (strings.Contains(entry.Error, twice) || strings.Contains(entry.Error, gone)):
			l.torn = append(l.torn, entry.Time)
		case strings.HasPrefix(entry.Msg, lineLost):
			l.lost = append(l.lost, entry.Time)
		case strings.HasPrefix(entry.Msg, lineLate):
			l.late = append(l.late, entry.Time)
		case strings.HasPrefix(entry.Msg, lineGivenUp):
			l.givenUp[entry.TaskID]++
		}
	}
	return nil
}

// timedOut finds in RabbitMQ's log which slot's consumer it has ended, and when: a worker
// that has stopped consuming itself does not tell.
var timedOut = regexp.MustCompile(`(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+\d\d:\d\d) \[warning\].* Consumer '[^']*celery@violence(\d+)/\d+'.* has timed out`)

// readTimeouts adds to the lives what RabbitMQ's log says of their time-outs.
func (c *crew) readTimeouts(log string) error {
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	for _, m := range timedOut.FindAllSubmatch(text, -1) {
		at, err := time.Parse("2006-01-02 15:04:05.999999-07:00", string(m[1]))
		if err != nil {
			return fmt.Errorf("%s: %w", log, err)
		}
		for _, l := range c.lives {
			there := l.began.Before(at) && (l.ended.IsZero() || l.ended.After(at))
			if strconv.Itoa(l.slot.n) == string(m[2]) && there && !l.knows(at) {
				l.late = append(l.late, at)
			}
		}
	}
	return nil
}

// knows reports whether a loss at this time has been noted already.
func (l *life) knows(at time.Time) bool {
	return slices.ContainsFunc(slices.Concat(l.late, l.torn), func(o time.Time) bool {
		return o.Sub(at).Abs() < closing
	})
}

// closing is how long a session that is lost may take to be closed, before that is
// logged.
const closing = 3 * time.Second

// lossesWithin counts how often the life lost its deliveries in a time.
func (l *life) lossesWithin(from, to time.Time) int {
	n := 0
	for _, at := range slices.Concat(l.lost, l.torn) {
		if at.After(from) && at.Add(-closing).Before(to) {
			n++
		}
	}
	for _, at := range l.late {
		if at.After(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// diedWithin reports whether the life ended by force in a time.
func (l *life) diedWithin(from, to time.Time) bool {
	return l.killed && l.ended.After(from) && l.ended.Before(to)
}

// visit is a request of a life.
type visit struct {
	life string
	at   time.Time
}

// window is a time in which the connection of a worker to the broker may be lost.
type window struct{ from, to time.Time }

// aftermath is how long after an act a connection may still be lost over it, and the
// worker log that.
const aftermath = 10 * time.Second

// touching notes that the slot's connection to the broker may be lost from now on; the
// caller calls the result when it may not any more.
func (w *slot) touching() (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.touched)
	w.touched = append(w.touched, window{from: time.Now()})
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.touched[i].to = time.Now().Add(aftermath)
	}
}

func (w *slot) wasTouched(at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.touched {
		if at.After(t.from) && (t.to.IsZero() || at.Before(t.to)) {
			return true
		}
	}
	return false
}

// readLives reads the logs of all lives, and RabbitMQ's.
func (c *crew) readLives() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lives {
		if err := l.read(); err != nil {
			return err
		}
	}
	return c.readTimeouts(filepath.Join(c.cfg.Dir, "rabbitmq", "rabbitmq.log"))
}

// kill ends the process of a life, if it is still there.
func (c *crew) kill(name string) {
	for _, w := range c.slots {
		w.mu.Lock()
		is := w.life != nil && w.life.name == name
		w.mu.Unlock()
		if is {
			w.end(killed, syscall.SIGKILL)
		}
	}
}
