// Package config is the operator's side of the configuration: which variables
// and flags there are, and how they become the Config of each package.
//
// Start with [Settings]. A flag wins over its variable, the variable over the
// default. A secret may stand in a file named by its variable with _FILE
// appended. Every fault is reported at once, each with the name to correct.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/pflag"

	"onceover/cache"
	"onceover/failed"
	"onceover/internal/ratelimit"
	"onceover/internal/redisretry"
	"onceover/internal/source"
	"onceover/internal/token"
	"onceover/internal/upload"
	"onceover/phash"
	"onceover/rabbit"
	"onceover/tasks"
	"onceover/vision"
	"onceover/vision/fleet"
	"onceover/vision/prompt"
	"onceover/worker"
)

// Secret is text that never appears when it is printed.
type Secret string

// String returns [redacted], or "" if there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String, for JSON and logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Set makes a Secret a pflag.Value.
func (s *Secret) Set(v string) error { *s = Secret(v); return nil }

// Type makes a Secret a pflag.Value.
func (s *Secret) Type() string { return "secret" }

// Settings are all settings, as given; see the table in docs/configuration.md.
type Settings struct {
	Worker worker.Config
	Tasks  tasks.Config
	Cache  cache.Config
	Image  source.Config
	Vision vision.OpenAIConfig // the endpoint, if there is no file of models
	Fleet  fleet.Config

	Models  []Endpoint      // in the order in which they are asked; none: the offline describer
	Cascade *vision.Cascade // nil: the first answer counts
	Prompts *prompt.Folder  // what the model is asked
	Offline bool            // no model is wished for

	RedisURL     string
	ResultsURL   string
	CacheURL     string
	ProgressURL  string
	LimitsURL    string
	BlacklistURL string
	FailedURL    string
	Failed       failed.Config

	// Of the gateway.
	ServeAPI        bool   // by a worker too; no setting
	Domain          string // in the paths of its API
	Uploads         string // where pictures are kept, see upload.Open; "" if it takes none
	UploadsKeep     time.Duration
	RateLimit       ratelimit.Rule // Limit is 0 for none
	RefuseUncounted bool
	Proxies         ratelimit.Proxies
	Tokens          token.Config
	Ops             bool   // serve the operators' page
	OpsReadScope    string // that a token needs for it, "" for none
	OpsAdminScope   string // that a token needs to change something there

	ManagementURL string // of RabbitMQ, with user and password; "" if it is not asked

	HTTPAddr  string // "" for none
	LogLevel  string
	LogFormat string // "json", "console", or "" to go by whether stderr is a terminal

	brokers   string
	rateLimit string
	uncounted string
	proxies   []string
	jwtSecret Secret
	apiKey    Secret
	models    string
	budget    string
	over      string
	rpm       int
	tpm       int
	pillow    string
	prompts   string
	only      []string // the flags that help shows; all if there are none
}

// shows reports whether a flag means something to the command.
func (s *Settings) shows(flag string) bool { return len(s.only) == 0 || slices.Contains(s.only, flag) }

// runsWorker reports whether the command runs a worker, whose concurrency can be set then.
func (s *Settings) runsWorker() bool { return s.shows("concurrency") }

// DefaultLang is the language of jobs that name none, unless the operator says otherwise.
const DefaultLang = "ko"

// Roles of Redis, and the database that each has on a shared server.
const (
	dbResults   = 0
	dbCache     = 1
	dbProgress  = 2
	dbLimits    = 3
	dbBlacklist = 4
	dbFailed    = 5
)

// setting is one line of the configuration: a flag and its variables, the
// first of which is our own.
type setting struct {
	flag string
	vars []string
	add  func(fs *pflag.FlagSet, name, usage string)
	help string
}

