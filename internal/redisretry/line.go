package redisretry

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// A line sends the commands of many callers together. One pipeline is on its way at a time; what is asked for meanwhile leaves with the
// next one, when it returns (group commit). Commands are executed in the order in which they were asked for. A line that has nothing to
// do has no goroutine and no timer.
//
// The zero value is not ready: send is needed.
type line struct {
	send func([]redis.Cmder) error // sets the error of each command

	mu      sync.Mutex
	waiting []*batch
	lost    []*Posting // that wait for the server to answer others
	busy    bool
	at      sync.WaitGroup // work
}

// A batch is what one caller asks for.
type batch struct {
	cmds  []redis.Cmder
	after func(error)   // called once it was answered, if it is not nil; it may not wait
	done  chan struct{} // closed once it was answered; nil if nobody waits
	err   error         // the first one of its commands; set before
}

// What goes together at most. A batch that is larger goes by itself, so that what breaks its connection is nobody else's fault.
const (
	mostTogether      = 512       // commands
	mostBytesTogether = 256 << 10 // of their arguments
	mostBytesShared   = 64 << 10  // of a batch that goes with others
)

// join has commands be sent.
func (l *line) join(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// What was lost of the same key is not news any more.
	l.lost = slices.DeleteFunc(l.lost, func(p *Posting) bool { return keyOf(p.later) == keyOf(b.cmds[0]) })
	l.enter(b)
}

// enter puts a batch in line. l.mu is held.
func (l *line) enter(b *batch) {
	l.waiting = append(l.waiting, b)
	if !l.busy {
		l.busy = true
		l.at.Go(l.run)
	}
}

// keyOf is the first key of a script, "" of another command.
func keyOf(cmd redis.Cmder) string {
	if args := cmd.Args(); len(args) > 3 && (args[0] == "evalsha" || args[0] == "eval") {
		key, _ := args[3].(string)
		return key
	}
	return ""
}

// swap replaces the command of a posting that has not left yet. It reports whether it did.
func (l *line) swap(p *Posting, cmd, later redis.Cmder) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case slices.Contains(l.lost, p): // the server may be back
		l.lost = slices.DeleteFunc(l.lost, func(o *Posting) bool { return o == p })
		p.later, p.b.cmds[0] = later, later
		l.enter(p.b)
	case slices.Contains(l.waiting, p.b):
		p.later, p.b.cmds[0] = later, cmd
	default:
		return false
	}
	return true
}

// again has a posting be sent as it is for later: once the server answers others, or at once.
func (l *line) again(p *Posting, wait bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.ContainsFunc(l.waiting, func(b *batch) bool { return keyOf(b.cmds[0]) == keyOf(p.later) }) {
		return // something newer is on its way
	}
	if wait {
		l.lost = append(l.lost, p)
		return
	}
	p.b.cmds[0] = p.later
	l.enter(p.b)
}

// forget lets go of what a posting sent, as its sender may keep it for long.
func (l *line) forget(p *Posting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.b.cmds, p.later = nil, nil
}

// answers notes that the server answers: what was lost is sent.
func (l *line) answers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.lost {
		p.b.cmds[0] = p.later
		l.enter(p.b)
	}
	l.lost = nil
}

// run sends until nothing is left.
func (l *line) run() {
	for {
		runtime.Gosched() // those that are about to ask come along
		together := l.next()
		if together == nil {
			return
		}
		for _, b := range together {
			for _, cmd := range b.cmds {
				cmd.SetErr(nil) // of an attempt before, which would hide that this one did not leave
			}
		}
		if len(together) == 1 {
			together[0].answered(l.send(together[0].cmds))
			continue
		}
		var cmds []redis.Cmder
		for _, b := range together {
			cmds = append(cmds, b.cmds...)
		}
		err := l.send(cmds)
		if firstError(cmds) != nil {
			err = nil // each command has its own
		} // else no connection was to be had, and the client says so of none
		for _, b := range together {
			b.answered(cmp.Or(firstError(b.cmds), err))
		}
	}
}

// next takes the batches that leave together, none if there are none: then the line is idle.
func (l *line) next() []*batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, cmds, bytes := 0, 0, 0
	for _, b := range l.waiting {
		size := sizeOfAll(b.cmds)
		large := size > mostBytesShared || len(b.cmds) > mostTogether
		if n > 0 && (large || cmds+len(b.cmds) > mostTogether || bytes+size > mostBytesTogether) {
			break
		}
		n, cmds, bytes = n+1, cmds+len(b.cmds), bytes+size
		if large {
			break
		}
	}
	if n == 0 {
		l.busy = false
		return nil
	}
	together := l.waiting[:n:n]
	if l.waiting = l.waiting[n:]; len(l.waiting) == 0 {
		l.waiting = nil
	}
	return together
}

