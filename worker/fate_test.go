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
)

type outage struct{ error }

func (outage) Unavailable() bool { return true }

func TestDecide(t *testing.T) {
	boom := errors.New("boom")
	exc := celery.NewException("ValueError", "bad", nil)
	again := &celery.Retry{Err: exc}
	away := fmt.Errorf("write progress: %w", outage{boom})
	tests := []struct {
		name    string
		err     error
		cause   error
		retries int
		state   celery.State
		exc     string
	}{
		{"success", nil, nil, 0, celery.Success, ""},
		{"success although stopping", nil, errStopping, 0, celery.Success, ""},
		{"success although late", nil, errSoftLimit, 0, celery.Success, ""},
		{"exception", exc, nil, 0, celery.Failure, "ValueError: bad"},
		{"wrapped exception", fmt.Errorf("hash: %w", exc), nil, 0, celery.Failure, "ValueError: bad"},
		{"other error", boom, nil, 0, celery.Failure, "RuntimeError: boom"},
		{"retry", again, nil, 0, celery.Retried, "ValueError: bad"},
		{"last retry", again, nil, 2, celery.Retried, "ValueError: bad"},
		{"no retry left", again, nil, 3, celery.Failure, "ValueError: bad"},
		{"stopping", boom, errStopping, 0, "", ""},
		{"stopping before a retry", again, errStopping, 0, "", ""},
		{"soft limit", context.Canceled, errSoftLimit, 0, celery.Failure, "billiard.exceptions.SoftTimeLimitExceeded"},
		{"outage", away, nil, 0, "", ""},
		{"outage until the soft limit", away, errSoftLimit, 0, "", ""},
	}
	for _, tt := range tests {
		f := decide(tt.err, tt.cause, tt.retries, 3)
		got := ""
		if f.exc != nil {
			got = f.exc.Error()
		}
		if f.state != tt.state || got != tt.exc {
			t.Errorf("%s: got %q %q, want %q %q", tt.name, f.state, got, tt.state, tt.exc)
		}
	}
}

func TestRetryWait(t *testing.T) {
	for retries := range 40 {
		top := retryCap
		if retries < 10 {
			top = min(retryCap, retryBase<<retries)
		}
		var longest time.Duration
		for range 2000 {
			wait := retryWait(retries, 0)
			if wait < 0 || wait >= top {
				t.Fatalf("retry %d: got %v, want less than %v", retries, wait, top)
			}
			longest = max(longest, wait)
		}
		if longest < top/2 {
			t.Errorf("retry %d: longest of 2000 is %v, want the whole range up to %v", retries, longest, top)
		}
	}
	if wait := retryWait(0, 30*time.Second); wait != 30*time.Second {
		t.Errorf("got %v, want what the server asked for", wait)
	}
	if wait := retryWait(0, time.Hour); wait != retryCap {
		t.Errorf("got %v, want at most %v", wait, retryCap)
	}
}

func TestRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r running
		var wg sync.WaitGroup
		inside := 0
		for i := range 5 {
			wg.Go(func() {
				release, waited, err := r.lock(t.Context(), "id")
				if err != nil {
					t.Error(err)
					return
				}
				if inside++; inside != 1 {
					t.Errorf("%d at a time, want 1", inside)
				}
				if i > 0 && !waited {
					t.Error("got waited false, want true")
				}
				time.Sleep(time.Second) // fake time
				inside--
				release()
			})
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, waited, err := r.lock(ctx, "id"); err == nil || !waited {
			t.Errorf("got waited %v, %v, want a time-out", waited, err)
		}
		if release, waited, err := r.lock(t.Context(), "other"); waited || err != nil {
			t.Errorf("another id: got waited %v, %v", waited, err)
		} else {
			release()
		}
		wg.Wait()
		if len(r.ids) != 0 {
			t.Errorf("%d ids are kept, want none", len(r.ids))
		}
	})
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

func TestBrokerURLs(t *testing.T) {
	for raw, vhost := range map[string]string{
		"amqp://guest:guest@h:5672//": "/", "amqp://h": "/", "amqp://h/": "/", "amqp://h/prod": "prod",
		"pyamqp://u:p@h:5672/%2Fprod": "/prod", "amqps://h//": "/",
	} {
		uri, err := parseBrokerURL(raw)
		if err != nil || uri.Vhost != vhost {
			t.Errorf("%s: got vhost %q, %v, want %q", raw, uri.Vhost, err, vhost)
		}
	}
}
