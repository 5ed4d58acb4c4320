package fleet

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/vision"
)

//go:embed common.lua
var common string

//go:embed enter.lua
var enterSource string

//go:embed leave.lua
var leaveSource string

//go:embed book.lua
var bookSource string

var (
	enterScript = redis.NewScript(common + enterSource)
	leaveScript = redis.NewScript(common + leaveSource)
	sweepScript = redis.NewScript(common + "sweep()\nreturn {}")
	bookScript  = redis.NewScript(bookSource)
)

// Limits are those of an endpoint; 0 is none.
type Limits struct {
	RPM      int // requests a minute
	TPM      int // tokens a minute, of prompts and completions together
	InFlight int // calls at once, of all processes
}

// Config is what an operator may set.
type Config struct {
	Limits  map[string]Limits // by the name of the endpoint
	Budgets []Budget
	Refuse  bool // a call beyond the budget fails, rather than waits for the next window
	PerUser int  // calls at once for one user, of all processes; 0: no limit
	Calls   int  // calls at once of this process; 0: no limit

	// MaxWait is how long a call waits here before it is told when to come again; 0 means 20 s.
	MaxWait time.Duration
	// MaxBytes bounds the requests that wait here, in bytes; 0 means 64 MiB.
	MaxBytes int
}

const (
	defaultWait  = 20 * time.Second
	defaultBytes = 64 << 20
	unlimited    = 1 << 30

	// lateness is how long after its time-out a call's process is taken for dead: it may wait for Redis to say how
	// the call ended.
	lateness = 2 * time.Minute
	// leastAgain is how soon a call comes again at least that found no room.
	leastAgain = 10 * time.Second
	// mostSpent bounds when one comes again for which there is no money: the budget may be another one by then.
	mostSpent = time.Hour
)

// Gate is a vision.Gate. It is safe for concurrent use.
type Gate struct {
	cfg     Config
	client  redis.UniversalClient
	guard   *redisretry.Guard
	log     *zap.Logger
	metrics *metrics

	minute, late time.Duration // a minute and lateness: shorter in tests
	asking       int           // how many of a line ask at once at most

	mu      sync.Mutex
	lines   map[string]*line
	failing map[string]failing // by endpoint, or budget: what was heard last
	checked time.Time          // whether the server evicts
	evicts  *EvictionError
}

// failing is what is in the way of calls.
type failing struct {
	why  string
	till time.Time // it may be over then
}

var _ vision.Gate = (*Gate)(nil)

// New returns a gate on the database that client has selected, whose metrics are registered with reg. The caller closes
// client.
func New(cfg Config, client redis.UniversalClient, reg prometheus.Registerer, log *zap.Logger) *Gate {
	cfg.MaxWait, cfg.MaxBytes, cfg.Calls = cmp.Or(cfg.MaxWait, defaultWait), cmp.Or(cfg.MaxBytes, defaultBytes), cmp.Or(cfg.Calls, unlimited)
	g := &Gate{cfg: cfg, client: client, guard: redisretry.New("limits", log).On(client), log: log, minute: time.Minute, late: lateness, asking: mostAsking,
		lines: map[string]*line{}, failing: map[string]failing{}}
	g.metrics = newMetrics(reg, func() float64 {
		n := 0
		for _, l := range g.all() {
			n += l.len()
		}
		return float64(n)
	})
	return g
}

// Fault returns what is wrong with Redis, nil if nothing is known to be.
func (g *Gate) Fault() *redisretry.Fault { return g.guard.Fault() }

func (g *Gate) line(endpoint string) *line {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lines[endpoint]
	if l == nil {
		l = &line{most: g.asking}
		g.lines[endpoint] = l
	}
	return l
}

func (g *Gate) all() []*line {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*line
	for _, l := range g.lines {
		out = append(out, l)
	}
	return out
}

// Enter waits until the call may begin, at most Config.MaxWait. See vision.Gate for its errors.
func (g *Gate) Enter(ctx context.Context, call vision.Call) (vision.Pass, error) {
	c := &call // hundreds of calls wait here: each copy is kept by all of them
	if len(g.cfg.Budgets) > 0 && !c.Known() {
		return nil, &vision.Error{Class: vision.Invalid, Err: fmt.Errorf(
			"ask vision model %q: its price is not known, and there is a budget: give its price in the file of models, or choose a model that is there", c.Model)}
	}
	outer := ctx
	if c.Wait > 0 { // Redis is waited for no longer, either
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Wait+time.Second)
		defer cancel()
	}
	if err := g.keeps(ctx); err != nil {
		return nil, err
	}
	l := g.line(c.Endpoint)
	w, ok := l.join(c.Priority, c.User, c.Bytes, g.cfg.MaxBytes)
	if !ok {
		return nil, g.noRoom(ctx, c, l.heard())
	}
	p, err := g.wait(ctx, c, w)
	w.leave()
	if p == nil && errors.Is(err, context.DeadlineExceeded) && outer.Err() == nil {
		return nil, g.later(c, answer{})
	}
	if p == nil {
		return nil, err
	}
	return p, nil
}