// Bind defines the flags on fs and returns the settings that they fill, at
// their defaults until [Settings.Load]. With only, help shows just those flags.
func Bind(fs *pflag.FlagSet, only ...string) *Settings {
	s := &Settings{
		Worker: worker.DefaultConfig(), Tasks: tasks.DefaultConfig(), Cache: cache.DefaultConfig(), Image: source.DefaultConfig(),
		RedisURL: "redis://127.0.0.1:6379", HTTPAddr: "127.0.0.1:8080", LogLevel: "info", over: "wait", Ops: true, OpsAdminScope: "admin",
		Domain: "waste", UploadsKeep: 7 * 24 * time.Hour, rateLimit: "60/60s", RateLimit: ratelimit.Rule{IPv6Prefix: 128}, uncounted: "allow", Tokens: token.DefaultConfig(),
	}
	s.Vision.Timeout, s.only = 120*time.Second, only
	s.brokers = strings.Join(s.Worker.BrokerURLs, ",")
	for _, x := range s.table() {
		help := x.help
		if len(x.vars) > 0 {
			help += " [$" + strings.Join(x.vars, ", $") + "]"
		}
		x.add(fs, x.flag, help)
		if len(only) > 0 && !slices.Contains(only, x.flag) {
			fs.Lookup(x.flag).Hidden = true
		}
	}
	return s
}

