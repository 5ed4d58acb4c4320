package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onceover/celery"
	"onceover/rabbit"
)

type outage struct{ error }

func (outage) Unavailable() bool { return true }

// TestVerdictOn is a table of what another run has recorded.
func TestVerdictOn(t *testing.T) {
	t.Parallel()
	for state, want := range map[celery.State]fate{
		celery.Success: succeed, celery.Failure: fail, celery.Revoked: revoke, celery.Retried: retry, celery.Started: retry, "PROGRESS": retry,
	} {
		v := verdictOn(&celery.Meta{Status: state})
		if v.fate != want || v.exc != nil || v.reason != "" || v.outcome != outcomeDuplicate {
			t.Errorf("%s: got %+v, want fate %d", state, v, want)
		}
	}
}

func TestDecide(t *testing.T) {
	boom := errors.New("boom")
	exc := celery.NewException("ValueError", "bad", nil)
	again := &celery.Retry{Err: exc}
	away := fmt.Errorf("write progress: %w", outage{boom})
	five := 5
	tests := []struct {
		name    string
		err     error
		cause   error
		retries int
		fate    fate
		exc     string
	}{
		{"success", nil, nil, 0, succeed, ""},
		{"success although stopping", nil, errStopping, 0, succeed, ""},
		{"success although late", nil, errSoftLimit, 0, succeed, ""},
		{"exception", exc, nil, 0, fail, "ValueError: bad"},
		{"wrapped exception", fmt.Errorf("hash: %w", exc), nil, 0, fail, "ValueError: bad"},
		{"other error", boom, nil, 0, fail, "RuntimeError: boom"},
		{"error to be retried", errAgain, nil, 0, retry, "RuntimeError: again"},
		{"error to be retried no more", errAgain, nil, 3, fail, "RuntimeError: again"},
		{"retry", again, nil, 0, retry, "ValueError: bad"},
		{"last retry", again, nil, 2, retry, "ValueError: bad"},
		{"no retry left", again, nil, 3, fail, "ValueError: bad"},
		{"retry with a bound of its own", &celery.Retry{Err: exc, MaxRetries: &five}, nil, 4, retry, "ValueError: bad"},
		{"retry without a reason", &celery.Retry{}, nil, 0, retry, ""},
		{"no retry left, without a reason", &celery.Retry{}, nil, 3, fail,
			"celery.exceptions.MaxRetriesExceededError: Can't retry t[id] args:() kwargs:{}"},
		{"postpone", fmt.Errorf("ask: %w", Postpone(boom, time.Second)), nil, 5, postpone, ""},
		{"postpone while stopping", Postpone(boom, time.Second), errStopping, 0, giveBack, ""},
		{"ignore", fmt.Errorf("seen: %w", ErrIgnore), nil, 0, ignore, ""},
		{"reject", Reject("no", false), nil, 0, fail, "celery.exceptions.Reject: ('no', False)"},
		{"reject and requeue", Reject("no", true), nil, 0, requeue, ""},
		{"replace", Replace(celery.NewSignature("u")), nil, 0, replace, ""},
		{"stopping", boom, errStopping, 0, giveBack, ""},
		{"stopping before a retry", again, errStopping, 0, giveBack, ""},
		{"terminated", boom, &terminated{15}, 0, revoke, "celery.exceptions.TaskRevokedError: terminated"},
		{"soft limit", context.Canceled, errSoftLimit, 0, fail, "billiard.exceptions.SoftTimeLimitExceeded"},
		{"outage", away, nil, 0, giveBack, ""},
		{"outage until the soft limit", away, errSoftLimit, 0, giveBack, ""},
	}
	for _, tt := range tests {
		o := decide(&task{Task: Task{MaxRetries: 3, AutoRetry: func(err error) bool { return err == errAgain }}}, tt.err, tt.cause,
			&celery.Request{ID: "id", Task: "t", Retries: tt.retries}, rabbit.Own{})
		got := ""
		if o.exc != nil {
			got = o.exc.Error()
		}
		if o.fate != tt.fate || got != tt.exc {
			t.Errorf("%s: got %v %q, want %v %q", tt.name, o.fate, got, tt.fate, tt.exc)
		}
	}
}

var errAgain = errors.New("again")

// TestRetryFor retries for a time: however many there were, until the last one comes at its end.
func TestRetryFor(t *testing.T) {
	exc := celery.NewException("ValueError", "bad", nil)
	decided := func(after, began time.Duration) *verdict {
		trying := time.Time{}
		if began > 0 {
			trying = time.Now().Add(-began)
		}
		return decide(&task{Task: Task{Backoff: Backoff{Cap: time.Second}}}, &celery.Retry{Err: exc, For: time.Hour, After: after}, nil, &celery.Request{Retries: 1000},
			rabbit.Own{Trying: trying, Timed: 1000})
	}
	if v := decided(time.Minute, 0); v.fate != retry || v.wait != time.Minute || time.Since(v.trying) > time.Minute {
		t.Errorf("the first: got %+v", v)
	}
	if v := decided(time.Minute, 30*time.Minute); v.fate != retry || v.wait != time.Minute || time.Since(v.trying) < 30*time.Minute {
		t.Errorf("in between: got %+v, want a retry that began with the first", v)
	}
	if v := decided(time.Minute, time.Hour-time.Second); v.fate != retry || v.wait > time.Second {
		t.Errorf("the last: got %+v, want one at the end", v)
	}
	if at := time.Now(); !later(at, time.Hour).Equal(at.Add(time.Hour)) || !later(time.Time{}, time.Hour).IsZero() {
		t.Error("the time in which a job is postponed counts")
	}
	if v := decided(time.Minute, time.Hour); v.fate != fail || v.exc != exc {
		t.Errorf("after the end: got %+v, want the failure", v)
	}
}