// wait waits in the line, and then for Redis to say yes.
func (g *Gate) wait(ctx context.Context, c *vision.Call, w *waiter) (*pass, error) {
	began := time.Now()
	most := g.cfg.MaxWait
	if c.Wait > 0 {
		most = min(most, c.Wait)
	}
	patience := time.NewTimer(most)
	if !c.Expires.IsZero() { // the line does not move for it
		patience.Reset(min(most, max(time.Until(c.Expires)+time.Millisecond, 0)))
	}
	defer patience.Stop()
	id := uuid.NewString()
	again := time.NewTimer(0) // when the answer may be another one
	defer again.Stop()
	for {
		select {
		case <-w.turn:
		case <-again.C:
		case <-patience.C:
			if expired(c) {
				return nil, tooLate(c)
			}
			return nil, g.noRoom(ctx, c, w.l.heard())
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for vision model: %w", context.Cause(ctx))
		}
		if expired(c) {
			return nil, tooLate(c)
		}
		if !w.begin(g.cfg.Calls) {
			continue // somebody pokes
		}
		a, err := g.ask(ctx, id, c)
		w.answered(a, err)
		if err != nil {
			return nil, err
		}
		g.metrics.answers.WithLabelValues(c.Endpoint, a.what).Inc()
		switch a.what {
		case "go":
			g.heard(c.Endpoint, failing{})
			for _, b := range g.cfg.Budgets {
				g.heard("budget "+b.String(), failing{})
			}
			g.metrics.waited.Observe(time.Since(began).Seconds())
			p := &pass{g: g, line: w.l, id: id, call: *c, money: a.money, windows: a.more}
			if expired(c) { // Redis has kept it waiting
				p.Leave(vision.End{Err: context.Canceled})
				return nil, tooLate(c)
			}
			return p, nil
		case "open":
			return nil, g.closed(c, a)
		case "silent":
			return nil, silent(c, a)
		case "budget":
			return nil, g.spent(c, a)
		case "user":
			w.stepAside(a.wait)
			continue
		case "money": // the dead may have some of it
			if err := g.sweep(ctx, c); err != nil {
				return nil, err
			}
		case "not-before":
			g.away(c, a.wait)
		}
		if left := most - time.Since(began); a.wait > left {
			return nil, g.noRoom(ctx, c, a)
		}
		if a.what == "not-before" { // all processes wait for this moment
			a.wait += rand.N(a.wait/20 + time.Millisecond)
		}
		again.Reset(a.wait + rand.N(2*time.Millisecond))
	}
}

// expired reports whether the job of a call has.
func expired(c *vision.Call) bool { return !c.Expires.IsZero() && time.Now().After(c.Expires) }

func tooLate(c *vision.Call) error {
	return &vision.Error{Class: vision.RateLimited, Err: fmt.Errorf("ask vision model %q: the job has expired while it waited", c.Model)}
}

// answer is what enter.lua says.
type answer struct {
	what  string
	wait  time.Duration
	money int64    // reserved
	more  []string // see there; of go only the windows
}

// request is the call as enter.lua wants it.
type request struct {
	ID         string     `json:"id"`
	Endpoint   string     `json:"endpoint"`
	Retried    bool       `json:"retried"`
	Lease      int64      `json:"lease"`
	Late       int64      `json:"late"`
	RPM        int        `json:"rpm"`
	TPM        int        `json:"tpm"`
	InFlight   int        `json:"inflight"`
	PerUser    int        `json:"peruser"`
	Prompt     int        `json:"prompt"`
	Completion int        `json:"completion"`
	Learn      bool       `json:"learn"`
	Last       bool       `json:"last"`
	In         int64      `json:"pin"`
	Out        int64      `json:"pout"`
	Model      string     `json:"model"`
	User       string     `json:"user"`
	Budgets    [][2]int64 `json:"budgets"`
	Minute     int64      `json:"minute"`
}

// prefix begins the keys of the gate.
const prefix = "ratelimit:vision:"

// endpointsKey is the key of the names of all endpoints that calls have begun at.
const endpointsKey = "ratelimit:vision-endpoints"

