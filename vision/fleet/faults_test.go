package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/vision"
)

// costly is a call that has a price: a millionth of a dollar for each token.
func costly() vision.Call {
	c := aCall()
	c.Prices = vision.Prices{In: 1_000_000, Out: 1_000_000}
	return c
}

// year is a window that does not end in a test.
const year = 365 * 24 * time.Hour

// TestUnseenKind has a budget that is nearly spent, and calls of a kind that nobody has seen: they may cost more than
// what is left.
func TestUnseenKind(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Budgets: []Budget{{2550, year}}}, time.Minute)
	for range 5 { // they cost 100
		b.enter(g, costly()).Leave(answered)
	}
	c := costly()
	c.Size = "1x2"
	b.enter(g, c).Leave(answered) // has 2,000 at most
	if e := b.refused(g, c); e.Class != vision.Spent {
		t.Errorf("got %v, want that the budget has no room", e)
	}
	b.enter(g, costly()).Leave(answered)
	if s, err := g.Spending(t.Context()); err != nil || s[0].Spent != 700 || s[0].Reserved != 0 {
		t.Errorf("got %+v, %v", s, err)
	}
}

// TestRedisLosesACall has Redis come back without its last moments, in which a call began.
func TestRedisLosesACall(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Budgets: []Budget{{1_000_000, year}, {2_000_000, year + time.Hour}}}, time.Minute)
	ctx := t.Context()
	for _, end := range []struct {
		vision.End
		want int64
	}{{answered, 100}, {vision.End{Err: context.DeadlineExceeded, Paid: true}, 2000}} {
		b.client.FlushDB(ctx)
		p := b.enter(g, costly())
		b.client.FlushDB(ctx)
		if charged := p.Leave(end.End); charged != end.want {
			t.Errorf("%d are charged, want %d", charged, end.want)
		}
		p.Leave(end.End) // as when the answer of the first was lost
		s, err := g.Spending(ctx)
		if err != nil || s[0].Spent != end.want || s[1].Spent != end.want || s[0].Reserved != 0 || len(s[0].By) != 1 || s[0].By[0].MicroUSD != end.want {
			t.Errorf("got %+v, %v, want %d booked once", s, err, end.want)
		}
	}
	b.client.FlushDB(ctx)
	p := b.enter(g, costly()) // and one that is taken for dead, and ends
	b.client.ZAdd(ctx, prefix+"e:leases", redis.Z{Score: 1, Member: p.(*pass).id})
	b.enter(g, costly()).Leave(answered)
	p.Leave(answered)
	if s, err := g.Spending(ctx); err != nil || s[0].Spent != 2100 {
		t.Errorf("got %+v, %v, want the reservation of the dead call, once", s, err)
	}
}

// TestLateSuccess has calls that began before a key died end well: the endpoint stays closed.
func TestLateSuccess(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	for class, closed := range map[vision.Class]bool{vision.Quota: true, vision.Denied: true, vision.Overloaded: false} {
		b.client.FlushDB(t.Context())
		early := b.enter(g, aCall())
		for range 10 {
			if p, err := g.Enter(t.Context(), aCall()); err == nil {
				p.Leave(vision.End{Err: &vision.Error{Class: class, StatusCode: 401, Err: fmt.Errorf("boom")}})
			}
		}
		early.Leave(answered)
		p, err := g.Enter(t.Context(), aCall())
		if (err != nil) != closed {
			t.Errorf("%s, then the end of an earlier call: got %v, want closed %v", class, err, closed)
		}
		if p != nil {
			p.Leave(answered)
		}
	}
}

// TestOneEpisode has 30 calls be refused that were in flight together: that is one refusal, of which nothing is learned
// but to wait a second.
func TestOneEpisode(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	b.enter(g, aCall()).Leave(answered)
	var passes []vision.Pass
	for range 30 {
		passes = append(passes, b.enter(g, aCall()))
	}
	for _, p := range passes {
		p.Leave(fault(vision.RateLimited, 0))
	}
	began := time.Now()
	b.enter(g, aCall()).Leave(answered)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the next call begins after %v, want about 1s", took)
	}
	if rpm := b.client.HGet(t.Context(), prefix+"e", "rpm").Val(); rpm != "" {
		t.Errorf("a limit of %s a minute was learned", rpm)
	}
}