func (s *Settings) table() []setting {
	str := func(p *string) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.StringVar(p, name, *p, usage) }
	}
	list := func(p *[]string) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.StringSliceVar(p, name, *p, usage) }
	}
	num := func(p *int) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.IntVar(p, name, *p, usage) }
	}
	num64 := func(p *int64) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.Int64Var(p, name, *p, usage) }
	}
	float := func(p *float64) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.Float64Var(p, name, *p, usage) }
	}
	dur := func(p *time.Duration) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.DurationVar(p, name, *p, usage) }
	}
	yes := func(p *bool) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.BoolVar(p, name, *p, usage) }
	}
	secret := func(p *Secret) func(*pflag.FlagSet, string, string) {
		return func(fs *pflag.FlagSet, name, usage string) { fs.Var(p, name, usage) }
	}
	return []setting{
		{"broker-url", []string{"ONCEOVER_BROKER_URL", "CELERY_BROKER_URL"}, str(&s.brokers), "RabbitMQ: amqp:// or amqps://; several, separated by semicolons or commas, for failover"},
		{"redis-url", []string{"ONCEOVER_REDIS_URL"}, str(&s.RedisURL), "the Redis `server` of all roles, each on a database of its own"},
		{"results-url", []string{"ONCEOVER_RESULTS_URL", "CELERY_RESULT_BACKEND"}, str(&s.ResultsURL), "Celery results elsewhere (default: the server above, database 0); rpc:// sends them to the client instead"},
		{"cache-url", []string{"ONCEOVER_CACHE_URL"}, str(&s.CacheURL), "the image-hash cache elsewhere (default: database 1)"},
		{"progress-url", []string{"ONCEOVER_PROGRESS_URL"}, str(&s.ProgressURL), "job progress elsewhere (default: database 2)"},
		{"limits-url", []string{"ONCEOVER_LIMITS_URL"}, str(&s.LimitsURL), "rate limits and budgets elsewhere (default: database 3); with a budget a server that evicts nothing and keeps what it has, with appendonly"},
		{"blacklist-url", []string{"ONCEOVER_BLACKLIST_URL"}, str(&s.BlacklistURL), "revoked tokens of the gateway elsewhere (default: database 4)"},
		{"failed-url", []string{"ONCEOVER_FAILED_URL"}, str(&s.FailedURL), "failed and parked jobs elsewhere (default: database 5); should be a server that evicts nothing, with appendfsync always"},
		{"failed-allow-eviction", []string{"ONCEOVER_FAILED_ALLOW_EVICTION"}, yes(&s.Failed.AllowEviction), "start although that server evicts, and may lose failed and parked jobs"},
		{"failed-retention", []string{"ONCEOVER_FAILED_RETENTION"}, dur(&s.Failed.Retention), "discard failed jobs after this; 0: keep them until they are replayed or discarded"},
		{"failed-replicas", []string{"ONCEOVER_FAILED_REPLICAS"}, num(&s.Failed.Replicas), "at how many `replicas` of that server a job has to be before it counts as failed or parked"},
		{"queues", []string{"ONCEOVER_QUEUES"}, list(&s.Worker.Queues), "queues to consume, comma separated"},
		{"concurrency", []string{"ONCEOVER_CONCURRENCY"}, num(&s.Worker.Concurrency), "jobs in flight"},
		{"prefetch-multiplier", []string{"ONCEOVER_PREFETCH_MULTIPLIER"}, num(&s.Worker.PrefetchMultiplier), "prefetch = concurrency x this"},
		{"held-bytes", []string{"ONCEOVER_HELD_BYTES"}, num64(&s.Worker.HeldBytes), "`bytes` of message bodies held at most: the prefetch shrinks to fit"},
		{"node-name", []string{"ONCEOVER_NODE_NAME"}, str(&s.Worker.NodeName), "the Celery node name"},
		{"default-queue", []string{"ONCEOVER_DEFAULT_QUEUE"}, str(&s.Worker.DefaultQueue), "where a task goes that a job starts and that names no queue: Celery's task_default_queue"},
		{"track-started", []string{"ONCEOVER_TRACK_STARTED"}, yes(&s.Worker.TrackStarted), "store STARTED when a job begins, as Celery's task_track_started"},
		{"result-extended", []string{"ONCEOVER_RESULT_EXTENDED"}, yes(&s.Worker.ResultExtended), "store name, arguments and worker too, as Celery's result_extended"},
		{"task-events", []string{"ONCEOVER_TASK_EVENTS"}, yes(&s.Worker.TaskEvents), "send task events from the start, as celery worker -E; else from when a monitor asks for them"},
		{"delayed-delivery", []string{"ONCEOVER_DELAYED_DELIVERY"}, yes(&s.Worker.DelayedDelivery), "declare the exchanges and queues by which Celery 5.5 and later delays tasks on quorum queues"},
		{"drain-dead-letters", []string{"ONCEOVER_DRAIN_DEAD_LETTERS"}, yes(&s.Worker.DrainDeadLetters), "keep what arrives in q.dlq as failed jobs, and store how they ended"},
		{"max-crashes", []string{"ONCEOVER_MAX_CRASHES"}, num(&s.Worker.MaxCrashes), "keep a job as failed once so many processes died while they ran it; 0: never"},
		{"remote-control", []string{"ONCEOVER_REMOTE_CONTROL"}, yes(&s.Worker.RemoteControl), "answer celery inspect and celery control, Celery's worker_enable_remote_control; without it no events are sent either"},
		{"mingle", []string{"ONCEOVER_MINGLE"}, yes(&s.Worker.Mingle), "ask the other workers at the start which tasks are revoked; takes a second"},
		{"soft-time-limit", []string{"ONCEOVER_SOFT_TIME_LIMIT"}, dur(&s.Worker.SoftTimeLimit), "cancel a job after this; the message's limit wins"},
		{"time-limit", []string{"ONCEOVER_TIME_LIMIT"}, dur(&s.Worker.TimeLimit), "abandon a job after this; the message's limit wins"},
		{"grace", []string{"ONCEOVER_GRACE"}, dur(&s.Worker.Grace), "how long SIGTERM waits for jobs in flight"},
		{"vision-url", []string{"ONCEOVER_VISION_URL"}, str(&s.Vision.BaseURL), "base URL of an OpenAI-compatible `endpoint`, such as https://api.openai.com/v1 (default: none, the offline describer)"},
		{"vision-model", []string{"ONCEOVER_VISION_MODEL"}, str(&s.Vision.Model), "the `model` to ask"},
		{"vision-api-key", []string{"ONCEOVER_VISION_API_KEY", "OPENAI_API_KEY"}, secret(&s.apiKey), "key of the endpoint; better given by its variable, or by $ONCEOVER_VISION_API_KEY_FILE"},
		{"vision-timeout", []string{"ONCEOVER_VISION_TIMEOUT"}, dur(&s.Vision.Timeout), "longest wait for one answer of the model"},
		{"vision-format", []string{"ONCEOVER_VISION_FORMAT"}, str((*string)(&s.Vision.Format)), "the strictest `form` in which an answer is asked for: json_schema (default), json_object or none; a weaker one is found by itself"},
		{"vision-price-in", []string{"ONCEOVER_VISION_PRICE_IN"}, num64(&s.Vision.Prices.In), "price of a million prompt tokens in millionths of a US dollar; 0: costs are not reported"},
		{"vision-price-out", []string{"ONCEOVER_VISION_PRICE_OUT"}, num64(&s.Vision.Prices.Out), "the same for completion tokens"},
		{"vision-rpm", []string{"ONCEOVER_VISION_RPM"}, num(&s.rpm), "`requests` a minute that the endpoint takes, from all workers together; 0: found out"},
		{"vision-tpm", []string{"ONCEOVER_VISION_TPM"}, num(&s.tpm), "`tokens` a minute that the endpoint takes, from all workers together; 0: no limit is known"},
		{"models", []string{"ONCEOVER_MODELS"}, str(&s.models), "`file` of endpoints in the order in which they are asked, in place of vision-url and the others; see docs/models.md"},
		{"budget", []string{"ONCEOVER_BUDGET"}, str(&s.budget), "what all workers may `spend` together, such as 5usd/1d,100usd/30d; needs prices (default: no limit)"},
		{"budget-over", []string{"ONCEOVER_BUDGET_OVER"}, str(&s.over), "what becomes of a job for which the budget has no room: wait, until the next window begins, or fail"},
		{"retry-horizon", []string{"ONCEOVER_RETRY_HORIZON"}, dur(&s.Tasks.RetryHorizon), "try a job again for so long when the vision endpoint fails; 0: it fails at once"},
		{"user-concurrency", []string{"ONCEOVER_USER_CONCURRENCY"}, num(&s.Fleet.PerUser), "calls of the vision model at once for one user_id, of all workers; 0: no limit"},
		{"offline", []string{"ONCEOVER_OFFLINE"}, yes(&s.Offline), "no model is wished for: pictures are measured, not analysed, and nobody is warned of it"},
		{"prompts", []string{"ONCEOVER_PROMPTS"}, str(&s.prompts), "`folder` of prompts, schemas and messages (default: household waste, built in); see onceover prompts"},
		{"lang", []string{"ONCEOVER_LANG"}, str(&s.Tasks.Lang), "language of messages and analyses where a job names none"},
		{"cache-radius", []string{"ONCEOVER_CACHE_RADIUS"}, num(&s.Cache.Radius), "compare pictures whose hashes are at most so many `bits` apart, and give one the answer of the other if they show the same; 0: only equal hashes count, 60 is the most"},
		{"cache-turned", []string{"ONCEOVER_CACHE_TURNED"}, yes(&s.Cache.Turned), "pictures that are turned or mirrored show the same too; false where left and right, or up and down, matter to the answer"},
		{"cache-corner", []string{"ONCEOVER_CACHE_CORNER"}, yes(&s.Cache.Corner), "pictures show the same although one corner differs, as by a watermark; a date or price there is then not seen either"},
		{"canary", []string{"ONCEOVER_CANARY"}, float(&s.Tasks.Canary), "`share` of near hits, 0 to 1, of which the model is asked all the same, to see how often they are wrong"},
		{"cache-index-entries", []string{"ONCEOVER_CACHE_INDEX_ENTRIES"}, num(&s.Cache.IndexEntries), "most pictures that a process keeps in memory to find near ones, of 128 bytes each"},
		{"cache-any-prompt", []string{"ONCEOVER_CACHE_ANY_PROMPT"}, yes(&s.Cache.AnyPrompt), "answers made with another version of the prompt are answers too"},
		{"image-allow", []string{"ONCEOVER_IMAGE_ALLOW"}, list(&s.Image.Allow), "hosts or CIDRs that may be fetched although private, comma separated"},
		{"image-root", []string{"ONCEOVER_IMAGE_ROOT"}, str(&s.Image.Root), "`folder` below which file:// may read (default: none, file:// is refused)"},
		{"image-max-bytes", []string{"ONCEOVER_IMAGE_MAX_BYTES"}, num64(&s.Image.MaxBytes), "largest picture, in bytes"},
		{"image-max-pixels", []string{"ONCEOVER_IMAGE_MAX_PIXELS"}, num(&s.Tasks.MaxPixels), "largest picture, in pixels"},
		{"pillow", []string{"ONCEOVER_PILLOW"}, str(&s.pillow), "`release` of Pillow of the Python services that share the cache; from 12.2 on tall pictures hash differently"},
		{"http-addr", []string{"ONCEOVER_HTTP_ADDR"}, str(&s.HTTPAddr), "health and metrics, and the gateway's API; \"off\" for none"},
		{"domain", []string{"ONCEOVER_DOMAIN"}, str(&s.Domain), "gateway: `name` in its paths, /api/v1/{domain}/analyze"},
		{"uploads", []string{"ONCEOVER_UPLOADS"}, str(&s.Uploads), "gateway: where uploaded pictures are kept for the worker, a `folder` below its image-root or s3://bucket/prefix (default: no uploads are taken)"},
		{"uploads-keep", []string{"ONCEOVER_UPLOADS_KEEP"}, dur(&s.UploadsKeep), "gateway: remove uploads from a folder after this; a bucket needs a lifecycle rule"},
		{"rate-limit", []string{"ONCEOVER_RATE_LIMIT"}, str(&s.rateLimit), "gateway: `requests/window` of one address to one path that makes work, or off"},
		{"rate-limit-sliding", []string{"ONCEOVER_RATE_LIMIT_SLIDING"}, yes(&s.RateLimit.Sliding), "gateway: the window slides, instead of beginning with a request; Python services cannot share it"},
		{"rate-limit-ipv6-prefix", []string{"ONCEOVER_RATE_LIMIT_IPV6_PREFIX"}, num(&s.RateLimit.IPv6Prefix), "gateway: `bits` of an IPv6 address that are counted as one; 64 for the network of a subscriber"},
		{"rate-limit-outage", []string{"ONCEOVER_RATE_LIMIT_OUTAGE"}, str(&s.uncounted), "gateway: allow or refuse requests while Redis cannot count them"},
		{"trusted-proxies", []string{"ONCEOVER_TRUSTED_PROXIES"}, list(&s.proxies), "gateway: addresses or CIDRs whose X-Forwarded-For is believed, comma separated"},
		{"jwt-secret", []string{"ONCEOVER_JWT_SECRET"}, secret(&s.jwtSecret), "gateway: ask for tokens that are signed with this (HS256); at least 32 bytes"},
		{"jwt-jwks-url", []string{"ONCEOVER_JWT_JWKS_URL"}, str(&s.Tokens.JWKSURL), "gateway: ask for tokens that are signed with a key of this JSON Web Key Set (RS256, ES256)"},
		{"jwt-audience", []string{"ONCEOVER_JWT_AUDIENCE"}, str(&s.Tokens.Audience), "gateway: the aud that a token has to name (default: any)"},
		{"jwt-issuer", []string{"ONCEOVER_JWT_ISSUER"}, str(&s.Tokens.Issuer), "gateway: the iss that a token has to name (default: any)"},
		{"ops", []string{"ONCEOVER_OPS"}, yes(&s.Ops), "gateway: serve the operators' page below /ops/"},
		{"ops-read-scope", []string{"ONCEOVER_OPS_READ_SCOPE"}, str(&s.OpsReadScope), "gateway: the `scope` that a token needs to see that page (default: any token may); set it where users of the API have tokens of their own"},
		{"ops-admin-scope", []string{"ONCEOVER_OPS_ADMIN_SCOPE"}, str(&s.OpsAdminScope), "gateway: the `scope` that a token needs to replay, discard and pause there"},
		{"management-url", []string{"ONCEOVER_MANAGEMENT_URL"}, str(&s.ManagementURL), "doctor: `URL` of RabbitMQ's management API, such as http://user:password@rabbit:15672 (default: it is not asked)"},
		{"log-level", []string{"ONCEOVER_LOG_LEVEL"}, str(&s.LogLevel), "debug, info, warn or error"},
		{"log-format", []string{"ONCEOVER_LOG_FORMAT"}, str(&s.LogFormat), "console or json (default: console on a terminal)"},
	}
}

