package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// control measures how long a ping by remote control and the health check take while a queue is worked off.
func control(ctx context.Context, b *bench, o options) ([]*table, error) {
	t := &table{title: "Remote control and health under a backlog", note: "Asked one after the other, 20 ms after the last answer, while hits are worked off. A ping is that of `celery inspect ping`.",
		head: []string{"worker", "pings", "p50, ms", "p99, ms", "health checks", "p50, ms", "p99, ms"}}
	for _, c := range b.whole() {
		jobs := o.jobs
		if c.rate > 0 {
			jobs = min(jobs*3, int(c.rate*8)) // some seconds of work
		}
		pings, health, err := b.asked(ctx, c, jobs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		cells := []string{c.name, strconv.Itoa(len(pings)), ms(pings.at(0.5)), ms(pings.at(0.99)), "", "", ""}
		if len(health) > 0 {
			cells = append(cells[:4], strconv.Itoa(len(health)), ms(health.at(0.5)), ms(health.at(0.99)))
		}
		t.add(cells...)
	}
	return []*table{t}, nil
}

// asked asks a worker that has jobs.
func (b *bench) asked(ctx context.Context, c *candidate, jobs int) (pings, health delays, err error) {
	if err := b.fill(ctx, load{jobs: jobs}); err != nil {
		return nil, nil, err
	}
	p, err := newPinger(b.conn)
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	w, err := b.launch(c)
	if err != nil {
		return nil, nil, err
	}
	defer w.Kill()
	if _, _, err := b.until(ctx, w, 1, 2*time.Millisecond); err != nil {
		return nil, nil, err
	}
	if err := p.hear(ctx); err != nil { // it is up
		return nil, nil, err
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var both sync.WaitGroup
	var pingFault, healthFault error
	both.Go(func() { pings, pingFault = repeat(asking, p.ping) })
	if addr := w.httpAddr(); addr != "" {
		both.Go(func() {
			health, healthFault = repeat(asking, func(ctx context.Context) error { return get(ctx, "http://"+addr+"/healthz") })
		})
	}
	_, _, err = b.until(ctx, w, jobs*95/100, 10*time.Millisecond)
	stop()
	both.Wait()
	if err := errors.Join(err, pingFault, healthFault); err != nil {
		return nil, nil, err
	}
	if len(pings) == 0 {
		return nil, nil, errors.New("the jobs were over before a ping was answered: name more -jobs")
	}
	if _, _, err := b.until(ctx, w, jobs, 10*time.Millisecond); err != nil {
		return nil, nil, err
	}
	_, err = w.stop()
	return pings, health, err
}

// repeat asks until ctx ends, and returns how long the answers took.
func repeat(ctx context.Context, ask func(context.Context) error) (all delays, err error) {
	for {
		began := time.Now()
		err := ask(ctx)
		if ctx.Err() != nil {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, time.Since(began))
		if wait(ctx, 20*time.Millisecond) != nil {
			return all, nil
		}
	}
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("got %s from %s", resp.Status, url)
	}
	return err
}

var httpIsUp = regexp.MustCompile(`"HTTP is up"[^\n]*"addr":"([^"]+)"`)

// httpAddr is where the worker answers, by its log; "" if it does not.
func (w *worker) httpAddr() string {
	text, err := os.ReadFile(w.log)
	if err != nil {
		return ""
	}
	if m := httpIsUp.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return ""
}

// pinger asks by remote control, as kombu's mailboxes do (kombu/pidbox.py).
type pinger struct {
	ch      *amqp.Channel
	queue   string
	replies <-chan amqp.Delivery
	tickets int
}

// The exchanges of remote control.
const (
	pidbox      = "celery.pidbox"
	pidboxReply = "reply.celery.pidbox"
)

func newPinger(conn *amqp.Connection) (*pinger, error) {
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	p := &pinger{ch: ch}
	for name, kind := range map[string]string{pidbox: "fanout", pidboxReply: "direct"} {
		if err := ch.ExchangeDeclare(name, kind, false, false, false, false, nil); err != nil {
			return nil, errors.Join(err, ch.Close())
		}
	}
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.QueueBind(q.Name, q.Name, pidboxReply, false, nil)
	}
	if err == nil {
		p.replies, err = ch.Consume(q.Name, "", true, true, false, false, nil)
	}
	if err != nil {
		return nil, errors.Join(err, ch.Close())
	}
	p.queue = q.Name
	return p, nil
}

func (p *pinger) close() { _ = p.ch.Close() }

// hear asks until somebody answers.
func (p *pinger) hear(ctx context.Context) error {
	for {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		err := p.ping(short)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// ping asks once, and waits for the answer.
func (p *pinger) ping(ctx context.Context) error {
	p.tickets++
	ticket := strconv.Itoa(p.tickets)
	body, err := json.Marshal(map[string]any{
		"method": "ping", "arguments": map[string]any{}, "destination": nil, "pattern": nil, "matcher": nil, "ticket": ticket,
		"reply_to": map[string]string{"exchange": pidboxReply, "routing_key": p.queue},
	})
	if err != nil {
		return err
	}
	if err := p.ch.PublishWithContext(ctx, pidbox, "", false, false, amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", Headers: amqp.Table{"clock": int64(p.tickets)}, Body: body,
	}); err != nil {
		return err
	}
	for {
		select {
		case d, ok := <-p.replies:
			if !ok {
				return errors.New("the channel of the replies was closed")
			}
			if got, _ := d.Headers["ticket"].(string); got == ticket {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
