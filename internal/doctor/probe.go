package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/config"
	"onceover/internal/redisretry"
	"onceover/rabbit"
)

// probing is how long a job of a probe may take.
const probing = 10 * time.Second

// Probe has a worker run one job of each queue that somebody consumes, from the broker to its result, and adds what came of it to the
// report. The job is celery.accumulate, which every worker of Celery has: no picture is looked at, and no model asked. Its keys are
// deleted, unless its result comes too late.
func Probe(ctx context.Context, s *config.Settings, r *Report) {
	if s.Worker.RPCResults {
		r.add(Finding{Check: "probe.job", Severity: Unknown, Found: "not known: results go to the client that asks (rpc://)"})
		return
	}
	for _, queue := range s.Worker.Queues {
		if queue == rabbit.QueueDeadLetter {
			continue
		}
		f := Finding{Check: "probe.job", Subject: queue}
		var behind *behindError
		switch took, err := probe(ctx, s, queue); {
		case errors.As(err, &behind):
			f.Severity, f.Found = Unknown, "not known: "+err.Error()
		case err != nil:
			f.Severity, f.Found, f.Remedy = Error, err.Error(), "see the checks before this one, and the worker's log"
		default:
			f.Severity, f.Found = OK, fmt.Sprintf("a job was run in %v, from the queue to its result", took.Round(time.Millisecond))
		}
		r.add(f)
	}
}

// behindError is that a job has not come to its turn.
type behindError struct {
	ready int // messages that waited before it
	err   error
}

func (e *behindError) Error() string {
	return fmt.Sprintf("%d messages waited before the job: %v", e.ready, e.err)
}
func (e *behindError) Unwrap() error { return e.err }

// probe runs one job. The error is a *behindError if it may just have to wait for others.
func probe(ctx context.Context, s *config.Settings, queue string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, probing)
	defer cancel()
	producer := rabbit.NewProducer("onceover doctor", s.Worker.BrokerURLs)
	defer producer.Close()
	conn, err := producer.Conn(ctx)
	if err != nil {
		return 0, err
	}
	standing, err := rabbit.Look(conn, queue)
	switch {
	case err != nil:
		return 0, err
	case standing.Consumers == 0:
		return 0, errors.New("no job was sent, as nobody consumes the queue")
	}
	opt, err := redisretry.Options(s.ResultsURL)
	if err != nil {
		return 0, err
	}
	results := redis.NewClient(opt)
	defer results.Close()
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	const answer = `"onceover doctor"`
	id := uuid.NewString()
	req := &celery.Request{
		ID: id, Task: "celery.accumulate", Args: []json.RawMessage{json.RawMessage(answer)}, Kwargs: map[string]json.RawMessage{"index": json.RawMessage("0")},
		Origin: fmt.Sprintf("gen%d@%s", os.Getpid(), host), Expires: time.Now().Add(probing),
	}
	m, err := rabbit.New(celery.Message{Request: req, RoutingKey: queue})
	if err != nil {
		return 0, err
	}
	key := "celery-task-meta-" + id
	told := results.Subscribe(ctx, key)
	defer told.Close()
	if _, err := told.Receive(ctx); err != nil { // that it listens
		return 0, fmt.Errorf("listen for the result: %w", err)
	}
	defer func() {
		late, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		if derr := results.Del(late, key, "onceover:run:"+id).Err(); derr != nil && err == nil {
			err = fmt.Errorf("delete the result of the job %s: %w", id, derr)
		}
	}()
	began := time.Now()
	if err := producer.Publish(ctx, m); err != nil {
		return 0, err
	}
	var meta struct {
		Status celery.State
		Result json.RawMessage
	}
	for !meta.Status.Final() { // STARTED comes first, where it is told
		said, err := told.ReceiveMessage(ctx)
		if err != nil {
			err = fmt.Errorf("no result came in %v: %w. A worker that comes to it later leaves %s, for as long as results are kept", probing, err, key)
			if standing.Ready > 0 {
				return 0, &behindError{standing.Ready, err}
			}
			return 0, err
		}
		if err := json.Unmarshal([]byte(said.Payload), &meta); err != nil {
			return 0, fmt.Errorf("the result of job %s cannot be read: %w", id, err)
		}
	}
	took = time.Since(began)
	if meta.Status != celery.Success || string(meta.Result) != answer {
		return 0, fmt.Errorf("job %s ended as %s with %.200s, expected SUCCESS with %s", id, meta.Status, meta.Result, answer)
	}
	return took, nil
}