// Load takes the variables for the flags of fs that were not given, completes
// the settings and checks them. environ is os.Environ(). Warnings are for the
// operator to read; they do not stop anything.
func (s *Settings) Load(fs *pflag.FlagSet, environ []string) (warnings []string, err error) {
	env := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	var faults []error
	known := []string{}
	for _, x := range s.table() {
		known = append(known, x.vars...)
		if fs.Changed(x.flag) {
			continue
		}
		for _, name := range x.vars {
			value, from, err := lookUp(env, name)
			if err != nil {
				faults = append(faults, err)
				break
			}
			if value == "" {
				continue
			}
			f := fs.Lookup(x.flag)
			before := f.Value.String()
			if err := fs.Set(x.flag, value); err != nil {
				_ = f.Value.Set(before) // pflag has stored a zero, which would be a second fault
				faults = append(faults, fmt.Errorf("%s: %w", from, plainFlagError(err)))
			}
			break
		}
	}
	warnings = strangers(env, known)
	if err := errors.Join(append(faults, s.complete(env)...)...); err != nil {
		return warnings, err
	}
	return warnings, nil
}

// lookUp reads a variable, or the file that its _FILE names.
func lookUp(env map[string]string, name string) (value, from string, err error) {
	if v := env[name]; v != "" {
		return v, name, nil
	}
	path := env[name+"_FILE"]
	if path == "" {
		return "", name, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", name, fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimSpace(string(content)), name + "_FILE", nil
}

// plainFlagError drops pflag's mention of the flag, which the user did not use.
func plainFlagError(err error) error {
	var bad *pflag.InvalidValueError
	if errors.As(err, &bad) {
		return fmt.Errorf("%q is not valid: %w", bad.GetValue(), errors.Unwrap(bad))
	}
	return err
}

// strangers warns about variables that look like ours and are not.
func strangers(env map[string]string, known []string) []string {
	var out []string
	for name := range env {
		base := strings.TrimSuffix(name, "_FILE")
		if !strings.HasPrefix(name, "ONCEOVER_") || strings.HasPrefix(name, "ONCEOVER_TEST_") || slices.Contains(known, base) {
			continue
		}
		out = append(out, name+" is not a setting of onceover; see onceover worker --help")
	}
	slices.Sort(out)
	return out
}

// complete derives what follows from other settings, and checks everything.
func (s *Settings) complete(env map[string]string) []error {
	var faults []error
	check := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	s.Worker.BrokerURLs = rabbit.SplitURLs(s.brokers)
	for _, list := range [][]string{s.Worker.Queues, s.Image.Allow} {
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
	}
	check(s.Worker.Validate())
	check(s.Cache.Validate())
	if scheme, _, _ := strings.Cut(s.ResultsURL, "://"); scheme == "rpc" {
		// Chords, and what people ask for, still need a place.
		s.Worker.RPCResults, s.ResultsURL = true, ""
	}
	for _, role := range []struct {
		flag string
		url  *string
		db   int
	}{
		{"results-url", &s.ResultsURL, dbResults}, {"cache-url", &s.CacheURL, dbCache}, {"progress-url", &s.ProgressURL, dbProgress}, {"limits-url", &s.LimitsURL, dbLimits},
		{"blacklist-url", &s.BlacklistURL, dbBlacklist}, {"failed-url", &s.FailedURL, dbFailed},
	} {
		if *role.url == "" {
			u, err := onDB(s.RedisURL, role.db)
			if err != nil {
				faults = append(faults, err)
				break // the others would say the same
			}
			*role.url = u
		} else {
			_, err := ParseRedisURL(role.flag, *role.url)
			check(err)
		}
	}
	if err := vision.CheckLang(s.Tasks.Lang); err != nil {
		faults = append(faults, fmt.Errorf("lang: %w", err))
	}
	s.Image.S3 = source.S3ConfigFromEnv(func(name string) string { return env[name] })
	check(s.Image.Validate())
	var err error
	if s.Prompts, err = LoadPrompts(s.prompts); err != nil {
		if s.shows("prompts") {
			return append(faults, err) // the others would need them
		}
		s.Prompts = prompt.Builtin() // for messages at most
	}
	s.Tasks.Prompts = s.Prompts
	s.Vision.APIKey = string(s.apiKey)
	faults = append(faults, s.completeModels(func(name string) string { return env[name] })...)
	if s.Tasks.PillowOrder, err = phash.ParseOrder(s.pillow); err != nil {
		faults = append(faults, fmt.Errorf("pillow: %w", err))
	}
	if !(s.Tasks.Canary >= 0 && s.Tasks.Canary <= 1) {
		faults = append(faults, fmt.Errorf("canary is %v: expected a share from 0 to 1", s.Tasks.Canary))
	}
	if s.Tasks.MaxPixels < 1 {
		faults = append(faults, fmt.Errorf("image-max-pixels is %d: expected at least 1", s.Tasks.MaxPixels))
	}
	if s.Failed.Retention < 0 {
		faults = append(faults, fmt.Errorf("failed-retention is %v: expected 0 (for ever) or more", s.Failed.Retention))
	}
	if s.Failed.Replicas < 0 {
		faults = append(faults, fmt.Errorf("failed-replicas is %d: expected 0 (none) or more", s.Failed.Replicas))
	}
	if s.OpsAdminScope == "" {
		faults = append(faults, errors.New("ops-admin-scope is empty: expected the scope of a token that may change things, such as admin"))
	}
	faults = append(faults, s.completeGateway()...)
	if s.HTTPAddr == "off" {
		s.HTTPAddr = ""
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, s.LogLevel) {
		faults = append(faults, fmt.Errorf("log-level is %q: expected debug, info, warn or error", s.LogLevel))
	}
	if !slices.Contains([]string{"", "json", "console"}, s.LogFormat) {
		faults = append(faults, fmt.Errorf("log-format is %q: expected json or console", s.LogFormat))
	}
	return faults
}

// domainForm is what stands in a path as it is.
var domainForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// completeGateway completes what only the gateway uses.
func (s *Settings) completeGateway() []error {
	var faults []error
	fault := func(setting string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", setting, err))
		}
	}
	rule, err := ratelimit.ParseRule(s.rateLimit)
	fault("rate-limit", err)
	s.RateLimit.Limit, s.RateLimit.Window = rule.Limit, rule.Window
	if b := s.RateLimit.IPv6Prefix; b < 32 || b > 128 {
		faults = append(faults, fmt.Errorf("rate-limit-ipv6-prefix is %d: expected 32 to 128 bits, such as 64, the network of a subscriber", b))
	}
	if s.RefuseUncounted = s.uncounted == "refuse"; s.uncounted != "refuse" && s.uncounted != "allow" {
		faults = append(faults, fmt.Errorf("rate-limit-outage is %q: expected allow or refuse", s.uncounted))
	}
	s.Proxies, err = ratelimit.ParseProxies(s.proxies)
	fault("trusted-proxies", err)
	s.Tokens.Secret = string(s.jwtSecret)
	if err := s.Tokens.Validate(); err != nil {
		faults = append(faults, err)
	}
	if s.Uploads != "" {
		fault("uploads", upload.Check(s.Uploads))
	}
	if s.UploadsKeep < time.Hour {
		faults = append(faults, fmt.Errorf("uploads-keep is %v: expected 1h or more, as jobs and replays need their pictures", s.UploadsKeep))
	}
	if !domainForm.MatchString(s.Domain) {
		faults = append(faults, fmt.Errorf("domain is %q: expected up to 40 lower-case letters, digits, - and _", s.Domain))
	}
	return faults
}

