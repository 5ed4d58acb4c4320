package violence

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Config says how much of it.
type Config struct {
	Jobs        int           // messages to publish; default 3000
	Workers     int           // worker processes; default 4, 3 in a short run
	Concurrency int           // of each; default 10
	Seed        uint64        // of everything that is random; default 1
	Duration    time.Duration // how long jobs are published and violence is done; default 6 min
	Settle      time.Duration // how long the rest may take, and again the replay; default 5 min
	Short       bool          // leave out what asynq needs a minute to recover from
	Race        bool          // workers with the race detector
	Program     string        // the worker, built with -tags crashpoints; default: it is built
	// DeliveryLimit is that of the queues. The default, 0, leaves it to the release (20 from
	// RabbitMQ 4.0 on, none before) where the seed is even, and is lowLimit where it is odd.
	DeliveryLimit int
	Dir           string    // where servers and logs live; must exist
	Log           io.Writer // what is done, line by line
}

// DefaultConfig returns the documented defaults.
func DefaultConfig() Config {
	return Config{Jobs: 3000, Workers: 4, Concurrency: 10, Seed: 1, Duration: 6 * time.Minute, Settle: 5 * time.Minute, Log: os.Stderr}
}

// ShortConfig returns those of a run of about a minute.
func ShortConfig() Config {
	c := DefaultConfig()
	c.Jobs, c.Workers, c.Duration, c.Settle, c.Short = 240, 3, 25*time.Second, 150*time.Second, true
	return c
}

// lowLimit is a delivery limit that is low, and that the deaths of a run do not use up by
// chance: it took fifteen of one job.
const lowLimit = 15

// deliveryLimit is what the queues are declared with; 0: nothing.
func (c Config) deliveryLimit() int {
	if c.DeliveryLimit == 0 && c.Seed%2 == 1 {
		return lowLimit
	}
	return c.DeliveryLimit
}

// slowest is the longest that the model takes for an answer.
func (c Config) slowest() time.Duration {
	if c.Short {
		return 600 * time.Millisecond
	}
	return 2 * time.Second
}

// Limit is the longest that Run may take.
func (c Config) Limit() time.Duration { return c.Duration + 2*c.Settle + 4*time.Minute }

func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Jobs < 1 || c.Jobs > maxPictures/2 {
		fault("jobs is %d: expected 1 to %d", c.Jobs, maxPictures/2)
	}
	if c.Workers < 1 || c.Workers > 20 {
		fault("workers is %d: expected 1 to 20", c.Workers)
	}
	if c.Concurrency < 1 || c.Concurrency > 1000 {
		fault("concurrency is %d: expected 1 to 1000", c.Concurrency)
	}
	if c.Duration <= 0 || c.Settle <= 0 {
		fault("duration is %v and settle %v: expected more than 0", c.Duration, c.Settle)
	}
	if c.DeliveryLimit < 0 {
		fault("delivery limit is %d: expected 0 or more", c.DeliveryLimit)
	}
	if c.Dir == "" || c.Log == nil {
		fault("a folder and a log are needed")
	}
	return errors.Join(faults...)
}