// keys are those of common.lua.
func keys(c *vision.Call) []string {
	base := prefix + c.Endpoint
	return []string{base, base + ":log", base + ":tokens", base + ":leases", base + ":records",
		"ratelimit:vision-learned:" + c.Endpoint + ":" + c.Model + ":" + c.Prompt + ":" + c.Kind + ":" + c.Size}
}

// ask asks Redis.
func (g *Gate) ask(ctx context.Context, id string, c *vision.Call) (answer, error) {
	limits := g.cfg.Limits[c.Endpoint]
	user := nameOf(c.User)
	r := request{ID: id, Endpoint: c.Endpoint, Retried: c.Last && c.Unanswered, Lease: micros(c.Timeout + g.late), Late: micros(g.late * 9 / 10), RPM: limits.RPM, TPM: limits.TPM, InFlight: limits.InFlight, PerUser: g.cfg.PerUser,
		Prompt: c.Most.Prompt, Completion: c.Most.Completion, Learn: c.Size != "", Last: c.Last, In: c.In, Out: c.Out,
		Model: c.Model, User: user, Minute: micros(g.minute), Budgets: make([][2]int64, 0, len(g.cfg.Budgets))}
	for _, b := range g.cfg.Budgets {
		r.Budgets = append(r.Budgets, [2]int64{int64(b.Window / time.Second), b.MicroUSD})
	}
	fields, err := g.run(ctx, enterScript, append(keys(c), userKey(user), endpointsKey), r)
	if err != nil {
		g.forget(ctx, id, c)
		return answer{}, fmt.Errorf("wait for vision model %q: %w", c.Model, err)
	}
	if len(fields) < 2 {
		return answer{}, fmt.Errorf("wait for vision model %q: redis answers %q: expected at least two values", c.Model, fields)
	}
	a := answer{what: fields[0], wait: fromMicros(fields[1]), more: fields[2:]}
	if a.what == "go" && len(a.more) > 0 {
		a.money, err = strconv.ParseInt(a.more[0], 10, 64)
		a.more = a.more[1:]
	}
	return a, err
}

// forget ends a call that may have begun without our knowledge.
func (g *Gate) forget(ctx context.Context, id string, c *vision.Call) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := g.run(ctx, leaveScript, keys(c), end{ID: id, Fault: unknown, Minute: micros(g.minute), Windows: []any{}}); err != nil {
		g.log.Debug("a call that may have begun counts until its lease runs out", zap.Error(err))
	}
}

// sweep books what calls of dead processes may have cost, at the other endpoints: a call sees to its own.
func (g *Gate) sweep(ctx context.Context, c *vision.Call) error {
	var names []string // one may have been taken out of the file of models
	err := g.guard.Do(ctx, func(ctx context.Context) (err error) {
		names, err = g.client.SMembers(ctx, endpointsKey).Result()
		return err
	})
	if err != nil {
		return fmt.Errorf("find endpoints with calls of dead processes: %w", err)
	}
	for _, name := range names {
		if name == c.Endpoint {
			continue
		}
		other := *c
		other.Endpoint = name
		if _, err := g.run(ctx, sweepScript, keys(&other), struct{}{}); err != nil {
			return fmt.Errorf("book the calls of dead processes at endpoint %s: %w", name, err)
		}
	}
	return nil
}

// userKey is the key of a user's calls.
func userKey(user string) string { return "ratelimit:vision-user:" + user }

// maxUser bounds the name of a user, in bytes.
const maxUser = 200

// nameOf makes the name of a user fit for keys and fields.
func nameOf(user string) string {
	user = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, user)
	if len(user) > maxUser {
		return user[:maxUser]
	}
	return user
}

// run runs a script whose argument is JSON and whose answer is a list of texts.
func (g *Gate) run(ctx context.Context, script *redis.Script, keys []string, arg any) ([]string, error) {
	doc, err := json.Marshal(arg)
	if err != nil {
		return nil, err
	}
	var out []string
	err = g.guard.Do(ctx, func(ctx context.Context) error {
		values, err := script.Run(ctx, g.client, keys, doc).Slice()
		if err != nil {
			return err
		}
		out = out[:0]
		for _, v := range values {
			out = append(out, text(v))
		}
		return nil
	})
	return out, err
}

// text is an answer of Redis, "" for none.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

