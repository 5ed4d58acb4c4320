package doctor

import (
	"context"
	"sync"
	"time"

	"onceover/internal/config"
)

// Limit is how long all servers may take, and the file systems.
const Limit = 8 * time.Second

// A check judges one thing.
type check struct {
	id   string
	well string // what is so if nothing is found
	look func(*facts) []Finding
}

// checks are all there are, in the order of the report.
func checks() []check {
	var all []check
	for _, of := range [][]check{settingsChecks, machineChecks, brokerChecks, managementChecks, redisChecks, workerChecks, modelChecks} {
		all = append(all, of...)
	}
	return all
}

// Subject is what is examined.
type Subject struct {
	Settings      *config.Settings
	Warnings      []string            // of the settings
	Getenv        func(string) string // the environment of the worker
	Management    string              // URL of RabbitMQ's management API, with user and password; "": it is not asked
	SettingsAlone bool                // ask nobody: the servers are not there yet
}

// facts are what was found.
type facts struct {
	Subject
	now        time.Time
	machine    machine
	broker     broker
	management management
	redis      []*role
	workers    workers
	model      []endpoint
}

// Examine asks all servers, and judges what they say. It takes [Limit] at most, or until ctx ends.
func Examine(ctx context.Context, s Subject) *Report {
	began := time.Now()
	f := &facts{Subject: s, now: began}
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	all := checks()
	var asking sync.WaitGroup
	asking.Go(func() { f.machine = lookAtMachine(ctx, s) })
	if s.SettingsAlone {
		all = append(append([]check{}, settingsChecks...), machineChecks...)
	} else {
		f.redis = rolesOf(s.Settings)
		for _, r := range f.redis {
			asking.Go(func() { r.ask(ctx) })
		}
		asking.Go(func() { f.broker = askBroker(ctx, s.Settings) })
		asking.Go(func() { f.management = askManagement(ctx, s) })
		asking.Go(func() { f.workers = askWorkers(ctx, s.Settings) })
		asking.Go(func() { f.model = askModel(ctx, s.Settings) })
	}
	asking.Wait()
	r := newReport(f, all)
	r.Seconds = time.Since(began).Round(time.Millisecond).Seconds()
	return r
}
