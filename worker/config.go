package worker

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"onceover/rabbit"
)

// Config says where to consume and how much at once.
type Config struct {
	BrokerURLs         []string      // amqp:// or amqps://, tried in turn; default amqp://guest:guest@127.0.0.1:5672//
	Queues             []string      // queues to consume; default q.ai
	Concurrency        int           // jobs in flight; default 100
	PrefetchMultiplier int           // prefetch = Concurrency x this; default 1
	HeldBytes          int64         // bytes of message bodies held at most: the prefetch shrinks to fit; default 512 MiB
	NodeName           string        // Celery's node name; default celery@<host>
	DefaultQueue       string        // where tasks go that name no queue: Celery's task_default_queue; default celery
	RPCResults         bool          // send results to the client's queue, Celery's rpc://, and store none; default false
	TrackStarted       bool          // store STARTED when a job begins; default false
	TaskEvents         bool          // send task events from the start, not only when asked to; default false
	DelayedDelivery    bool          // declare what Celery 5.5 delays tasks with, for queues on topic exchanges; default true
	DrainDeadLetters   bool          // keep what arrives in q.dlq as failed jobs; default true
	MaxCrashes         int           // keep a job as failed that so many processes died of; 0: never; default 5
	RemoteControl      bool          // answer celery inspect and control, as Celery's worker_enable_remote_control, and send events; default true
	Mingle             bool          // learn revoked ids from the other workers at the start; default true
	ResultExtended     bool          // store name, args, worker, … with the result; default false
	SoftTimeLimit      time.Duration // cancels a job's context; the message's own limit wins; 0: none; default 240 s
	TimeLimit          time.Duration // abandons a job; the message's own limit wins; 0: none; default 300 s
	Grace              time.Duration // how long jobs in flight may finish after Run's context ends; default 25 s
	Needs              []Store       // what tasks need besides: while nothing may be done there consuming is paused; default none
}

// maxNodeName leaves room in the names that are made of a node name, which AMQP bounds at 255 bytes.
const maxNodeName = 200

// maxConcurrency is the most slots that can be asked for.
const maxConcurrency = 10000

// DefaultConfig returns the documented defaults.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return Config{
		BrokerURLs:         []string{"amqp://guest:guest@127.0.0.1:5672//"},
		Queues:             []string{"q.ai"},
		Concurrency:        100,
		PrefetchMultiplier: 1,
		HeldBytes:          512 << 20,
		NodeName:           "celery@" + host,
		DefaultQueue:       "celery",
		DelayedDelivery:    true,
		DrainDeadLetters:   true,
		MaxCrashes:         5,
		RemoteControl:      true,
		Mingle:             true,
		SoftTimeLimit:      240 * time.Second,
		TimeLimit:          300 * time.Second,
		Grace:              25 * time.Second,
	}
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.BrokerURLs) == 0 {
		fault("broker URL is empty: expected amqp://user:password@host:5672/vhost")
	}
	for _, u := range c.BrokerURLs {
		if _, err := rabbit.ParseURL(u); err != nil {
			faults = append(faults, err)
		}
	}
	if len(c.Queues) == 0 {
		fault("queues is empty: expected at least one queue name, such as q.ai")
	}
	for _, q := range c.Queues {
		if q == "" || len(q) > 255 {
			fault("queue name %q: expected 1 to 255 bytes", q)
		}
	}
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		fault("concurrency is %d: expected 1 to 10000", c.Concurrency)
	}
	if c.PrefetchMultiplier < 1 || c.Concurrency*c.PrefetchMultiplier > 65535 {
		fault("prefetch multiplier is %d: expected at least 1, and concurrency x multiplier at most 65535", c.PrefetchMultiplier)
	}
	if c.HeldBytes < 1<<20 {
		fault("held bytes is %d: expected at least 1048576 (1 MiB)", c.HeldBytes)
	}
	if name, host, ok := strings.Cut(c.NodeName, "@"); !ok || name == "" || host == "" || len(c.NodeName) > maxNodeName {
		fault("node name is %q: expected name@host, of at most %d bytes", c.NodeName, maxNodeName)
	}
	if c.DefaultQueue == "" || len(c.DefaultQueue) > 255 {
		fault("default queue is %q: expected 1 to 255 bytes, such as celery", c.DefaultQueue)
	}
	if c.MaxCrashes < 0 {
		fault("max crashes is %d: expected 0 (no bound) or more", c.MaxCrashes)
	}
	if c.SoftTimeLimit < 0 || c.TimeLimit < 0 || c.Grace < 0 {
		fault("time limits and grace must not be negative")
	}
	if c.SoftTimeLimit > 0 && c.TimeLimit > 0 && c.SoftTimeLimit >= c.TimeLimit {
		fault("soft time limit %v is not below the time limit %v", c.SoftTimeLimit, c.TimeLimit)
	}
	return errors.Join(faults...)
}