// noRoom says when a call should come again that has to wait for longer than it may here: behind the others, if a limit a
// minute is in the way; else soon, as nobody knows when there will be room.
func (g *Gate) noRoom(ctx context.Context, c *vision.Call, a answer) error {
	if a.what != "rpm" && a.what != "tpm" {
		a.wait = max(a.wait, leastAgain+rand.N(leastAgain))
		return g.later(c, a)
	}
	err := g.guard.Do(ctx, func(ctx context.Context) error {
		booked, err := bookScript.Run(ctx, g.client, keys(c)[:2], micros(g.minute)).Text()
		a.wait = max(a.wait, fromMicros(booked))
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for vision model %q: %w", c.Model, err)
	}
	return g.later(c, a)
}

// later says when a call should come again.
func (g *Gate) later(c *vision.Call, a answer) error {
	status := 0
	if a.what == "not-before" {
		status = http.StatusTooManyRequests // as the endpoint has said
	}
	wait := max(a.wait, leastAgain)
	return &vision.Error{Class: vision.RateLimited, StatusCode: status, RetryAfter: wait + rand.N(wait/20+time.Second), Err: fmt.Errorf(
		"ask vision model %q: endpoint %s takes no more calls at the moment", c.Model, c.Endpoint)}
}

// away notes that an endpoint has asked to be left alone for long.
func (g *Gate) away(c *vision.Call, wait time.Duration) {
	if wait <= g.minute {
		return
	}
	why := fmt.Sprintf("vision endpoint %s has asked to be left alone, and its jobs wait", c.Endpoint)
	if g.heard(c.Endpoint, failing{why, time.Now().Add(wait)}) {
		g.log.Warn("the vision endpoint has asked to be left alone: jobs that need it wait", zap.String("endpoint", c.Endpoint), zap.Duration("for", wait.Round(time.Second)))
	}
}

// closed is the error of an endpoint that is not asked.
func (g *Gate) closed(c *vision.Call, a answer) error {
	class, why := vision.Unreachable, ""
	if len(a.more) > 1 {
		class, why = vision.Class(a.more[0]), a.more[1]
	}
	g.heard(c.Endpoint, failing{fmt.Sprintf("vision endpoint %s fails, and its jobs wait: %s", c.Endpoint, why), time.Now().Add(a.wait + g.minute)})
	return &vision.Error{Class: class, Closed: true, RetryAfter: a.wait + rand.N(a.wait/10+time.Second), Err: fmt.Errorf(
		"ask vision model %q: endpoint %s is asked once a minute at most, as it fails: %s", c.Model, c.Endpoint, why)}
}

// silent is the error of a job's last call that waits until the endpoint has answered somebody.
func silent(c *vision.Call, a answer) error {
	class, why := vision.Unreachable, ""
	if len(a.more) > 1 && a.more[0] != "" {
		class, why = vision.Class(a.more[0]), a.more[1]
	}
	return &vision.Error{Class: class, Closed: true, RetryAfter: a.wait + rand.N(a.wait/10+time.Second), Err: fmt.Errorf(
		"ask vision model %q: a call of this job may be charged and had no answer, and endpoint %s has answered nobody since: %s", c.Model, c.Endpoint, why)}
}

// heard notes what is in the way of calls, or that nothing is. It reports whether that is news.
func (g *Gate) heard(of string, f failing) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before, had := g.failing[of]
	if f.why == "" {
		delete(g.failing, of)
		return had
	}
	g.failing[of] = f
	return !had || time.Now().After(before.till)
}

// Failing says which endpoints are not asked at the moment, and which budgets are spent, as far as calls of this process
// have heard of it.
func (g *Gate) Failing() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, of := range slices.Sorted(maps.Keys(g.failing)) {
		if f := g.failing[of]; time.Now().Before(f.till) {
			out = append(out, f.why)
		}
	}
	return out
}

// spent is the error of a budget that has no room for the call.
func (g *Gate) spent(c *vision.Call, a answer) error {
	e := &vision.Error{Class: vision.Spent, RetryAfter: min(a.wait, mostSpent) + time.Second}
	which := ""
	for _, b := range g.cfg.Budgets {
		if len(a.more) > 1 && a.more[1] == strconv.FormatInt(int64(b.Window/time.Second), 10) {
			which = b.String()
		}
	}
	g.metrics.spent.Inc()
	if g.heard("budget "+which, failing{fmt.Sprintf("the budget of %s is spent, and jobs that need the model wait", which), time.Now().Add(min(a.wait, mostSpent))}) {
		g.log.Warn("the budget is spent: jobs that need the model wait for its next window, or fail", zap.String("budget", which), zap.Duration("for", a.wait.Round(time.Second)))
	}
	e.Err = fmt.Errorf("ask vision model %q: the budget of %s has no room for another call until its next window begins in %v",
		c.Model, which, a.wait.Round(time.Second))
	if g.cfg.Refuse {
		e.RetryAfter = 0
	}
	return e
}