// completeModels puts together which endpoints there are, and what they may be asked.
func (s *Settings) completeModels(getenv func(string) string) []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	single := s.Vision.BaseURL != ""
	if s.Vision.BaseURL == "" && s.Vision.Model != "" {
		fault("vision-model is set but vision-url is not: expected both, or neither for the offline describer")
	}
	if single && s.Offline {
		fault("offline is set, and so is vision-url: expected one of them")
	}
	if s.models != "" && (single || s.Offline) {
		fault("models is set, and so is vision-url or offline: expected one of them")
	}
	if s.models != "" && (s.rpm != 0 || s.tpm != 0 || s.Vision.Prices.Known() || s.Vision.Format != "") {
		fault("models is set, and so is vision-rpm, vision-tpm, vision-format or a vision-price: expected them in the file, for each endpoint")
	}
	if s.rpm < 0 || s.tpm < 0 {
		fault("vision-rpm or vision-tpm is negative: expected 0 (not known) or more")
	}
	switch {
	case s.models != "":
		var err error
		if s.Models, s.Cascade, err = ReadModels(s.models, getenv, s.runsWorker()); err != nil {
			return append(faults, err)
		}
	case single:
		s.Models = []Endpoint{{OpenAIConfig: s.Vision, Limits: fleet.Limits{RPM: s.rpm, TPM: s.tpm}}}
	}
	s.Fleet.Limits, s.Fleet.Calls = map[string]fleet.Limits{}, s.Worker.Concurrency
	if c := s.Cascade; c != nil && c.PromptVersion != "" {
		if p := s.Prompts.Find(prompt.Analysis, s.Tasks.Lang); p.Version != c.PromptVersion {
			fault("the calibration of the cascade is of prompt version %s, and that for %s is %s: run onceover eval --calibration again", c.PromptVersion, s.Tasks.Lang, p.Version)
		}
	}
	for i := range s.Models {
		e := &s.Models[i]
		e.Name, e.Timeout = cmp.Or(e.Name, "default"), cmp.Or(e.Timeout, s.Vision.Timeout)
		e.DefaultLang, e.Prompts = s.Tasks.Lang, s.Prompts
		s.Fleet.Limits[e.Name] = e.Limits
	}
	s.Vision.DefaultLang, s.Vision.Prompts = s.Tasks.Lang, s.Prompts
	var err error
	if s.Fleet.Budgets, err = fleet.ParseBudgets(s.budget); err != nil {
		fault("budget: %w", err)
	}
	if s.models != "" && s.Worker.SoftTimeLimit > 0 {
		for _, e := range s.Models {
			if e.Timeout >= s.Worker.SoftTimeLimit {
				fault("endpoint %s has a time-out of %v, and a job may take %v: expected less, or a longer soft-time-limit", e.Name, e.Timeout, s.Worker.SoftTimeLimit)
			}
		}
	}
	if len(s.Fleet.Budgets) > 0 {
		priced := map[string]bool{}
		for _, e := range s.Models {
			priced[e.Model] = true
			if !e.Prices.Known() {
				fault("budget is set, and the price of model %s at endpoint %s is not: expected vision-price-in and vision-price-out, or price in the file of models (of a model that costs nothing 0.000001usd)", e.Model, e.Name)
			}
		}
		for _, p := range s.Prompts.Prompts() {
			if p.Model != "" && len(s.Models) > 0 && !priced[p.Model] {
				fault("budget is set, and the price of model %s, which %s names, is not: expected an endpoint with that model", p.Model, p.File)
			}
		}
	}
	if s.Fleet.Refuse = s.over == "fail"; s.over != "fail" && s.over != "wait" {
		fault("budget-over is %q: expected wait or fail", s.over)
	}
	if s.Tasks.RetryHorizon < 0 || s.Fleet.PerUser < 0 {
		fault("retry-horizon or user-concurrency is negative: expected 0 or more")
	}
	return faults
}