// TestCountedAfterTimed has a retry that is counted come after those that went on for a time.
func TestCountedAfterTimed(t *testing.T) {
	exc := celery.NewException("ConnectionError", "boom", nil)
	busy := &task{Task: Task{MaxRetries: 3, Backoff: Backoff{Base: time.Second, Exact: true}}}
	var own rabbit.Own
	req := celery.Request{}
	next := func(err error) *verdict {
		v := decide(busy, err, nil, &req, own)
		req.Retries++
		own.Trying, own.Timed = v.trying, v.timed
		return v
	}
	for i := range 8 {
		if v := next(&celery.Retry{Err: exc, For: time.Hour}); v.fate != retry || v.wait != min(time.Second<<i, 2*time.Minute) {
			t.Errorf("number %d for a time: got %+v", i, v)
		}
	}
	for i, want := range []fate{retry, retry, retry, fail} {
		v := next(&celery.Retry{Err: exc})
		if v.fate != want || want == retry && (v.wait != time.Second<<i || !v.trying.IsZero()) {
			t.Errorf("number %d that is counted: got %+v, want %v", i, v, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	for retries := range 70 {
		top := retryCap
		if retries < 10 {
			top = min(retryCap, retryBase<<retries)
		}
		var longest time.Duration
		for range 2000 {
			wait := Backoff{}.wait(retries, 0)
			if wait < 0 || wait >= top {
				t.Fatalf("retry %d: got %v, want less than %v", retries, wait, top)
			}
			longest = max(longest, wait)
		}
		if longest < top/2 {
			t.Errorf("retry %d: longest of 2000 is %v, want the whole range up to %v", retries, longest, top)
		}
	}
	for _, tt := range []struct {
		backoff Backoff
		retries int
		after   time.Duration
		want    time.Duration
	}{
		{Backoff{}, 0, 30 * time.Second, 30 * time.Second}, // what was asked for
		{Backoff{}, 0, time.Hour, time.Hour},               // Celery does not cap a countdown
		{Backoff{Base: 3 * time.Second, Cap: 10 * time.Second, Exact: true}, 1, 0, 6 * time.Second},
		{Backoff{Base: 3 * time.Second, Cap: 10 * time.Second, Exact: true}, 2, 0, 10 * time.Second},
	} {
		if got := tt.backoff.wait(tt.retries, tt.after); got != tt.want {
			t.Errorf("%+v, retry %d after %v: got %v, want %v", tt.backoff, tt.retries, tt.after, got, tt.want)
		}
	}
}

func TestRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r running
		var wg sync.WaitGroup
		inside := 0
		for range 5 {
			wg.Go(func() {
				release, err := r.lock(t.Context(), "id")
				if err != nil {
					t.Error(err)
					return
				}
				if inside++; inside != 1 {
					t.Errorf("%d at a time, want 1", inside)
				}
				time.Sleep(time.Second) // fake time
				inside--
				release()
			})
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := r.lock(ctx, "id"); err == nil {
			t.Error("got the id, want a time-out")
		}
		if _, ok := r.tryLock("id"); ok {
			t.Error("tryLock got the id, want it taken")
		}
		if release, ok := r.tryLock("other"); !ok {
			t.Error("tryLock did not get another id")
		} else {
			release()
		}
		wg.Wait()
		if len(r.ids) != 0 {
			t.Errorf("%d ids are kept, want none", len(r.ids))
		}
	})
}

// TestPool checks that slots are granted in order, and what a change of the size
// does.
func TestPool(t *testing.T) {
	p := pool{size: 2}
	granted := func(tickets ...*ticket) (out string) {
		for _, t := range tickets {
			select {
			case <-t.granted:
				out += "1"
			default:
				out += "0"
			}
		}
		return out
	}
	a, b, c, d, e := p.join(), p.join(), p.join(), p.join(), p.join()
	steps := []struct {
		do   func()
		want string
	}{
		{func() {}, "11000"},
		{func() { b.leave() }, "11100"},
		{func() { d.leave() }, "11100"},              // leaves the line
		{func() { p.resize(1); a.leave() }, "11100"}, // c has the only slot
		{func() { c.leave() }, "11101"},              // d is passed over
		{func() { c.leave(); p.resize(5) }, "11101"}, // a second leave is nothing
	}
	for i, step := range steps {
		step.do()
		if got := granted(a, b, c, d, e); got != step.want {
			t.Errorf("step %d: got %s, want %s", i, got, step.want)
		}
	}
	if used, size := p.inUse(); used != 1 || size != 5 {
		t.Errorf("got %d of %d slots in use, want 1 of 5", used, size)
	}
}

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	bad := Config{BrokerURLs: []string{"amqp://user:hunter2@[::1", "http://x"}, Queues: []string{""}, PrefetchMultiplier: 0, NodeName: "x", Grace: -1}
	err := bad.Validate()
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"broker URL", "queue name", "concurrency", "prefetch", "node name", "grace"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows the password: %v", err)
	}
}