// TestLimitOfABurst has 100 calls begin at once at an endpoint that takes 60 a minute and says so: the limit is 60.
func TestLimitOfABurst(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	b.enter(g, aCall()).Leave(answered)
	passes := make([]vision.Pass, 99)
	for i := range passes {
		passes[i] = b.enter(g, aCall())
	}
	for _, p := range passes[59:] {
		p.Leave(fault(vision.RateLimited, 30*time.Second))
	}
	for _, p := range passes[:59] {
		p.Leave(answered)
	}
	if rpm := b.client.HGet(t.Context(), prefix+"e", "rpm").Val(); rpm != "60" {
		t.Errorf("the limit is %s a minute, want 60", rpm)
	}
}

// TestLimitAfterAPause has an endpoint of which a limit is known refuse the first calls after a pause: that hardly
// changes what is known.
func TestLimitAfterAPause(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	b.enter(g, aCall()).Leave(answered)
	b.client.HSet(t.Context(), prefix+"e", "rpm", 60, "rpm_at", time.Now().UnixMicro(), "rpm_step", 1)
	b.client.Del(t.Context(), prefix+"e:log", prefix+"e:tokens")
	one, other := b.enter(g, aCall()), b.enter(g, aCall())
	one.Leave(fault(vision.RateLimited, time.Minute))
	other.Leave(fault(vision.RateLimited, time.Minute))
	if rpm := b.client.HGet(t.Context(), prefix+"e", "rpm").Val(); rpm != "48" {
		t.Errorf("the limit is %s a minute now, want 48", rpm)
	}
}

// TestDeathOfTheFirst kills the process of the one call that may ask after a 429, and one that uses up what a user may
// have in flight: the others wait until its time-out is over, and not until its lease is.
func TestDeathOfTheFirst(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{PerUser: 1, MaxWait: 200 * time.Millisecond}, time.Minute)
	b.enter(g, aCall()).Leave(fault(vision.RateLimited, time.Millisecond))
	c := aCall()
	c.User = "u"
	dead := b.enter(g, c).(*pass)
	b.refused(g, aCall())
	b.refused(g, c)
	over := time.Now().Add(lateness * 8 / 10) // the lease is as if the call had begun a time-out ago
	for _, key := range []string{prefix + "e:leases", userKey("u")} {
		b.client.ZAddXX(t.Context(), key, redis.Z{Score: float64(over.UnixMicro()), Member: dead.id})
	}
	b.client.HSet(t.Context(), prefix+"e", "wary_since", over.Add(-lateness-aCall().Timeout-time.Second).UnixMicro())
	b.enter(g, c).Leave(answered)
}

// TestEnterComesLate has a call begin in Redis after its caller has given it up.
func TestEnterComesLate(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	c := aCall()
	g.forget(t.Context(), "late", &c)
	if a, err := g.ask(t.Context(), "late", &c); err != nil || a.what != "busy" {
		t.Errorf("got %+v, %v, want that it does not begin", a, err)
	}
}

// slow is a connection whose scripts are not answered before a time.
type slow struct {
	losing
	until time.Time
}

func (s *slow) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if strings.HasPrefix(cmd.Name(), "eval") {
			<-time.After(time.Until(s.until))
		}
		return err
	}
}

// TestExpiresWhileRedisIsAsked has Redis say yes when the job has expired: nothing is paid for.
func TestExpiresWhileRedisIsAsked(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Budgets: []Budget{{1_000_000, year}}}, time.Minute)
	b.enter(g, costly()).Leave(answered) // the script is there
	c := costly()
	c.Expires = time.Now().Add(200 * time.Millisecond)
	g.client.(*redis.Client).AddHook(&slow{until: c.Expires.Add(time.Millisecond)})
	if e := b.refused(g, c); !strings.Contains(e.Error(), "expired") {
		t.Errorf("got %v", e)
	}
	if s, err := g.Spending(t.Context()); err != nil || s[0].Spent != 100 || s[0].Reserved != 0 {
		t.Errorf("got %+v, %v, want nothing booked for it", s, err)
	}
}

