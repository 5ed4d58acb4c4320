package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/config"
	"onceover/internal/redisretry"
)

// role is a role of Redis, and what its server said.
type role struct {
	name     string // results, cache, …
	variable string // that names its server
	url      string
	opt      *redis.Options // nil if the URL is none
	keeps    bool           // what is there is kept nowhere else: it must not be evicted
	tries    []any          // see rights

	err     error             // it does not answer
	took    time.Duration     // the quickest of some pings
	info    map[string]string // INFO; nil if it does not say
	fsync   string            // appendfsync, "" if it does not say
	timed   bool              // it said its time
	skew    time.Duration     // how far its clock is ahead of this machine's
	looked  int               // keys that were drawn at random
	untimed []string          // of them, those that never run out
	denied  []error           // what the user may not do
}

// rolesOf are the roles that the settings need. None is asked yet.
func rolesOf(s *config.Settings) []*role {
	all := []*role{
		{name: "results", variable: "ONCEOVER_RESULTS_URL", url: s.ResultsURL},
		{name: "cache", variable: "ONCEOVER_CACHE_URL", url: s.CacheURL},
		{name: "progress", variable: "ONCEOVER_PROGRESS_URL", url: s.ProgressURL},
		{name: "failed", variable: "ONCEOVER_FAILED_URL", url: s.FailedURL, keeps: true},
	}
	if len(s.Models) > 0 {
		all = append(all, &role{name: "limits", variable: "ONCEOVER_LIMITS_URL", url: s.LimitsURL, keeps: len(s.Fleet.Budgets) > 0})
	}
	for _, r := range all {
		r.opt, r.err = redisretry.Options(r.url)
		r.tries = tries[r.name]
	}
	return all
}

// tries are commands that need the rights of a role and do nothing: what is set only where it is there, under a key that is not, is not
// set (SET XX, ZADD XX), and nobody listens on the channels. docs/operations.md, "Rights", says what a role needs.
var tries = map[string][]any{
	"results": {
		[]any{"SET", "celery-task-meta-onceover-doctor", "", "XX", "EX", "1"}, []any{"PUBLISH", "celery-task-meta-onceover-doctor", ""},
		[]any{"EVAL", "return redis.call('GET', KEYS[1])", "1", "onceover:run:onceover-doctor"}, []any{"GET", "celery-taskset-meta-onceover-doctor"},
	},
	"cache": {
		[]any{"SET", "cache:image:hash:onceover-doctor", "", "XX", "EX", "1"}, []any{"EVAL", "return redis.call('EXISTS', KEYS[1])", "1", "phash:log:onceover-doctor"},
	},
	"progress": {
		[]any{"SET", "job:onceover-doctor:progress", "", "XX", "EX", "1"}, []any{"PUBLISH", "job:events:onceover-doctor", ""},
		[]any{"EVAL", "return redis.call('GET', KEYS[1])", "1", "job:onceover-doctor:finished"},
	},
	"limits": {
		[]any{"SET", "ratelimit:onceover-doctor", "", "XX", "EX", "1"}, []any{"TIME"}, []any{"EVAL", "return redis.call('GET', KEYS[1])", "1", "ratelimit:onceover-doctor"},
	},
	"failed": {
		[]any{"SET", "onceover:onceover-doctor", "", "XX", "EX", "1"}, []any{"ZADD", "asynq:onceover-doctor", "XX", "1", "x"},
		[]any{"EVAL", "return redis.call('GET', KEYS[1])", "1", "onceover:onceover-doctor"},
	},
}

const (
	pings = 5
	drawn = 50 // keys
)

