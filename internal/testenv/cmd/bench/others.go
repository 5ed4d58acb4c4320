package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
)

// inFlight is how many jobs the bare consumer has at once, as the worker does by default.
const inFlight = 100

// consumeBare does what has to be done for a job, and nothing else: it reads the message and the cached answer, writes progress, sends the callback if
// there is one and waits for its confirm, stores and publishes the result, writes progress again, and acknowledges.
func consumeBare(ctx context.Context) error {
	client := func(db int) *redis.Client {
		return redis.NewClient(&redis.Options{Addr: os.Getenv("BENCH_REDIS"), DB: db})
	}
	results, cache, progress := client(0), client(1), client(2)
	conn, err := amqp.Dial(os.Getenv("BENCH_BROKER"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Qos(inFlight, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.ConsumeWithContext(ctx, queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	out, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := out.Confirm(false); err != nil {
		return err
	}
	var sending sync.Mutex
	call := func(body []byte, headers amqp.Table) error {
		sending.Lock()
		sent, err := out.PublishWithDeferredConfirm("", callbackQueue, true, false, amqp.Publishing{
			ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Headers: headers, Body: body})
		sending.Unlock()
		if err != nil {
			return err
		}
		if !sent.Wait() {
			return errors.New("the broker refused a callback")
		}
		return nil
	}
	job := func(d amqp.Delivery) error {
		id, _ := d.Headers["id"].(string)
		var body []json.RawMessage
		var kwargs struct{ PHash string }
		if err := json.Unmarshal(d.Body, &body); err != nil || len(body) != 3 {
			return fmt.Errorf("body of %s: %w", id, err)
		}
		if err := json.Unmarshal(body[1], &kwargs); err != nil {
			return err
		}
		doc, err := cache.Get(ctx, "cache:image:hash:"+kwargs.PHash).Bytes()
		if err != nil {
			return err
		}
		show := func(number int, stage string) error {
			text := fmt.Sprintf(`{"progress":%d,"message":"%s","stage":"%s","updated_at":"%s"}`, number, stage, stage, time.Now().UTC().Format("2006-01-02T15:04:05"))
			return progress.Set(ctx, "job:"+id+":progress", text, time.Hour).Err()
		}
		if err := show(30, "cache"); err != nil {
			return err
		}
		var embed struct{ Callbacks []json.RawMessage }
		if err := json.Unmarshal(body[2], &embed); err != nil {
			return err
		}
		for range embed.Callbacks {
			called := slices.Concat([]byte("[["), doc, []byte("],{},"), body[2], []byte("]"))
			if err := call(called, d.Headers); err != nil {
				return err
			}
		}
		meta, err := json.Marshal(map[string]any{"status": "SUCCESS", "result": json.RawMessage(doc), "traceback": nil, "children": []any{},
			"date_done": time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00"), "task_id": id})
		if err != nil {
			return err
		}
		key := "celery-task-meta-" + id
		p := results.Pipeline()
		p.Set(ctx, key, meta, 24*time.Hour)
		p.Publish(ctx, key, meta)
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
		return errors.Join(show(100, "done"), d.Ack(false))
	}
	var all sync.WaitGroup
	defer all.Wait()
	for d := range deliveries {
		all.Go(func() {
			if err := job(d); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "bare consumer:", err)
				os.Exit(1)
			}
		})
	}
	return nil
}

// pythonApp is the same as a task of Celery's.
const pythonApp = `
import datetime, json, os
import redis
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend="redis://%s/0" % os.environ["BENCH_REDIS"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, broker_connection_retry_on_startup=True,
                task_create_missing_queues=False, worker_send_task_events=False)
from kombu import Queue
app.conf.task_queues = [Queue("bench", no_declare=True), Queue("bench.callbacks", no_declare=True)]
app.conf.task_default_queue = "bench"
host, port = os.environ["BENCH_REDIS"].split(":")
cache = redis.Redis(host=host, port=int(port), db=1)
progress = redis.Redis(host=host, port=int(port), db=2)


def show(job, number, stage):
    progress.set("job:%s:progress" % job, json.dumps({
        "progress": number, "message": stage, "stage": stage,
        "updated_at": datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%S")}), ex=3600)


@app.task(bind=True, name="image.analyze")
def analyze(self, image_url, phash):
    show(self.request.id, 30, "cache")
    answer = json.loads(cache.get("cache:image:hash:" + phash))
    show(self.request.id, 100, "done")
    return answer
`
