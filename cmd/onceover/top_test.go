package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"onceover/cache"
	"onceover/failed"
	"onceover/internal/console"
	"onceover/internal/control"
	"onceover/rabbit"
	"onceover/vision/fleet"
)

// part is a part of a snapshot that could be read.
func part[T any](v T) console.Part[T] { return console.Part[T]{Value: v, At: time.Now()} }

// fullSnapshot has more of everything than fits, and texts that others have chosen.
func fullSnapshot() *console.Snapshot {
	now := time.Now()
	nasty := strings.Repeat("long \x1b[31m text\n", 20)
	s := &console.Snapshot{
		At: now, Rates: console.Rates{Known: true, In: 12.34, Out: 100, Empties: 90 * time.Second},
		Workers: part([]control.Worker{{Node: "celery@a", Slots: 10, Active: 3}, {Node: "celery@b", Slots: 10, Active: 4}}),
		Counts:  part(failed.Counts{Failed: 1234, Parked: 5}),
		Cache:   part(cache.Stats{Hours: []cache.Hour{{Hour: now, Exact: 70, Missed: 30, SavedMicroUSD: 1_500_000}}}),
	}
	for i := range 9 {
		s.Servers = append(s.Servers, console.ServerState{Name: fmt.Sprint("redis for role-", i), Err: map[bool]error{true: errors.New(nasty)}[i%2 == 1]})
		s.Queues = append(s.Queues, console.Queue{Name: fmt.Sprint("q.", i, nasty), Oldest: time.Duration(i) * time.Minute, State: part(rabbit.Standing{Ready: 7})})
		s.Causes.Value = append(s.Causes.Value, failed.Cause{ID: fmt.Sprint(i), Error: "E" + nasty, Text: nasty, Reason: failed.ReasonPoison, Hour: i, Day: 10 * i, Kept: 100 * i, Last: now})
		s.Endpoints.Value = append(s.Endpoints.Value, fleet.State{Endpoint: nasty, Open: now.Add(time.Minute), Class: "overloaded", Text: nasty})
		s.Budgets.Value = append(s.Budgets.Value, fleet.Spending{Budget: fleet.Budget{MicroUSD: 5_000_000, Window: 24 * time.Hour}, Spent: 1_000_000, Reserved: 500_000})
	}
	s.Causes.At, s.Endpoints.At, s.Budgets.At = now, now, now
	return s
}

// TestTopFits draws more than fits.
func TestTopFits(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	drawTop(&out, fullSnapshot())
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) > 24 {
		t.Errorf("got %d lines, want 24 at most:\n%s", len(lines), out.String())
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > 79 || strings.ContainsAny(line, "\x1b\r") {
			t.Errorf("got a line of %d columns: %q", n, line)
		}
	}
	for _, want := range []string{
		"NO ANSWER: role-1, role-3, role-5, role-7 (", "waiting  63", "oldest ≥ 8m0s", "12.3 in, 100.0 out a second, empty in 1m30s", "running  7 of 20 slots on 2 workers",
		"failed   36 in the last hour, 360 in a day   kept 1234   parked 5", "nobody consumes it", "poison: E", "and 3 more", "70 of 100 jobs of a day needed no call (70 %)", "breaker OPEN", "left",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got no %q in\n%s", want, out.String())
		}
	}
}

// TestTopOfNothing draws what is shown before anything answers.
func TestTopOfNothing(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &console.Snapshot{At: time.Now()}
	s.Causes.Err, s.Workers.Err = errors.New("redis is away"), errors.New("no broker")
	drawTop(&out, s)
	blocked := &console.Snapshot{At: time.Now()}
	blocked.Workers.Err = fmt.Errorf("ask stats: %w", &control.BlockedError{Reason: "low on disk"})
	drawTop(&out, blocked)
	for _, want := range []string{"BLOCKED: RabbitMQ takes no messages (low on disk)", "running  ? (no broker)", "failed   ? in the last hour", "kept ?", "causes are not known: redis is away"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got no %q in\n%s", want, out.String())
		}
	}
}
