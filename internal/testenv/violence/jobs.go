package violence

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/google/uuid"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/tasks"
)

// kind of a job.
type kind int

const (
	plain   kind = iota
	missing      // its picture is not there: fails
	busy         // the model answers 503 twice: retried
	later        // the model answers 503 and asks for a pause so long that the retry is parked
	delayed      // has an ETA so far that it is parked
	chain        // two tasks
	broken       // two tasks, and the picture of the first is not there: both fail
	unknown      // of a task that nobody has
	garbled      // its body cannot be read
	kinds
)

func (k kind) String() string {
	return [kinds]string{"plain", "404", "503 twice", "503, retry parked", "ETA", "chain of two", "chain, first 404", "unknown task", "garbled body"}[k]
}

// shares of the kinds among 100 jobs.
var shares = [kinds]int{plain: 40, missing: 14, busy: 10, later: 6, delayed: 10, chain: 8, broken: 4, unknown: 4, garbled: 4}

// parked tells the kinds that take long.
func (k kind) parked() bool { return k == later || k == delayed }

// task is one task id and what is to become of it.
type task struct {
	id      string
	kind    kind
	picture int
	after   *task        // the step before it in a chain, nil if it is the first
	want    celery.State // before the replay; after it all are SUCCESS
	records int          // wanted before the replay
	calls   int          // of the model, wanted after the replay

	state celery.State // found
}

// job is a message and the tasks that come of it.
type job struct {
	kind     kind
	tasks    []*task
	outgoing rabbit.Message
}

const (
	exchange   = rabbit.ExchangeTasks
	routingKey = "ai.analyze"
	queue      = "q.ai"
)

// parkedPause is the shortest time for which a job is parked.
const parkedPause = 12 * time.Second

// newJob makes a job of this kind, due no earlier than notBefore if it is to be
// parked. Its pictures are added to the host.
func newJob(k kind, h *host, a *album, next func() int, notBefore time.Time, rng *rand.Rand) (*job, error) {
	j := &job{kind: k}
	add := func(want celery.State, records, calls int, p picture) (*task, error) {
		t := &task{id: uuid.NewString(), kind: k, picture: next(), want: want, records: records, calls: calls}
		if n := len(j.tasks); n > 0 {
			t.after = j.tasks[n-1]
		}
		var err error
		if p.data, err = a.draw(t.picture); err != nil {
			return nil, err
		}
		h.add(t.picture, &p)
		j.tasks = append(j.tasks, t)
		return t, nil
	}
	first := func() (*task, error) {
		switch k {
		case missing, broken:
			return add(celery.Failure, 1, 1, picture{missing: true})
		case busy:
			return add(celery.Success, 0, 3, picture{busy: 2})
		case later:
			return add(celery.Success, 0, 2, picture{busy: 1, parked: true, notBefore: notBefore})
		case unknown, garbled:
			return add(celery.Failure, 1, 1, picture{})
		default:
			return add(celery.Success, 0, 1, picture{})
		}
	}
	t, err := first()
	if err != nil {
		return nil, err
	}
	req := &celery.Request{ID: t.id, Task: tasks.NameAnalyze, Kwargs: kwargs(h, t), Origin: fmt.Sprintf("gen%d@violence", os.Getpid())}
	switch k {
	case unknown:
		req.Task = "image.unheard_of"
	case delayed:
		if req.ETA = time.Now().Add(parkedPause); req.ETA.Before(notBefore) {
			req.ETA = notBefore
		}
		req.ETA = req.ETA.Add(time.Duration(rng.Int64N(int64(parkedPause / 2))))
	case chain, broken:
		want := celery.Success
		if k == broken {
			want = celery.Failure
		}
		second, err := add(want, 0, 1, picture{})
		if err != nil {
			return nil, err
		}
		req.Chain = celery.Signatures{{Task: tasks.NameAnalyze, Kwargs: kwargs(h, second), Immutable: true, Options: celery.Options{
			TaskID: second.id, RootID: t.id, ParentID: t.id, Exchange: exchange, RoutingKey: routingKey,
		}}}
	}
	if j.outgoing, err = rabbit.New(celery.Message{Request: req, Exchange: exchange, RoutingKey: routingKey}); err != nil {
		return nil, err
	}
	if k == garbled {
		j.outgoing.Body = []byte(`[[], {"image_url": "`)
	}
	return j, nil
}

func kwargs(h *host, t *task) map[string]json.RawMessage {
	url, err := celery.MarshalJSON(h.urlOf(t.picture))
	if err != nil { // a string is always JSON
		panic(err)
	}
	return map[string]json.RawMessage{"image_url": url}
}

// plan is the order of the kinds.
func plan(jobs int, rng *rand.Rand) []kind {
	var out []kind
	for k, share := range shares {
		for range max(1, jobs*share/100) {
			out = append(out, kind(k))
		}
	}
	for len(out) < jobs {
		out = append(out, plain)
	}
	out = out[:jobs]
	rng.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	return out
}