// ask asks the server.
func (r *role) ask(ctx context.Context) {
	if r.err != nil {
		return
	}
	opt := *r.opt
	opt.PoolSize, opt.ClientName = 1, "onceover-doctor"
	opt.DialTimeout = min(opt.DialTimeout, Limit/2)
	c := redis.NewClient(&opt)
	defer c.Close()
	r.took = math.MaxInt64
	for range pings {
		began := time.Now()
		if r.err = c.Ping(ctx).Err(); r.err != nil {
			return
		}
		r.took = min(r.took, time.Since(began))
	}
	before := time.Now()
	if at, err := c.Time(ctx).Result(); err == nil {
		r.timed, r.skew = true, at.Sub(before.Add(time.Since(before)/2))
	}
	if doc, err := c.Info(ctx).Result(); err == nil {
		r.info = map[string]string{}
		for line := range strings.SplitSeq(doc, "\r\n") {
			if name, value, ok := strings.Cut(line, ":"); ok {
				r.info[name] = value
			}
		}
	}
	if found, err := c.ConfigGet(ctx, "appendfsync").Result(); err == nil {
		r.fsync = found["appendfsync"]
	}
	r.draw(ctx, c)
	for _, args := range r.tries {
		err := c.Do(ctx, args.([]any)...).Err()
		var reply redis.Error
		if err == nil || errors.Is(err, redis.Nil) {
			continue
		}
		if !errors.As(err, &reply) {
			r.err = err // it answers no more
			return
		}
		if kind, remedy := redisretry.Diagnose(reply.Error()); kind == redisretry.Rights {
			r.denied = append(r.denied, &deniedError{reply.Error(), remedy})
		}
	}
}

// deniedError is a right that is missing.
type deniedError struct{ reply, remedy string }

func (e *deniedError) Error() string { return e.reply }

// draw looks at some keys, which should all run out one day. Those of the failed role do not.
func (r *role) draw(ctx context.Context, c *redis.Client) {
	if r.name == "failed" {
		return
	}
	var keys [drawn]*redis.StringCmd
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error { // an empty database has none
		for i := range keys {
			keys[i] = p.RandomKey(ctx)
		}
		return nil
	})
	ttls := map[string]*redis.DurationCmd{}
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, k := range keys {
			if name := k.Val(); name != "" && ttls[name] == nil {
				ttls[name] = p.TTL(ctx, name)
			}
		}
		return nil
	})
	for name, ttl := range ttls {
		if ttl.Err() != nil {
			continue
		}
		r.looked++
		if ttl.Val() == -1 && ours(name) {
			r.untimed = append(r.untimed, name)
		}
	}
	slices.Sort(r.untimed)
}

