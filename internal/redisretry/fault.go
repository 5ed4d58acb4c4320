package redisretry

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Kind is the kind of a fault that callers wait for.
type Kind string

const (
	Outage Kind = "outage" // it passes by itself
	Rights Kind = "rights" // missing rights or a wrong configuration: somebody has to act
)

// Fault is what is wrong with the server of a role.
type Fault struct {
	Role   string
	Kind   Kind
	Since  time.Time
	Err    error  // the latest error
	Remedy string // what an operator can do, one sentence; "" for an outage
}

// Shut reports whether no command will do until somebody acts, as with a wrong password; else some right is missing.
func (f *Fault) Shut() bool {
	return f.Kind == Rights && f.Err != nil && shut.MatchString(f.Err.Error())
}

// settling is how long the server has to be well before the next outage is one of its own, and
// not the flaky end of the last.
const settling = 3 * time.Second

// pingTime is how long the server may take to answer a PING.
const pingTime = time.Second

// Fault returns what is wrong, nil while all is well. If nobody waits for the server any more,
// it has it asked in the background, so that a later call knows.
func (g *Guard) Fault() *Fault {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fault == nil {
		return nil
	}
	if g.waiting == 0 && g.client != nil && !g.probing {
		g.probing = true
		go g.probe()
	}
	f := *g.fault
	return &f
}

// probe asks the server once.
func (g *Guard) probe() {
	ctx, cancel := context.WithTimeout(context.Background(), pingTime)
	defer cancel()
	err := g.client.Ping(ctx).Err()
	g.mu.Lock()
	g.probing = false
	g.mu.Unlock()
	if v := judge(err); v != outage && v != missingRights {
		g.back(false)
		g.line.answers()
	}
}

// lost notes a failed attempt. first is set if the caller had not failed before.
func (g *Guard) lost(v verdict, err error, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tries++
	if first {
		g.waiting++
	}
	now := time.Now()
	f := Fault{Role: g.role, Kind: Outage, Since: now, Err: err}
	var reply redis.Error
	if v == missingRights && errors.As(err, &reply) {
		f.Kind, f.Remedy = Diagnose(reply.Error())
	}
	if g.fault != nil {
		f.Since = g.fault.Since
	}
	g.fault = &f
	g.tell(now)
}

// tell logs the fault, unless the log knows of it already, or may know of it by the fault before.
func (g *Guard) tell(now time.Time) {
	f := g.fault
	news := string(f.Kind) + f.Remedy
	relapse := f.Since.Sub(g.backAt) < settling && now.Sub(f.Since) < settling
	if g.told[news] || relapse {
		return
	}
	g.told[news] = true
	if f.Kind == Rights {
		g.log.Error("redis refuses commands, waiting until that is mended", zap.String("role", g.role),
			zap.String("remedy", f.Remedy), zap.Error(f.Err))
		return
	}
	g.log.Warn("redis lost, waiting for it", zap.String("role", g.role), zap.Error(f.Err))
}

// back notes that the server answered a caller. waited is set if the caller's attempt before
// had failed. The fault is over when it is for all who wait: one command may be
// allowed and another not, one connection may be of before, and one server of a cluster back.
func (g *Guard) back(waited bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if waited {
		g.waiting--
	}
	if g.fault == nil || g.waiting > 0 {
		return
	}
	if len(g.told) > 0 {
		g.backAt = time.Now()
		g.log.Info("redis is back", zap.String("role", g.role),
			zap.Float64("duration_seconds", time.Since(g.fault.Since).Seconds()), zap.Int("failed_attempts", g.tries))
	}
	g.fault, g.tries = nil, 0
	clear(g.told)
}

// leave notes that a caller whose last attempt failed waits no more.
func (g *Guard) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting--
}