// TestLineIsToldWhen has five calls wait for a limit of one a minute: each is told another minute.
func TestLineIsToldWhen(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Limits: map[string]Limits{"e": {RPM: 1}}, MaxWait: 50 * time.Millisecond}, time.Minute)
	b.enter(g, aCall()).Leave(answered)
	waits := make([]time.Duration, 5)
	var wg sync.WaitGroup
	for i := range waits {
		wg.Go(func() { waits[i] = b.refused(g, aCall()).RetryAfter })
	}
	wg.Wait()
	slices.Sort(waits)
	for i, w := range waits {
		if least := time.Duration(i+1) * 55 * time.Second; w < least || w > least+time.Minute {
			t.Errorf("they are told to come after %v, want a minute between them", waits)
			break
		}
	}
}

// TestDeathElsewhere kills a process in a call of an endpoint that nobody asks any more: its money is booked.
func TestDeathElsewhere(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Budgets: []Budget{{2100, year}}, Limits: map[string]Limits{"e": {}, "f": {}}}, time.Minute)
	for range 5 {
		b.enter(g, costly()).Leave(vision.End{Paid: true, Tokens: vision.Tokens{Prompt: 9, Completion: 1}})
	}
	c := costly()
	c.Endpoint, c.Size = "f", "1x2"
	dead := b.enter(g, c).(*pass)
	b.client.ZAddXX(t.Context(), prefix+"f:leases", redis.Z{Score: 1, Member: dead.id})
	for range 10 { // until the money is gone
		p, err := g.Enter(t.Context(), costly())
		if err != nil {
			break
		}
		p.Leave(vision.End{Paid: true, Tokens: vision.Tokens{Prompt: 9, Completion: 1}})
	}
	if e := b.refused(g, costly()); e.Class != vision.Spent {
		t.Errorf("got %v, want that the budget is spent", e)
	}
}

// TestDeathAtAnEndpointThatIsGone kills a process in a call of an endpoint that is taken out of the file of models: its money is
// booked.
func TestDeathAtAnEndpointThatIsGone(t *testing.T) {
	b := newBench(t)
	cfg := Config{Budgets: []Budget{{2100, year}}, Limits: map[string]Limits{"e": {}, "gone": {}}}
	before := b.gate(cfg, time.Minute)
	for range 5 {
		b.enter(before, costly()).Leave(vision.End{Paid: true, Tokens: vision.Tokens{Prompt: 9, Completion: 1}})
	}
	c := costly()
	c.Endpoint = "gone"
	dead := b.enter(before, c).(*pass)
	b.client.ZAddXX(t.Context(), prefix+"gone:leases", redis.Z{Score: 1, Member: dead.id})
	cfg.Limits = map[string]Limits{"e": {}}
	after := b.gate(cfg, time.Minute)
	for range 300 { // until the money is gone
		p, err := after.Enter(t.Context(), costly())
		if err != nil {
			break
		}
		p.Leave(vision.End{Paid: true, Tokens: vision.Tokens{Prompt: 9, Completion: 1}})
	}
	if e := b.refused(after, costly()); e.Class != vision.Spent {
		t.Errorf("got %v, want that the budget is spent", e)
	}
}

