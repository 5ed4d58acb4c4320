package violence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"onceover/phash"
	"onceover/tasks"
)

const taskName = tasks.NameAnalyze

// run is one run of it all.
type run struct {
	cfg      Config
	tally    *tally
	servers  *servers
	crew     *crew
	ledger   *ledger
	factory  *factory
	producer *producer
	report   *Report
	limit    int       // the queues' delivery limit, 0 if they have none
	evidence int       // tasks with a fault
	told     time.Time // when the log last had why records wait
}

// Run does everything and returns the counts; the error says why it could not be
// done. It ends by itself within cfg.Limit, and leaves no process running.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Limit(), fmt.Errorf("not done within %v", cfg.Limit()))
	defer cancel()
	r := &run{cfg: cfg, tally: newTally(cfg.Log), ledger: newLedger(), report: newReport(cfg)}
	r.tally.say("seed %d: %d jobs, %d workers with %d at once, delivery limit %d (0: the release's)",
		cfg.Seed, cfg.Jobs, cfg.Workers, cfg.Concurrency, cfg.deliveryLimit())
	r.servers, err = openServers(ctx, cfg)
	defer r.servers.close()
	if err != nil {
		return nil, err
	}
	r.tally.say("servers are up")
	r.factory = &factory{host: r.servers.host, album: album{seed: cfg.Seed, seen: map[phash.Hash]bool{}}, rng: r.random(6)}
	if cfg.Short {
		// A worker that dies while it publishes what is due leaves a task of asynq
		// active, which comes back after a minute or more.
		r.factory.notBefore = time.Now().Add(cfg.Duration + 3*time.Second)
	}
	r.producer = &producer{servers: r.servers, tally: r.tally, queues: queuesOf(cfg.deliveryLimit())}
	defer r.producer.close()
	if err := r.producer.connect(ctx); err != nil {
		return nil, err
	}
	if r.limit = cfg.deliveryLimit(); r.limit == 0 && r.servers.version.AtLeast(4, 0) {
		r.limit = 20
	}
	r.crew, err = newCrew(cfg, r.servers, r.tally, r.random(1))
	defer r.crew.close()
	if err != nil {
		return nil, err
	}
	r.crew.arm(r.armed())
	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	r.crew.start(working)
	var watcher sync.WaitGroup
	watcher.Go(func() { r.ledger.watch(working, r.servers) })
	defer watcher.Wait()
	defer stopWorking()

	if err := r.rage(ctx); err != nil {
		return nil, err
	}
	if left := r.settle(ctx, cfg.Settle); left != "" {
		r.tally.fault("not settled within %v: %s", cfg.Settle, left)
	}
	if err := r.trials(ctx); err != nil {
		return nil, fmt.Errorf("trial: %w", err)
	}
	if left := r.settle(ctx, cfg.Settle); left != "" {
		r.tally.fault("not settled within %v of the trials: %s", cfg.Settle, left)
	}
	if err := r.account(ctx, false); err != nil {
		return nil, err
	}
	if err := r.replay(ctx); err != nil {
		return nil, fmt.Errorf("run the failed jobs again: %w", err)
	}
	if err := r.crew.disarm(ctx); err != nil {
		return nil, err
	}
	if left := r.settle(ctx, cfg.Settle); left != "" {
		r.tally.fault("not settled within %v of the replay: %s", cfg.Settle, left)
	}
	if err := r.account(ctx, true); err != nil {
		return nil, err
	}
	stopWorking()
	r.crew.close()
	if err := r.crew.readLives(); err != nil {
		return nil, err
	}
	r.countCalls()
	r.countLosses()
	r.countEnemies()
	r.fill()
	return r.report, nil
}

// countEnemies wants each crash point to have been hit, and each enemy to have been there.
func (r *run) countEnemies() {
	for _, p := range r.wantedPoints() {
		if r.tally.hits(p) > 0 {
			continue
		}
		if r.cfg.Short {
			r.tally.say("crash point %s was not hit: too little time", p)
		} else {
			r.tally.fault("crash point %s was never hit", p)
		}
	}
	for _, name := range []string{actPassword, actRights, actKeepPassword, actKeepRights, actStuck, actDeadly, actLate, actRabbit, actRedis, actFull} {
		if r.tally.count(name) == 0 {
			r.tally.fault("%s: never happened", name)
		}
	}
}

func (r *run) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(r.cfg.Seed, stream)) }

// rage publishes all jobs while the violence goes on, until all is published and all
// has been done at least once.
func (r *run) rage(ctx context.Context) error {
	violent, stop := context.WithCancel(ctx)
	defer stop()
	gap, serverGap := 2500*time.Millisecond, 5*time.Second
	if r.cfg.Short {
		gap, serverGap = 1200*time.Millisecond, 600*time.Millisecond
	}
	var lanes, decks sync.WaitGroup
	start := func(stream uint64, gap time.Duration, deck []act) {
		decks.Add(1)
		all := sync.OnceFunc(decks.Done)
		lanes.Go(func() { lane(violent, ctx, r.tally, r.random(stream), gap, deck, all) })
	}
	start(2, gap, workerActs(r.crew, r.random(3), r.cfg.Short))
	start(4, serverGap, serverActs(r.crew, r.random(5), r.cfg.Short))
	err := publishAll(ctx, r.cfg, r.ledger, r.producer, r.factory, plan(r.cfg, r.random(8)))
	if err == nil {
		r.tally.say("all is published")
		decks.Wait()
	}
	stop()
	lanes.Wait()
	return errors.Join(err, r.crew.disarm(ctx))
}

// armed is the order in which workers are armed with crash points.
func (r *run) armed() []string {
	rng := r.random(7)
	cycles := max(1, int(r.cfg.Duration/(90*time.Second)))
	if r.cfg.Short {
		cycles = 1
	}
	var out []string
	for i := range cycles {
		cycle := append([]point{}, points...)
		rng.Shuffle(len(cycle), func(i, k int) { cycle[i], cycle[k] = cycle[k], cycle[i] })
		for _, p := range cycle {
			switch {
			case i > 0: // every other start is without
				out = append(out, fmt.Sprintf("%s:%d", p.name, 1+rng.IntN(p.passages)), "")
			case !r.cfg.Short || !p.slow: // so that each is hit
				out = append(out, fmt.Sprintf("%s:%d", p.name, 1+rng.IntN(2)))
			}
		}
	}
	return out
}

// wantedPoints are those that must have been hit.
func (r *run) wantedPoints() []string {
	var out []string
	for _, p := range points {
		if !r.cfg.Short || !p.slow {
			out = append(out, p.name)
		}
	}
	if r.cfg.Short {
		return append(out, "replay-before-delete")
	}
	return append(out, commandPoints...)
}
