package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/config"
	"onceover/internal/control"
	"onceover/internal/redisretry"
	"onceover/tasks"
)

// workers is what the workers said by remote control.
type workers struct {
	err        error
	all        []control.Worker
	registered map[string][]string // names of tasks by node; a node that says nothing is missing
	pauses     map[string]control.Pause
	noPauses   error // why they are not known
}

// errNoRemoteControl is that workers with these settings answer nobody.
var errNoRemoteControl = errors.New("workers answer nobody with ONCEOVER_REMOTE_CONTROL=false")

// answering is how long workers may take.
const answering = time.Second // as celery inspect waits

func askWorkers(ctx context.Context, s *config.Settings) (w workers) {
	if w.err = errNoRemoteControl; s.Worker.RemoteControl {
		w.ask(ctx, s.Worker.BrokerURLs)
	}
	opt, err := redisretry.Options(s.FailedURL)
	if err != nil {
		w.noPauses = err
		return w
	}
	opt.DialTimeout = min(opt.DialTimeout, Limit/2)
	client := redis.NewClient(opt)
	defer client.Close()
	w.pauses, w.noPauses = control.NewPauses(client).All(ctx)
	return w
}

// ask asks by remote control.
func (w *workers) ask(ctx context.Context, urls []string) {
	c := control.New("onceover doctor", urls)
	c.Wait = answering
	defer c.Close()
	var asking sync.WaitGroup
	w.registered = map[string][]string{}
	asking.Go(func() {
		answers, _ := c.Ask(ctx, "registered", nil, nil) // Workers has the same error
		for node, answer := range answers {
			var names []string
			if json.Unmarshal(answer, &names) == nil {
				w.registered[node] = names
			}
		}
	})
	w.all, w.err = c.Workers(ctx)
	asking.Wait()
}

// answered makes a check of what the workers say.
func answered(look func(f *facts) []Finding) func(*facts) []Finding {
	return func(f *facts) []Finding {
		switch {
		case f.workers.err != nil:
			return append(unknown(f.workers.err.Error()), look(f)...) // some may have answered
		case len(f.workers.all) == 0:
			return unknown("no worker answers")
		}
		return look(f)
	}
}

// consumes reports whether a worker consumes one of the queues.
func consumes(w control.Worker, queues []string) bool {
	return slices.ContainsFunc(w.Queues, func(q string) bool { return slices.Contains(queues, q) })
}

var workerChecks = []check{
	{"workers.alarm", "RabbitMQ takes messages", func(f *facts) []Finding {
		var blocked *control.BlockedError
		switch {
		case f.workers.err == nil:
			return nil
		case !errors.As(f.workers.err, &blocked):
			return unknown(f.workers.err.Error())
		}
		return []Finding{{Severity: Error, Found: "it takes no messages, as it is " + blocked.Reason, Remedy: "free memory or disk on its machine: rabbitmq-diagnostics alarms"}}
	}},
	{"workers.answer", "workers answer", func(f *facts) (out []Finding) {
		w := f.workers
		switch {
		case w.err != nil:
			return unknown(w.err.Error())
		case len(w.all) == 0:
			return []Finding{{Severity: Warning, Found: "no worker answers celery inspect", Remedy: "start one; a worker with ONCEOVER_REMOTE_CONTROL=false, or without the rights, answers nobody"}}
		}
		for _, one := range w.all {
			if one.Fault != "" {
				out = append(out, Finding{Severity: Warning, Subject: one.Node, Found: one.Fault, Remedy: "look into its log: it may be busy, or cut off from the broker"})
			}
		}
		return out
	}},
	{"workers.problems", "workers have no problem of their own", answered(func(f *facts) (out []Finding) {
		for _, w := range f.workers.all {
			for _, text := range w.Problems {
				out = append(out, Finding{Severity: Error, Subject: w.Node, Found: text, Remedy: "docs/failures.md has what to do about each"})
			}
		}
		return out
	})},
	{"workers.tasks", "whoever consumes the queues knows image.analyze", answered(func(f *facts) (out []Finding) {
		for _, w := range f.workers.all {
			names, said := f.workers.registered[w.Node]
			known := slices.ContainsFunc(names, func(name string) bool {
				return name == tasks.NameAnalyze || strings.HasPrefix(name, tasks.NameAnalyze+" ")
			})
			switch {
			case known || !consumes(w, f.Settings.Worker.Queues):
				continue
			case !said:
				out = append(out, Finding{Severity: Unknown, Subject: w.Node, Found: "not known: it does not say which tasks it knows"})
				continue
			}
			out = append(out, Finding{Severity: Error, Subject: w.Node, Found: "it consumes " + strings.Join(w.Queues, ", ") + " and does not know " + tasks.NameAnalyze + ": jobs that come to it fail, or are thrown away",
				Remedy: "take the queue out of its -Q, or stop it"})
		}
		return out
	})},
	{"workers.nodes", "every worker has a name of its own", answered(func(f *facts) (out []Finding) {
		// Two of one name answer as one: their numbers jump.
		seen := map[string]bool{}
		for _, w := range f.workers.all {
			if host := w.Node[strings.LastIndexByte(w.Node, '@')+1:]; host == "localhost" && len(f.workers.all) > 1 && !seen[host] {
				seen[host] = true
				out = append(out, Finding{Severity: Warning, Subject: w.Node, Found: "its name is that of any machine: two such workers answer as one, and remote control reaches both or one of them", Remedy: "set ONCEOVER_NODE_NAME to a name for each process"})
			}
		}
		return out
	})},
	{"workers.paused", "no queue is paused", func(f *facts) (out []Finding) {
		if err := f.workers.noPauses; err != nil {
			return unknown(err.Error())
		}
		for queue, p := range f.workers.pauses {
			found := fmt.Sprintf("paused by %s since %s", p.By, p.Since.Format(time.RFC3339))
			if p.Why != "" {
				found += ": " + p.Why
			}
			out = append(out, Finding{Severity: Warning, Subject: queue, Found: found, Remedy: "onceover queue resume " + queue})
		}
		return sorted(out)
	}},
}