// ours reports whether a key has a name that jobs give.
func ours(key string) bool {
	return slices.ContainsFunc([]string{"celery-task-meta-", "celery-taskset-meta-", "cache:", "phash:", "job:", "ratelimit:", "onceover:run:", "idempotency:"},
		func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// number is a field of INFO, -1 if it is not there.
func (r *role) number(field string) int64 {
	n, err := strconv.ParseInt(r.info[field], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// where names a role's server for people.
func (r *role) where() string {
	if r.opt == nil {
		return r.variable
	}
	return fmt.Sprintf("%s, database %d", r.opt.Addr, r.opt.DB)
}

// What a check needs to know of a role.
func (r *role) answers() bool   { return r.err == nil }
func (r *role) describes() bool { return r.err == nil && r.info != nil }
func (r *role) tellsTime() bool { return r.err == nil && r.timed }

// each makes a check of what one role says. Those of which it is not known are named.
func each(knows func(*role) bool, look func(f *facts, r *role) *Finding) func(*facts) []Finding {
	return func(f *facts) (out []Finding) {
		var silent []string
		for _, r := range f.redis {
			if !knows(r) {
				silent = append(silent, r.name)
				continue
			}
			if one := look(f, r); one != nil {
				one.Subject = cmp.Or(one.Subject, r.name)
				out = append(out, *one)
			}
		}
		if silent != nil {
			out = append(out, unknown("the server of "+strings.Join(silent, ", ")+" does not say")...)
		}
		return out
	}
}

// perServer is each, for what is the same for all roles of one server and database-independent: it is said once.
func perServer(knows func(*role) bool, look func(f *facts, r *role) *Finding) func(*facts) []Finding {
	return func(f *facts) []Finding {
		said := map[string]bool{}
		return each(knows, func(f *facts, r *role) *Finding {
			server := r.info["run_id"]
			if server != "" && said[server] {
				return nil
			}
			said[server] = true
			one := look(f, r)
			if one != nil {
				one.Subject = r.opt.Addr
			}
			return one
		})(f)
	}
}

var redisChecks = []check{
	{"redis.reachable", "every role answers", func(f *facts) (out []Finding) {
		for _, r := range f.redis {
			if r.err == nil {
				continue
			}
			remedy := "start it, or correct " + r.variable + " (or ONCEOVER_REDIS_URL)"
			var reply redis.Error
			if errors.As(r.err, &reply) {
				if _, text := redisretry.Diagnose(reply.Error()); text != "" {
					remedy = text
				}
			}
			out = append(out, Finding{Severity: Error, Subject: r.name, Found: fmt.Sprintf("%s does not answer: %v", r.where(), r.err), Remedy: remedy})
		}
		return out
	}},
	{"redis.version", "the releases are ones that were tried", perServer((*role).describes, func(_ *facts, r *role) *Finding {
		version := r.info["redis_version"]
		major, _, _ := strings.Cut(version, ".")
		n, err := strconv.Atoi(major)
		if err != nil || n >= 6 || r.info["valkey_version"] != "" {
			return nil
		}
		return &Finding{Severity: Warning, Found: "Redis " + version + " is older than any that was tried", Remedy: "use Redis 7 or newer, or Valkey 8 or newer: see docs/tested-with.md"}
	})},
	{"redis.role", "every role has a server that takes writes", perServer((*role).describes, func(_ *facts, r *role) *Finding {
		if r.info["role"] != "slave" {
			return nil
		}
		return &Finding{Severity: Error, Found: fmt.Sprintf("it is a replica of %s:%s, which takes no writes", r.info["master_host"], r.info["master_port"]), Remedy: "name the primary in the URL"}
	})},
	{"redis.eviction", "no server evicts what is kept nowhere else", each((*role).describes, func(f *facts, r *role) *Finding {
		policy, limited := r.info["maxmemory_policy"], r.number("maxmemory") > 0
		switch {
		case !r.keeps || policy == "" || policy == "noeviction" || r.name == "failed" && !strings.HasPrefix(policy, "allkeys"):
			return nil
		case !limited:
			return &Finding{Severity: Warning, Found: fmt.Sprintf("maxmemory-policy is %s: nothing is evicted as long as there is no maxmemory, and jobs or budgets are once there is one", policy), Remedy: "set maxmemory-policy noeviction on the server of " + r.variable}
		case r.name == "failed" && f.Settings.Failed.AllowEviction:
			return &Finding{Severity: Warning, Found: fmt.Sprintf("maxmemory-policy is %s: failed and parked jobs may be lost, which ONCEOVER_FAILED_ALLOW_EVICTION accepts", policy), Remedy: "give failed jobs a server of their own with noeviction (ONCEOVER_FAILED_URL)"}
		}
		return &Finding{Severity: Error, Found: fmt.Sprintf("maxmemory-policy is %s: what is there may be evicted, and a worker does not start", policy), Remedy: "give this role a server of its own with noeviction (" + r.variable + ")"}
	})},
	{"redis.memory", "memory has room where nothing is evicted", perServer((*role).describes, func(_ *facts, r *role) *Finding {
		used, most := r.number("used_memory"), r.number("maxmemory")
		if system := r.number("total_system_memory"); most <= 0 { // 0: as much as there is
			if used > 0 && system > 0 && used > system*8/10 {
				return &Finding{Severity: Error, Found: fmt.Sprintf("%d of the machine's %d MiB are in use, and there is no maxmemory: the kernel kills it when there is no more", used>>20, system>>20), Remedy: "set maxmemory, or give it more memory"}
			}
			return nil
		}
		if r.info["maxmemory_policy"] != "noeviction" || used <= most*8/10 {
			return nil
		}
		return &Finding{Severity: Error, Found: fmt.Sprintf("%d of %d MiB are in use, and nothing is evicted: when it is full it takes no writes, and jobs wait", used>>20, most>>20), Remedy: "discard failed jobs that nobody replays (onceover failed discard), or raise maxmemory"}
	})},
	{"redis.persistence", "what is kept nowhere else survives a crash of its server", each((*role).describes, func(_ *facts, r *role) *Finding {
		switch {
		case r.info["aof_last_write_status"] == "err" || r.info["rdb_last_bgsave_status"] == "err":
			return &Finding{Severity: Error, Found: "the server cannot write its file: it may refuse writes, and a crash loses what is there", Remedy: "look into its log; free its disk"}
		case !r.keeps || r.info["aof_enabled"] == "":
			return nil
		case r.info["aof_enabled"] != "1":
			return &Finding{Severity: Warning, Found: "there is no append-only file: a crash of the server loses what came after its last snapshot", Remedy: "set appendonly yes, and appendfsync always"}
		case r.name == "failed" && r.fsync == "":
			return &Finding{Severity: Unknown, Found: "not known: the server does not say its appendfsync (CONFIG GET)"}
		case r.name == "failed" && r.fsync != "always":
			return &Finding{Severity: Warning, Found: "appendfsync is " + r.fsync + ": a crash of the server's machine loses the jobs of the last second", Remedy: "set appendfsync always"}
		}
		return nil
	})},
	{"redis.replicas", "as many replicas are there as jobs wait for", each((*role).describes, func(f *facts, r *role) *Finding {
		want, has := int64(f.Settings.Failed.Replicas), r.number("connected_slaves")
		if r.name != "failed" || want == 0 || has < 0 || has >= want {
			return nil
		}
		return &Finding{Severity: Error, Found: fmt.Sprintf("%d replicas are connected, and ONCEOVER_FAILED_REPLICAS is %d: jobs that fail or are parked wait for the others", has, want), Remedy: "start the replicas, or set ONCEOVER_FAILED_REPLICAS lower"}
	})},
	{"redis.clients", "connections have room", perServer((*role).describes, func(_ *facts, r *role) *Finding {
		has, most := r.number("connected_clients"), r.number("maxclients")
		if most <= 0 || has <= most*8/10 {
			return nil
		}
		return &Finding{Severity: Error, Found: fmt.Sprintf("%d of %d connections are in use", has, most), Remedy: "find who holds them (CLIENT LIST), or raise maxclients"}
	})},
	{"redis.latency", "the servers answer at once", perServer((*role).answers, func(_ *facts, r *role) *Finding {
		if r.took <= 20*time.Millisecond {
			return nil
		}
		return &Finding{Severity: Warning, Found: fmt.Sprintf("the quickest of %d pings took %v: each job waits for four answers or more, one after the other", pings, r.took.Round(time.Millisecond)), Remedy: "run the worker near it; look into SLOWLOG and LATENCY DOCTOR"}
	})},
	{"redis.clock", "the clocks agree", perServer((*role).tellsTime, func(_ *facts, r *role) *Finding {
		skew := r.skew.Abs()
		if skew <= 2*time.Second {
			return nil
		}
		severity := Warning
		if skew > 30*time.Second {
			severity = Error
		}
		return &Finding{Severity: severity, Found: fmt.Sprintf("its clock is %v from this machine's: ETA, expires and budgets are off by so much", r.skew.Round(time.Second)), Remedy: "run NTP on both machines"}
	})},
	{"redis.ttl", "keys run out (of a sample)", each((*role).answers, func(_ *facts, r *role) *Finding {
		if len(r.untimed) == 0 {
			return nil
		}
		return &Finding{Severity: Warning, Found: fmt.Sprintf("%d of %d keys that were drawn never run out, such as %s", len(r.untimed), r.looked, r.untimed[0]), Remedy: "give Celery a result_expires; onceover's own cleanup.cache gives cache entries their time"}
	})},
	{"redis.rights", "the user may do what its role needs", func(f *facts) []Finding {
		out := each((*role).answers, func(*facts, *role) *Finding { return nil })(f)
		for _, r := range f.redis {
			for _, err := range r.denied {
				var denied *deniedError
				if errors.As(err, &denied) {
					out = append(out, Finding{Severity: Error, Subject: r.name, Found: denied.reply, Remedy: denied.remedy + "; docs/operations.md, Rights, has the whole list"})
				}
			}
		}
		return out
	}},
}