// TestLastCallWaits has a job whose first call got no answer: its last one waits until the endpoint has answered somebody, or
// for ten minutes.
func TestLastCallWaits(t *testing.T) {
	b := newBench(t)
	const minute = 200 * time.Millisecond
	g := b.gate(Config{}, minute)
	lost := vision.End{Paid: true, Err: &vision.Error{Class: vision.Unreachable, StatusCode: 504, Err: errors.New("gateway time-out")}}
	last := aCall()
	last.Last, last.Unanswered = true, true
	b.enter(g, aCall()).Leave(answered)
	b.enter(g, last).Leave(answered)
	b.enter(g, aCall()).Leave(lost)
	if e := b.refused(g, last); !e.Closed || e.Class != vision.Unreachable || !strings.Contains(e.Error(), "gateway time-out") {
		t.Errorf("got %v, want the fault of the endpoint", e)
	}
	dearer := last
	dearer.Unanswered = false // of a cascade, or a repair: the call before had an answer
	b.enter(g, dearer).Leave(lost)
	if f := g.Failing(); len(f) != 0 {
		t.Errorf("got %q, want nothing told of an endpoint that is asked", f)
	}
	b.enter(g, aCall()).Leave(answered)
	b.enter(g, last).Leave(lost)
	for began := time.Now(); ; time.Sleep(minute / 4) {
		p, err := g.Enter(t.Context(), last)
		if err == nil {
			p.Leave(answered)
			if took := time.Since(began); took < 9*minute {
				t.Errorf("the last call went after %v, want %v", took, 10*minute)
			}
			break
		}
		if time.Since(began) > 30*minute {
			t.Fatal("the last call never goes")
		}
	}
}

// TestLongRetryAfter has a 429 that asks for hours: one call asks after ten minutes, and people are told.
func TestLongRetryAfter(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	b.enter(g, aCall()).Leave(fault(vision.RateLimited, 5*time.Hour))
	if e := b.refused(g, aCall()); e.RetryAfter < 9*time.Minute || e.RetryAfter > 11*time.Minute {
		t.Errorf("got a wait of %v, want about ten minutes", e.RetryAfter)
	}
	if f := g.Failing(); len(f) != 1 || !strings.Contains(f[0], "endpoint e has asked to be left alone") {
		t.Errorf("what fails: got %q", f)
	}
	b.refused(g, aCall())
	if n := b.logs.FilterMessageSnippet("left alone").Len(); n != 1 {
		t.Errorf("%d lines of the log tell of it, want 1", n)
	}
}

// TestLimitStaysWithinTheOperators has as many calls in flight as the operator lets there be: what is known of the
// endpoint does not grow beyond that.
func TestLimitStaysWithinTheOperators(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Limits: map[string]Limits{"e": {InFlight: 2}}}, time.Minute)
	b.enter(g, aCall()).Leave(answered)
	b.client.HSet(t.Context(), prefix+"e", "limit", 2000)
	for range 5 {
		one, other := b.enter(g, aCall()), b.enter(g, aCall())
		one.Leave(answered)
		other.Leave(answered)
	}
	if limit := b.client.HGet(t.Context(), prefix+"e", "limit").Val(); limit != "2000" {
		t.Errorf("got a limit of %s thousandths, want 2000", limit)
	}
}

// TestServerEvicts has the server begin to evict while there is a budget, and stop.
func TestServerEvicts(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Budgets: []Budget{{1_000_000, year}}}, time.Minute)
	set := func(policy string) {
		b.client.ConfigSet(t.Context(), "maxmemory", "100mb")
		b.client.ConfigSet(t.Context(), "maxmemory-policy", policy)
		g.mu.Lock()
		g.checked = time.Time{} // a minute is over
		g.mu.Unlock()
	}
	b.enter(g, costly()).Leave(answered)
	set("allkeys-lru")
	for range 2 {
		if e := b.refused(g, costly()); !strings.Contains(e.Error(), "allkeys-lru") || e.RetryAfter != time.Minute {
			t.Errorf("got %v", e)
		}
	}
	if f := g.Failing(); len(f) != 1 || !strings.Contains(f[0], "noeviction") {
		t.Errorf("what fails: got %q", f)
	}
	set("noeviction")
	b.enter(g, costly()).Leave(answered)
	if f := g.Failing(); len(f) != 0 {
		t.Errorf("what fails when it does not: got %q", f)
	}
}