// LoadPrompts reads the folder of prompts, "" for the one that is built in. The error has a line for
// each fault.
func LoadPrompts(dir string) (*prompt.Folder, error) {
	if dir == "" {
		return prompt.Builtin(), nil
	}
	folder, err := prompt.Load(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("prompts of %s:\n%w", dir, err)
	}
	return folder, nil
}

// onDB puts a database into the URL of a server that names none.
func onDB(server string, db int) (string, error) {
	opt, err := ParseRedisURL("redis-url", server)
	if err != nil {
		return "", err
	}
	if opt.DB != 0 {
		return "", fmt.Errorf("redis-url names database %d: expected none, since each role has its own; to choose, set results-url, cache-url, progress-url, limits-url, blacklist-url, failed-url", opt.DB)
	}
	return redisretry.OnDB(server, db)
}

// MoveRedis returns a Redis URL with the database that comes so many after its own. An error names the setting, and has no secret in it.
func MoveRedis(setting, raw string, by int) (string, error) {
	opt, err := ParseRedisURL(setting, raw)
	if err != nil {
		return "", err
	}
	return redisretry.OnDB(raw, opt.DB+by)
}

// ParseRedisURL reads a Redis URL as [redisretry.Options] does. The error names the
// setting and never shows the password.
func ParseRedisURL(setting, raw string) (*redis.Options, error) {
	opt, err := redisretry.Options(raw)
	if err != nil {
		scheme, _, _ := strings.Cut(raw, "://")
		if len(scheme) > 16 || scheme == raw {
			scheme = "?"
		}
		return nil, fmt.Errorf("%s (%s://…) is not a Redis URL that can be used: %w", setting, scheme, err)
	}
	return opt, nil
}