// pass is a vision.Pass.
type pass struct {
	g       *Gate
	line    *line
	id      string
	call    vision.Call
	money   int64
	windows []string // keys
}

// end is the end of a call as leave.lua wants it.
type end struct {
	ID         string `json:"id"`
	Cost       int64  `json:"cost"`
	Prompt     int    `json:"prompt"`
	Completion int    `json:"completion"`
	Fault      string `json:"fault"`
	Wait       int64  `json:"wait"`
	Class      string `json:"class"`
	Text       string `json:"text"`
	Minute     int64  `json:"minute"`
	InFlight   int    `json:"inflight"`
	Money      int64  `json:"money"`
	Model      string `json:"model"`
	User       string `json:"user"`
	Windows    []any  `json:"windows"` // of [key, seconds]
}

// Leave ends the call. While Redis is away it waits, as long as the lease of the call lasts.
func (p *pass) Leave(e vision.End) int64 {
	defer p.line.ended() // when there is room for the next
	doc := end{ID: p.id, Minute: micros(p.g.minute), Prompt: e.Prompt, Completion: e.Completion, Fault: faultOf(e, p.call.Named),
		InFlight: p.g.cfg.Limits[p.call.Endpoint].InFlight, Money: p.money, Model: p.call.Model, User: nameOf(p.call.User), Windows: []any{}}
	for i, b := range p.g.cfg.Budgets {
		if i < len(p.windows) {
			doc.Windows = append(doc.Windows, []any{p.windows[i], int64(b.Window / time.Second)})
		}
	}
	switch {
	case e.Prompt+e.Completion > 0:
		doc.Cost = p.call.Cost(e.Tokens)
	case e.Paid && p.call.Known():
		doc.Cost = -1
	}
	var fault *vision.Error
	if errors.As(e.Err, &fault) {
		doc.Wait, doc.Class, doc.Text = micros(fault.RetryAfter), string(fault.Class), fault.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), max(p.g.late/2, time.Second))
	defer cancel()
	fields, err := p.g.run(ctx, leaveScript, keys(&p.call), doc)
	if err != nil || len(fields) < 3 {
		p.g.log.Warn("the end of a call is not booked: it counts as what was reserved", zap.String("endpoint", p.call.Endpoint), zap.Error(err))
		return p.reserved(doc.Cost)
	}
	p.g.tell(p.call.Endpoint, fields[2], fault)
	charged, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return p.reserved(doc.Cost)
	}
	if doc.Cost > p.money && len(p.g.cfg.Budgets) > 0 {
		p.g.log.Warn("a call cost more than was reserved for it", zap.String("endpoint", p.call.Endpoint), zap.String("model", p.call.Model),
			zap.Int64("cost_microusd", doc.Cost), zap.Int64("reserved_microusd", p.money))
	}
	return charged
}

// reserved is the cost of a call, what was reserved if it is not known.
func (p *pass) reserved(cost int64) int64 {
	if cost < 0 {
		return p.money
	}
	return cost
}

// tell logs that an endpoint is not asked any more, or is again: once for all processes.
func (g *Gate) tell(endpoint, news string, fault *vision.Error) {
	switch news {
	case "opened":
		level := zap.WarnLevel
		if faultClass(fault.Class) == broken {
			level = zap.ErrorLevel
		}
		g.log.Log(level, "the vision endpoint fails: jobs that need it wait, and one call a minute asks whether it is well", zap.String("endpoint", endpoint),
			zap.String("class", string(fault.Class)), zap.Error(fault))
	case "closed":
		g.log.Info("the vision endpoint is well again", zap.String("endpoint", endpoint))
	}
}

// Kinds of faults, see leave.lua.
const (
	throttled = "throttled"
	ill       = "ill"
	broken    = "broken"
	other     = "other"
	unknown   = "unknown"
)

func faultClass(c vision.Class) string {
	switch c {
	case "":
		return ""
	case vision.RateLimited:
		return throttled
	case vision.Unreachable, vision.Overloaded:
		return ill
	case vision.Quota, vision.Denied, vision.NotFound:
		return broken
	case vision.Unusable, vision.Refused, vision.Truncated:
		return "" // it has answered
	}
	return other
}

// faultOf is what the end of a call says about its endpoint.
func faultOf(e vision.End, named bool) string {
	class, known := e.Class()
	if !known {
		return unknown
	}
	f := faultClass(class)
	var fault *vision.Error
	if f == broken && named && class != vision.Quota && errors.As(e.Err, &fault) && fault.StatusCode != http.StatusUnauthorized {
		return unknown // of the job, which wants a model that is not there: that says nothing of the endpoint
	}
	return f
}
