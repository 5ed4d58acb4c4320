package worker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/rabbit"
)

// Names of faults.
const (
	faultBroker  = "broker" // connecting
	faultQueue   = "queue " // with the name of the queue, "" for what all queues share
	faultPublish = "publish"
	faultTasks   = "publish tasks" // to the exchange of the tasks: only the jobs wait that do
	faultConsume = "consume "      // with the name of the queue
)

// faults are what keeps the worker from working and does not pass by itself, or not soon. Each is
// logged once, at level error if a person has to do something, and again only when it changes.
type faults struct {
	log *zap.Logger

	mu     sync.Mutex
	now    map[string]error
	warned map[string]bool
}

func newFaults(log *zap.Logger) *faults {
	return &faults{log: log, now: map[string]error{}, warned: map[string]bool{}}
}

// set notes a fault, or with nil that it is over.
func (f *faults) set(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.now[name]
	if err == nil {
		delete(f.now, name)
		var config *rabbit.ConfigError
		if errors.As(before, &config) {
			f.log.Info("what was wrong with the broker's configuration is mended", zap.String("was", config.Doing))
		}
		return
	}
	f.now[name] = err
	if before != nil && before.Error() == err.Error() {
		return
	}
	var config *rabbit.ConfigError
	if errors.As(err, &config) {
		f.log.Error("the broker does not let us work", zap.String("doing", config.Doing), zap.Error(config.Err), zap.String("remedy", config.Remedy))
		return
	}
	f.log.Warn("broker not reachable, trying again", zap.Error(err))
}

// unbound says once that a queue was there and may not be bound by us, and with nil that this is over.
func (f *faults) unbound(queue string, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch before := f.warned[queue]; {
	case why != nil && !before:
		f.log.Warn("queue not bound: if somebody else has bound it, all is well", zap.String("queue", queue), zap.Error(why))
	case why == nil && before:
		f.log.Info("queue bound, or its fault is another one now", zap.String("queue", queue))
	}
	f.warned[queue] = why != nil
}

// get returns a fault, nil if there is none.
func (f *faults) get(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now[name]
}

func (f *faults) has(name string) bool { return f.get(name) != nil }

// forget drops a fault without a word: nobody wants the queue any more.
func (f *faults) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.now, name)
}

// queues returns the faults of queues.
func (f *faults) queues() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []error
	for _, name := range slices.Sorted(maps.Keys(f.now)) {
		if strings.HasPrefix(name, faultQueue) {
			out = append(out, f.now[name])
		}
	}
	return out
}

// all returns every fault, in the order of their names.
func (f *faults) all() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []error
	for _, name := range slices.Sorted(maps.Keys(f.now)) {
		out = append(out, f.now[name])
	}
	return out
}

// patience is how long a store may be away before consuming is paused. A fault that a person has
// to mend is not waited for.
const patience = 2 * time.Second

// obstacle returns why no job could be brought to its end at the moment, nil if nothing is known
// to be in the way.
func (w *Worker) obstacle() error {
	if err := w.faults.get(faultPublish); err != nil {
		return err
	}
	for _, store := range []Store{w.results, w.marks, w.kept} { // without which no job ends
		f := store.Fault()
		if f != nil && (f.Kind == redisretry.Rights || !w.consuming.Load() || time.Since(f.Since) > patience) {
			return faultError(f)
		}
	}
	for _, store := range w.cfg.Needs { // an outage, or one right that is missing, the jobs that need it wait for, each for itself
		if f := store.Fault(); f != nil && f.Shut() {
			return faultError(f)
		}
	}
	return nil
}

// faultError says what is wrong with a store, and what to do.
func faultError(f *redisretry.Fault) error {
	if f.Remedy != "" {
		return fmt.Errorf("redis for %s: %w: %s", f.Role, f.Err, f.Remedy)
	}
	return fmt.Errorf("redis for %s: %w", f.Role, f.Err)
}

// tellPaused logs that consuming is paused from now on, or goes on again. It is called by the goroutine of consume only.
func (w *Worker) tellPaused(why error) {
	switch {
	case why != nil && !w.consumesNothing:
		w.log.Warn("consuming is paused: the jobs stay in their queues", zap.Error(why))
	case why == nil && w.consumesNothing:
		w.log.Info("consuming again")
	}
	w.consumesNothing = why != nil
}

// Problems says why jobs cannot be run as they should, for people: nothing if all is well.
func (w *Worker) Problems() []string {
	var out []string
	for _, err := range append(w.faults.all(), w.obstacle()) {
		if err != nil && !slices.Contains(out, err.Error()) {
			out = append(out, err.Error())
		}
	}
	if len(out) == 0 && !w.consuming.Load() {
		out = append(out, "not consuming: the broker is not connected, or the worker is stopping")
	}
	return out
}
