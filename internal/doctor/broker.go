package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"onceover/internal/config"
	"onceover/rabbit"
)

// broker is what RabbitMQ said.
type broker struct {
	down   map[string]error   // URLs without secrets that cannot be connected to, with why
	urls   int                // that there are
	seen   *rabbit.Inspection // by one of those that can; nil if none can
	ended  error              // the connection was lost before all was looked at
	expiry time.Time          // of the server's certificate, zero without TLS
}

// delays is the exchange of Celery's native delayed delivery (kombu/transport/native_delayed_delivery.py).
const delays = "celery_delayed_delivery"

// askBroker connects to all URLs at the same time, as one that does not answer takes all the time there is. The first that can be connected
// to is asked.
func askBroker(ctx context.Context, s *config.Settings) (b broker) {
	b.urls, b.down = len(s.Worker.BrokerURLs), map[string]error{}
	var asking sync.WaitGroup
	var mu sync.Mutex // for down
	var first sync.Once
	for _, url := range s.Worker.BrokerURLs {
		asking.Go(func() {
			conn, err := rabbit.Dial(ctx, "onceover doctor", []string{url})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				b.down[nobody(rabbit.RedactURL(url))] = err
				return
			}
			defer context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })()
			defer func() { conn.CloseDeadline(time.Now().Add(time.Second)) }()
			first.Do(func() { b.inspect(ctx, conn, s) })
		})
	}
	asking.Wait()
	return b
}

// inspect asks one broker for what the queues of the settings need.
func (b *broker) inspect(ctx context.Context, conn *rabbit.Conn, s *config.Settings) {
	if certificates := conn.ConnectionState().PeerCertificates; len(certificates) > 0 {
		b.expiry = certificates[0].NotAfter
	}
	names := slices.Clone(s.Worker.Queues)
	if s.Worker.DrainDeadLetters && !slices.Contains(names, rabbit.QueueDeadLetter) {
		names = append(names, rabbit.QueueDeadLetter)
	}
	queues := rabbit.Names(names...)
	b.seen, b.ended = rabbit.Inspect(ctx, conn, exchangesOf(queues, s.Worker.DelayedDelivery), queues)
}

// exchangesOf are those of the design that the queues need, each with its type.
func exchangesOf(queues []rabbit.Queue, delayed bool) map[string]string {
	out := map[string]string{}
	for _, q := range queues {
		if q.Args == nil { // one of Celery's: its exchange is its owner's
			continue
		}
		out[q.Exchange] = q.ExchangeKind()
		if q.Args["x-dead-letter-exchange"] != nil {
			out[rabbit.ExchangeDeadLetter] = "direct"
		}
	}
	if delayed && rabbit.WantsDelays(queues) {
		out[delays] = "topic"
	}
	return out
}

// nobody leaves out that URLs had a user: what is left of them is one.
func nobody(text string) string { return strings.ReplaceAll(text, "…@", "") }

// gaps says why not all that was asked of the broker is known, nil if it is.
func (b *broker) gaps() []Finding {
	switch {
	case b.seen == nil:
		return unknown("no broker answers")
	case b.ended != nil:
		return unknown("the broker did not answer all that was asked")
	}
	return nil
}

// queues makes a check of what is known of each queue.
func queues(look func(f *facts, name string, q rabbit.QueueState) *Finding) func(*facts) []Finding {
	return func(f *facts) []Finding {
		out := f.broker.gaps()
		if f.broker.seen == nil {
			return out
		}
		for _, name := range slices.Sorted(maps.Keys(f.broker.seen.Queues)) {
			if one := look(f, name, f.broker.seen.Queues[name]); one != nil {
				one.Subject = name
				out = append(out, *one)
			}
		}
		return out
	}
}

func unknown(why string) []Finding { return []Finding{{Severity: Unknown, Found: "not known: " + why}} }

