package violence

import (
	"context"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/rabbit"
)

// mostOpen is how many tasks may be open at once: RabbitMQ drops what is beyond
// 5000 in the queue, or stays in it longer than 300 s.
const mostOpen = 400

// mostAtOnce is how many jobs are published at once.
const mostAtOnce = 20

// queuesOf are the queues that the jobs go to, and the one that does not always confirm.
func queuesOf(deliveryLimit int) []rabbit.Queue {
	limited := func(q rabbit.Queue) rabbit.Queue {
		if deliveryLimit > 0 {
			q.Args["x-delivery-limit"] = int32(deliveryLimit)
		}
		return q
	}
	short := rabbit.QueueNamed(queue)
	short.Name, short.Exchange, short.BindingKey = briefQueue, briefQueue, briefQueue
	short.Args["x-message-ttl"] = int32(briefTTL.Milliseconds())
	stuck := rabbit.QueueNamed(stuckQueue)
	stuck.Args = amqp.Table{"x-queue-type": "quorum"}
	return []rabbit.Queue{limited(rabbit.QueueNamed(queue)), limited(short), stuck}
}

// producer publishes jobs as a Celery producer does that publishes once more when
// it did not see the confirm.
type producer struct {
	servers *servers
	tally   *tally
	queues  []rabbit.Queue
	conn    *rabbit.Conn
	pub     *rabbit.Publisher
	again   int // publications that were repeated
}

func (p *producer) connect(ctx context.Context) error {
	p.close()
	conn, err := rabbit.Dial(ctx, "violence", []string{p.servers.rabbit.URL()})
	if err != nil {
		return err
	}
	p.conn = conn
	if _, err := rabbit.Declare(ctx, conn, p.queues...); err != nil {
		return err
	}
	p.pub = rabbit.NewPublisher(conn)
	return nil
}

func (p *producer) close() {
	if p.conn != nil {
		_ = p.conn.Close() // it may be closed already
		if p.pub != nil {
			p.pub.Close()
		}
		p.conn, p.pub = nil, nil
	}
}

// publish returns when the broker has confirmed the messages, however long it is
// away.
func (p *producer) publish(ctx context.Context, out ...rabbit.Message) error {
	for sent := false; ; {
		var err error
		if p.pub == nil {
			err = p.connect(ctx)
		}
		if err == nil && p.pub != nil {
			if sent {
				p.again += len(out)
			}
			sent = true
			wait, cancel := context.WithTimeout(ctx, 20*time.Second)
			err = p.pub.Publish(wait, out...)
			cancel()
			if err == nil {
				return nil
			}
		}
		p.close()
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("publish %d jobs: %w", len(out), err)
		}
	}
}

// ledger holds all tasks, and watches their states.
type ledger struct {
	mu   sync.Mutex
	jobs []*job
	open map[string]*task // those whose state is not final
}

func newLedger() *ledger { return &ledger{open: map[string]*task{}} }

func (l *ledger) add(j *job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.jobs = append(l.jobs, j)
	for _, t := range j.tasks {
		l.open[t.id] = t
	}
}

func (l *ledger) tasks() []*task {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*task
	for _, j := range l.jobs {
		out = append(out, j.tasks...)
	}
	return out
}

// openCount counts the tasks that have not ended; those that wait for their time
// are not counted in working.
func (l *ledger) openCount() (all, working int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.open {
		if !t.kind.parked() {
			working++
		}
	}
	return len(l.open), working
}

// after returns the task that follows t in its chain, nil if there is none.
func (l *ledger) after(t *task) *task {
	for _, next := range l.tasks() {
		if next.after == t {
			return next
		}
	}
	return nil
}

func (l *ledger) hasEnded(t *task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[t.id] == nil
}

// reopen has all tasks looked at again that have not succeeded.
func (l *ledger) reopen(tasks []*task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tasks {
		if t.state != celery.Success {
			l.open[t.id] = t
		}
	}
}

// look reads the states of the open tasks.
func (l *ledger) look(ctx context.Context, s *servers) error {
	l.mu.Lock()
	ids := make([]string, 0, len(l.open))
	for id := range l.open {
		ids = append(ids, id)
	}
	l.mu.Unlock()
	states, err := s.results.States(ctx, ids)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, id := range ids {
		if t := l.open[id]; t != nil {
			if t.state = states[i]; final(t.state) {
				delete(l.open, id)
				t.ended = time.Now()
			}
		}
	}
	return nil
}

func final(s celery.State) bool {
	return s == celery.Success || s == celery.Failure || s == celery.Revoked
}

// watch looks now and then until ctx ends.
func (l *ledger) watch(ctx context.Context, s *servers) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = l.look(ctx, s) // an error means that ctx has ended
		case <-ctx.Done():
			return
		}
	}
}

// publishAll publishes the jobs at an even pace over the duration, slower if the
// workers do not keep up.
func publishAll(ctx context.Context, cfg Config, l *ledger, p *producer, f *factory, order []kind) error {
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < len(order); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		due := int(float64(len(order)) * float64(time.Since(began)) / float64(cfg.Duration))
		end := min(due, len(order), sent+mostAtOnce)
		if _, working := l.openCount(); working+end-sent > mostOpen {
			continue
		}
		if err := publishJobs(ctx, l, p, f, order[sent:end]); err != nil {
			return err
		}
		sent = end
	}
	return nil
}

// publishJobs publishes a job of each of these kinds.
func publishJobs(ctx context.Context, l *ledger, p *producer, f *factory, order []kind) error {
	var batch []rabbit.Message
	for _, k := range order {
		j, err := f.job(k)
		if err != nil {
			return err
		}
		l.add(j)
		batch = append(batch, j.outgoing)
	}
	if len(batch) == 0 {
		return nil
	}
	return p.publish(ctx, batch...)
}
