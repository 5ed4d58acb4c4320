package worker_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/worker"
)

// TestChordGrownByARunThatDied has a header task add another one to its chord and lose its
// process. A second process runs it again: the body runs once, with the results of both.
func TestChordGrownByARunThatDied(t *testing.T) {
	b := setup(t)
	b.cfg.DefaultQueue = "q.ai"
	g := newGate()
	b.task("grows", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		first := g.runs.Load() == 0
		if _, err := worker.AddToChord(ctx, celery.NewSignature("added")); err != nil {
			return nil, err
		}
		if first {
			return g.Run(ctx, r)
		}
		return "grows", nil
	}))
	b.task("added", value("added"))
	var mu sync.Mutex
	var bodies []string
	b.task("body", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, string(r.Args[0]))
		return nil, nil
	}))
	body := to(celery.NewSignature("body"))
	body.Options.TaskID = "the-body"
	p := celery.Plan{Now: time.Now()}
	if _, err := p.Apply(celery.Chord([]*celery.Signature{to(celery.NewSignature("grows"))}, body), nil, celery.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range p.ChordSizes {
		if err := b.results.BeginChord(t.Context(), c, true); err != nil {
			t.Fatal(err)
		}
	}
	grows := p.Messages[0].Request
	proxy := b.startBehindProxy()
	b.publishRequest(rabbit.ExchangeTasks, "ai.test", grows)
	<-g.entered
	proxy.Cut()
	b.dies(grows.ID)
	b.start()
	if m := b.wait("the-body"); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	b.until(func() bool { return b.left("q.ai") == 0 && len(b.outcomes(grows.ID)) == 1 })
	close(g.release)
	b.until(func() bool { return len(b.outcomes(grows.ID)) == 2 }) // the process was cut off only
	mu.Lock()
	defer mu.Unlock()
	if len(bodies) != 1 {
		t.Fatalf("the body ran %d times, with %v, want once", len(bodies), bodies)
	}
	var parts []string
	if err := json.Unmarshal([]byte(bodies[0]), &parts); err != nil || len(parts) != 2 {
		t.Errorf("the body got %s, want both parts", bodies[0])
	}
}

// dies has the run that is at work on a job look as if its process had died: nobody renews its
// hold of the id.
func (b *bundle) dies(id string) {
	b.t.Helper()
	if n, err := b.redis.Del(b.t.Context(), "onceover:run:"+id).Result(); n != 1 || err != nil {
		b.t.Errorf("got %d holds of job %s, %v, want one", n, id, err)
	}
}