var brokerChecks = []check{
	{"broker.reachable", "every broker URL can be connected to", func(f *facts) (out []Finding) {
		b := f.broker
		for _, url := range slices.Sorted(maps.Keys(b.down)) {
			severity, remedy := Error, "start it, or correct ONCEOVER_BROKER_URL"
			if len(b.down) < b.urls {
				severity, remedy = Warning, "the others are used meanwhile; start it, or take it out of ONCEOVER_BROKER_URL"
			}
			var fault *rabbit.ConfigError
			if errors.As(b.down[url], &fault) {
				remedy = fault.Remedy
			}
			out = append(out, Finding{Severity: severity, Subject: url, Found: nobody(b.down[url].Error()), Remedy: remedy})
		}
		if b.ended != nil {
			out = append(out, Finding{Severity: Error, Found: fmt.Sprintf("the broker did not answer all that was asked: %v", b.ended), Remedy: "look into its log, and ask again"})
		}
		return out
	}},
	{"broker.version", "the release is one that was tried", func(f *facts) []Finding {
		if f.broker.seen == nil {
			return unknown("no broker answers")
		}
		s := f.broker.seen
		major, minor := versionOf(s.Version)
		if s.Product != "RabbitMQ" || major > 3 || major == 3 && minor >= 10 {
			return nil
		}
		return []Finding{{Severity: Warning, Found: "RabbitMQ " + s.Version + " is older than any that was tried: quorum queues expire no messages before 3.10", Remedy: "use RabbitMQ 3.10 or newer: see docs/tested-with.md"}}
	}},
	{"broker.certificate", "its certificate is good for a while", func(f *facts) []Finding {
		if f.broker.seen == nil {
			return unknown("no broker answers")
		}
		left := f.broker.expiry.Sub(f.now)
		if f.broker.expiry.IsZero() || left > 14*24*time.Hour {
			return nil
		}
		return []Finding{{Severity: Warning, Found: fmt.Sprintf("the broker's certificate runs out in %v", left.Round(time.Hour)), Remedy: "renew it"}}
	}},
	{"broker.exchanges", "the exchanges are as designed", func(f *facts) []Finding {
		out := f.broker.gaps()
		if f.broker.seen == nil {
			return out
		}
		for _, name := range []string{rabbit.ExchangeTasks, rabbit.ExchangeDeadLetter} {
			e := f.broker.seen.Exchanges[name]
			if e.Unseen != nil {
				out = append(out, Finding{Severity: Unknown, Subject: name, Found: "not known: " + e.Unseen.Error()})
			}
			if e.Missing {
				out = append(out, Finding{Severity: Warning, Subject: name, Found: "the exchange is not there: what is published to it is lost or refused", Remedy: "start a worker that may declare it, or run onceover topology --declare"})
			}
			if rabbit.OtherType(e.Fault) {
				out = append(out, Finding{Severity: Error, Subject: name, Found: e.Fault.Error(), Remedy: "delete the exchange: a worker declares it again"})
			}
		}
		return out
	}},
	{"broker.queues", "the queues are there", queues(func(f *facts, name string, q rabbit.QueueState) *Finding {
		if !q.Missing {
			return nil
		}
		return &Finding{Severity: Warning, Found: "the queue is not there", Remedy: "start a worker that may declare it, or run onceover topology --declare"}
	})},
	{"broker.arguments", "the queues have the arguments of the design", queues(func(_ *facts, name string, q rabbit.QueueState) *Finding {
		d := q.Differs
		switch {
		case q.Unseen != nil:
			return &Finding{Severity: Unknown, Found: "not known: " + q.Unseen.Error()}
		case d == nil:
			return nil
		}
		out := &Finding{Severity: Warning, Found: fmt.Sprintf("%s is %s, and %s in the design", d.Argument, d.Have, d.Want),
			Remedy: "declare it alike on all sides: Celery's task_queues and onceover topology; a queue's arguments change only when it is deleted and declared again"}
		switch d.Argument {
		case "":
			out.Found = "it differs from the design: " + d.Have
		case "x-dead-letter-exchange", "x-dead-letter-routing-key":
			out.Severity = Error
			out.Found += ": what expires or is rejected there becomes no failed job"
		case "durable":
			out.Severity = Error
			out.Found += ": a restart of the broker loses it with all that waits"
		}
		return out
	})},
	{"broker.read", "the user may consume the queues", queues(func(_ *facts, name string, q rabbit.QueueState) *Finding {
		if q.Fault == nil {
			return nil
		}
		return &Finding{Severity: Error, Found: q.Fault.Error(), Remedy: "rabbitmqctl set_permissions, with the queue in the third expression: docs/operations.md, Rights"}
	})},
	{"broker.write", "the user may publish what follows jobs", func(f *facts) []Finding {
		out := f.broker.gaps()
		if f.broker.seen == nil {
			return out
		}
		if fault := f.broker.seen.Publish; fault != nil {
			out = append(out, Finding{Severity: Error, Subject: "amq.default", Found: fault.Error(), Remedy: "rabbitmqctl set_permissions, with amq\\.default in the second expression: docs/operations.md, Rights"})
		}
		return out
	}},
	{"broker.consumers", "somebody consumes every queue", queues(func(_ *facts, name string, q rabbit.QueueState) *Finding {
		switch {
		case q.Missing || q.Fault != nil || q.Consumers > 0:
			return nil
		case q.Ready > 0:
			return &Finding{Severity: Error, Found: fmt.Sprintf("%d messages wait, and nobody consumes it", q.Ready), Remedy: "start a worker with it in ONCEOVER_QUEUES, or resume it (onceover queue list)"}
		}
		return &Finding{Severity: Warning, Found: "nobody consumes it", Remedy: "start a worker with it in ONCEOVER_QUEUES, or resume it (onceover queue list)"}
	})},
	{"broker.backlog", "the queues have room", queues(func(_ *facts, name string, q rabbit.QueueState) *Finding {
		most, limited := rabbit.QueueNamed(name).Args["x-max-length"].(int32)
		if !limited || q.Ready <= int(most)*8/10 {
			return nil
		}
		return &Finding{Severity: Error, Found: fmt.Sprintf("%d messages wait, and it holds %d: beyond, the oldest become failed jobs (maxlen), and those of q.dlq are lost", q.Ready, most), Remedy: "start more workers, or slow producers down"}
	})},
	{"broker.delays", "Celery can delay tasks", func(f *facts) []Finding {
		switch {
		case f.broker.seen == nil || f.broker.ended != nil:
			return f.broker.gaps()
		case f.broker.seen.Exchanges[delays].Unseen != nil:
			return unknown(f.broker.seen.Exchanges[delays].Unseen.Error())
		case !f.broker.seen.Exchanges[delays].Missing:
			return nil
		}
		return []Finding{{Severity: Warning, Subject: delays, Found: "native delayed delivery is not declared: Celery 5.5 and later cannot publish a task with an ETA to a quorum queue", Remedy: "start a worker that may declare it, or set ONCEOVER_DELAYED_DELIVERY=false if no producer needs it"}}
	}},
}

// versionOf reads the first two numbers of a version, zeros if it has none.
func versionOf(text string) (major, minor int) {
	parts := strings.SplitN(text, ".", 3)
	if len(parts) > 1 {
		major, _ = strconv.Atoi(parts[0])
		minor, _ = strconv.Atoi(parts[1])
	}
	return major, minor
}