func (b *batch) answered(err error) {
	b.err = err
	if b.done != nil {
		close(b.done)
	}
	if b.after != nil {
		b.after(err)
	}
}

func firstError(cmds []redis.Cmder) error {
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return err
		}
	}
	return nil
}

// sizeOfAll is how long the arguments of commands are, in bytes.
func sizeOfAll(cmds []redis.Cmder) (size int) {
	for _, cmd := range cmds {
		for _, arg := range cmd.Args() {
			size += sizeOf(arg)
		}
	}
	return size
}

// Exec sends commands once, together with those of others, and waits for the answers: for an op of [Guard.Do]. The error is the first one
// of the commands. After one that is ctx's nobody may look at the commands, which may still be on their way.
func (g *Guard) Exec(ctx context.Context, cmds ...redis.Cmder) error {
	if len(cmds) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return g.Ask(cmds...).Wait(ctx)
}

// Asked is commands that were sent.
type Asked struct{ b *batch }

// Ask sends commands, together with those of others, and does not wait for the answers.
func (g *Guard) Ask(cmds ...redis.Cmder) *Asked {
	b := &batch{cmds: cmds, done: make(chan struct{})}
	g.line.join(b)
	return &Asked{b}
}

// Wait waits for the answers, and returns the first error of the commands, or ctx's.
func (a *Asked) Wait(ctx context.Context) error {
	select {
	case <-a.b.done:
		return a.b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Send is Do with commands, which are sent together with those of others.
func (g *Guard) Send(ctx context.Context, cmds ...redis.Cmder) error {
	return g.Do(ctx, func(ctx context.Context) error { return g.Exec(ctx, cmds...) })
}

// Run is Do with a script, which is sent together with the commands of others. The answer is nil if the error is not.
func (g *Guard) Run(ctx context.Context, s *redis.Script, keys []string, args ...any) (answer *redis.Cmd, err error) {
	err = g.Do(ctx, func(ctx context.Context) error {
		cmd := evalSHA(s, keys, args)
		err := g.Exec(ctx, cmd)
		if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
			cmd = s.Eval(ctx, g.client.Pipeline(), keys, args...)
			err = g.Exec(ctx, cmd)
		}
		answer = cmd
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// A Posting is a script that nobody waits for.
type Posting struct {
	b     *batch
	later redis.Cmder // see Post
}

// Post sends a script without waiting. What is sent after it is executed after it. While Redis is away it waits for the server to answer
// others, and is then sent with the arguments for later, as what was sent after it may have been executed; of several with one first key
// the last is. What Redis refuses is dropped: those who wait for an answer are told.
func (g *Guard) Post(s *redis.Script, keys []string, args, later []any) *Posting {
	p := &Posting{later: g.eval(s, keys, later)}
	p.b = &batch{cmds: []redis.Cmder{g.first(s, keys, args, later)}}
	p.b.after = func(err error) {
		if err == nil {
			g.line.forget(p)
			g.line.answers()
			return
		}
		switch judged := judge(err); {
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			g.line.again(p, false)
		case judged == outage, judged == missingRights:
			g.line.again(p, true)
		}
	}
	g.line.join(p.b)
	return p
}

// Swap puts other arguments in the place of those of a posting that has not left yet. It reports whether it did.
func (g *Guard) Swap(p *Posting, s *redis.Script, keys []string, args, later []any) bool {
	return p != nil && g.line.swap(p, g.first(s, keys, args, later), g.eval(s, keys, later))
}

// first is what is sent at first: with its text, if it may not be sent again as it is when the server does not know it.
func (g *Guard) first(s *redis.Script, keys []string, args, later []any) redis.Cmder {
	if slices.Equal(args, later) {
		return evalSHA(s, keys, args)
	}
	return g.eval(s, keys, args)
}

// eval is what Eval of a script sends.
func (g *Guard) eval(s *redis.Script, keys []string, args []any) redis.Cmder {
	return s.Eval(context.Background(), g.client.Pipeline(), keys, args...)
}

// evalSHA is what EvalSha of a script sends, without a pipeline to put it into.
func evalSHA(s *redis.Script, keys []string, args []any) *redis.Cmd {
	const before = 3 // the keys
	all := make([]any, before, before+len(keys)+len(args))
	all[0], all[1], all[2] = "evalsha", s.Hash(), len(keys)
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := redis.NewCmd(context.Background(), append(all, args...)...)
	if len(keys) > 0 {
		cmd.SetFirstKeyPos(before)
	}
	return cmd
}

// Wait waits until what was sent was answered, as all of it is once the client is closed. Nobody may send meanwhile.
func (g *Guard) Wait() { g.line.at.Wait() }
