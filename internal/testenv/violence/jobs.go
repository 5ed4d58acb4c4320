package violence

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/tasks"
)

// kind of a job.
type kind int

const (
	plain     kind = iota
	missing        // its picture is not there: fails
	busy           // the model answers 503 twice: retried
	later          // the model answers 503 and asks for a pause so long that the retry is parked
	delayed        // has an ETA so far that it is parked
	chain          // two tasks
	broken         // two tasks, and the picture of the first is not there: both fail
	unknown        // of a task that nobody has
	garbled        // its body cannot be read
	slow           // takes longer than the broker's consumer time-out
	brief          // takes longer than a message may stay in its queue
	linked         // has a callback to a queue that does not always confirm
	unsayable      // two tasks, and the second can never be published: both fail
	deadly         // kills whoever works on it: poison
	kinds
)

func (k kind) String() string {
	return [kinds]string{"plain", "404", "503 twice", "503, retry parked", "ETA", "chain of two", "chain, first 404", "unknown task", "garbled body",
		"longer than consumer time-out", "longer than queue TTL", "callback, no majority", "next step unpublishable", "kills its worker"}[k]
}

// shares of the kinds among 100 jobs.
var shares = [kinds]int{plain: 30, missing: 10, busy: 9, later: 6, delayed: 10, chain: 8, broken: 4, unknown: 3, garbled: 3,
	slow: 2, brief: 4, linked: 6, unsayable: 5}

// jobsPerDeadly is how many jobs there are for each that is deadly, as that is the death of
// so many workers.
const jobsPerDeadly = 2000

// parked tells the kinds that take long.
func (k kind) parked() bool { return k == later || k == delayed }

// spoilt reports whether the message has to be mended before it can be run again.
func (k kind) spoilt() bool { return k == unknown || k == garbled || k == unsayable }

// task is one task id and what is to become of it.
type task struct {
	id      string
	kind    kind
	picture int
	after   *task        // the step before it in a chain, nil if it is the first
	want    celery.State // before the replay; after it all are SUCCESS
	records int          // wanted before the replay
	calls   int          // of the model, wanted after the replay
	next    string       // the id of its callback, "" if it has none
	alone   bool         // nothing that was done excuses another end

	published time.Time
	state     celery.State // found
	ended     time.Time    // when it was found to be final, for the last time that it was
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
	briefQueue = "q.brief" // its messages stay for briefTTL at most
)

// What the slow jobs outlast, and how long they take.
const (
	consumerTimeout = 5 * time.Second
	slowTakes       = 7 * time.Second
	briefTTL        = 3 * time.Second
	briefTakes      = 4500 * time.Millisecond
)

// parkedPause is the shortest time for which a job is parked.
const parkedPause = 12 * time.Second

// factory makes jobs.
type factory struct {
	host       *host
	album      album
	rng        *rand.Rand
	pictures   int       // so far
	impossible int       // next steps that cannot be published, so far
	notBefore  time.Time // what is parked is due no earlier
}

// job makes a job of this kind. Its pictures are added to the host.
func (f *factory) job(k kind) (*job, error) {
	j := &job{kind: k}
	h, rng := f.host, f.rng
	add := func(want celery.State, records, calls int, p picture) (*task, error) {
		t := &task{id: uuid.NewString(), kind: k, picture: f.pictures, want: want, records: records, calls: calls, published: time.Now()}
		f.pictures++
		if n := len(j.tasks); n > 0 {
			t.after = j.tasks[n-1]
		}
		var err error
		if p.data, err = f.album.draw(t.picture); err != nil {
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
			return add(celery.Success, 0, 2, picture{busy: 1, parked: true, notBefore: f.notBefore})
		case unknown, garbled, unsayable:
			return add(celery.Failure, 1, 1, picture{})
		case slow:
			return add(celery.Success, 0, 1, picture{takes: slowTakes})
		case brief:
			return add(celery.Success, 0, 1, picture{takes: briefTakes})
		case deadly:
			return add(celery.Failure, 1, 1, picture{deadly: true})
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
		if req.ETA = time.Now().Add(parkedPause); req.ETA.Before(f.notBefore) {
			req.ETA = f.notBefore
		}
		req.ETA = req.ETA.Add(time.Duration(rng.Int64N(int64(parkedPause / 2))))
	case linked:
		t.next = uuid.NewString()
		req.Callbacks = celery.Signatures{{Task: "violence.called", Options: celery.Options{TaskID: t.next, Queue: stuckQueue}}}
	case chain, broken, unsayable:
		want := celery.Success
		if k != chain {
			want = celery.Failure
		}
		second, err := add(want, 0, 1, picture{})
		if err != nil {
			return nil, err
		}
		req.Chain = celery.Signatures{step(h, second)}
		if k == unsayable {
			spoil[f.impossible%len(spoil)](&req.Chain[0].Options)
			f.impossible++
		}
	}
	out := celery.Message{Request: req, Exchange: exchange, RoutingKey: routingKey}
	if k == brief {
		out.Exchange, out.RoutingKey, out.Queue = "", "", briefQueue
	}
	if j.outgoing, err = rabbit.New(out); err != nil {
		return nil, err
	}
	if k == garbled {
		j.outgoing.Body = []byte(`[[], {"image_url": "`)
	}
	return j, nil
}

// step is the step of a chain that t is.
func step(h *host, t *task) *celery.Signature {
	return &celery.Signature{Task: tasks.NameAnalyze, Kwargs: kwargs(h, t), Immutable: true, Options: celery.Options{
		TaskID: t.id, RootID: t.after.id, ParentID: t.after.id, Exchange: exchange, RoutingKey: routingKey,
	}}
}

// spoil are the ways in which the next step can never be published.
var spoil = []func(o *celery.Options){
	func(o *celery.Options) { // AMQP takes 255 bytes
		o.Exchange, o.RoutingKey, o.Queue = "", "", strings.Repeat("q", 300)
	},
	func(o *celery.Options) { // a frame has 128 KiB
		o.Headers = map[string]json.RawMessage{"note": json.RawMessage(`"` + strings.Repeat("n", 200_000) + `"`)}
	},
	func(o *celery.Options) { // it does not exist
		o.Exchange = "violence.nowhere"
	},
	func(o *celery.Options) { // nobody may declare it
		o.Exchange, o.RoutingKey, o.Queue = "", "", "amq.violence"
	},
}

func kwargs(h *host, t *task) map[string]json.RawMessage {
	url, err := celery.MarshalJSON(h.urlOf(t.picture, t.kind))
	if err != nil { // a string is always JSON
		panic(err)
	}
	return map[string]json.RawMessage{"image_url": url}
}

// plan is the order of the kinds. In a short run the trials have those after whose
// violence the leases of dead workers have to run out.
func plan(cfg Config, rng *rand.Rand) []kind {
	shares := shares
	shares[deadly] = cfg.Jobs / jobsPerDeadly
	if cfg.Short {
		shares[brief], shares[deadly] = 0, 0
	}
	var out []kind
	for k, share := range shares {
		n := share
		if share > 0 && kind(k) != deadly {
			n = max(1, cfg.Jobs*share/100)
		}
		out = append(out, slices.Repeat([]kind{kind(k)}, n)...)
	}
	for len(out) < cfg.Jobs {
		out = append(out, plain)
	}
	rng.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	return out[:cfg.Jobs]
}
