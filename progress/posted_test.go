package progress_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
)

// held holds the next pipeline back until it is let go of, and counts the pipelines and writes.
type held struct {
	begun, goOn chan struct{}
	hold        atomic.Bool
	pipelines   atomic.Int32
	scripts     atomic.Int32
}

func (h *held) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h *held) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h *held) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if h.hold.CompareAndSwap(true, false) {
			close(h.begun)
			<-h.goOn
		}
		h.pipelines.Add(1)
		for _, cmd := range cmds {
			if strings.HasPrefix(cmd.Name(), "eval") {
				h.scripts.Add(1)
			}
		}
		return next(ctx, cmds)
	}
}

// TestReportsLeaveTogether has a job report fifty times while Redis is at work on something else: nobody waits, and one write shows the last
// report, as the first of its run. What comes after that is written after it.
func TestReportsLeaveTogether(t *testing.T) {
	s, client := setup(t)
	other, old := track(t, s, "other", false), track(t, s, "j", false)
	if err := old.Finish(t.Context(), "done", "m"); err != nil {
		t.Fatal(err)
	}
	h := &held{begun: make(chan struct{}), goOn: make(chan struct{})}
	client.AddHook(h)
	h.hold.Store(true)
	post(t, other, 10)
	<-h.begun
	tr := track(t, s, "j", false)
	for n := range 50 {
		post(t, tr, n)
	}
	close(h.goOn)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, load(t, s, "j"), progress.Update{Progress: 49, Stage: "stage 49", Message: "m"})
	if n := h.scripts.Load(); n != 2 {
		t.Errorf("got %d writes, want one of each job", n)
	}
	post(t, tr, 60)
	if err := tr.Finish(t.Context(), "done", "m"); err != nil {
		t.Fatal(err)
	}
	check(t, load(t, s, "j"), progress.Update{Progress: 100, Stage: "done", Message: "m"})
	post(t, tr, 70)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, load(t, s, "j"), progress.Update{Progress: 100, Stage: "done", Message: "m"})
}

// post reports without waiting.
func post(t *testing.T, tr *progress.Tracker, n int) {
	t.Helper()
	if err := tr.Report(t.Context(), n, fmt.Sprint("stage ", n), "m"); err != nil {
		t.Error(err)
	}
}

// TestReportWaitsForRedis has Redis be away when a job reports and then is long at work: the last report is shown once Redis answers
// anybody. That of a job that has ended meanwhile changes nothing.
func TestReportWaitsForRedis(t *testing.T) {
	server := testenv.Redis(t)
	proxy := testenv.NewProxy(t, server.Addr())
	open := func(url string) *progress.Store {
		opt, err := redisretry.Options(url)
		if err != nil {
			t.Fatal(err)
		}
		client := redis.NewClient(opt)
		t.Cleanup(func() { client.Close() })
		return progress.New(client, zap.NewNop())
	}
	s, elsewhere := open(proxy.URL(server.URL())), open(server.URL())
	long, ended := track(t, s, "long", false), track(t, s, "ended", false)
	report(t, long, 10, "download")
	report(t, ended, 10, "download")
	proxy.Cut()
	for n := range 3 {
		post(t, long, 20+n)
		post(t, ended, 20+n)
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if s.Flush(short) == nil { // which leaves after the reports
			t.Fatal("Redis answers, want it to be away")
		}
		cancel()
	}
	if err := track(t, elsewhere, "ended", true).Finish(t.Context(), "done", "m"); err != nil {
		t.Fatal(err)
	}
	if err := proxy.Mend(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is answered first has the others be sent
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check(t, load(t, elsewhere, "long"), progress.Update{Progress: 22, Stage: "stage 22", Message: "m"})
	check(t, load(t, elsewhere, "ended"), progress.Update{Progress: 100, Stage: "done", Message: "m"})
}

// TestReportWithoutScript has the server know no script, as after a restart.
func TestReportWithoutScript(t *testing.T) {
	s, client := setup(t)
	tr := track(t, s, "j", false)
	for n := range 3 {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		post(t, tr, n)
		for range 2 {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		check(t, load(t, s, "j"), progress.Update{Progress: n, Stage: fmt.Sprint("stage ", n), Message: "m"})
	}
}

// TestReportAfterItsRun has the context of a run end: nothing is shown any more.
func TestReportAfterItsRun(t *testing.T) {
	s, _ := setup(t)
	tr := track(t, s, "j", false)
	report(t, tr, 10, "download")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.Report(ctx, 20, "hash", "m"); err == nil {
		t.Error("got no error, want that the run is over")
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, load(t, s, "j"), progress.Update{Progress: 10, Stage: "download", Message: "m"})
}
