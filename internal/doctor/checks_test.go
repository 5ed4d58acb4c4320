package doctor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"onceover/internal/control"
	"onceover/rabbit"
)

// calm are facts of which nothing is wrong.
func calm(t *testing.T, environ ...string) *facts {
	t.Helper()
	s := settings(t, append(environ, "ONCEOVER_OFFLINE=true")...)
	f := &facts{Subject: s, now: time.Now(), machine: machine{files: 1 << 20}, redis: rolesOf(s.Settings)}
	for _, r := range f.redis {
		r.err, r.took, r.fsync, r.timed = nil, time.Millisecond, "always", true
		r.info = map[string]string{
			"run_id": r.name, "redis_version": "7.0.15", "role": "master", "maxmemory_policy": "noeviction", "maxmemory": "1000", "used_memory": "10",
			"aof_enabled": "1", "aof_last_write_status": "ok", "rdb_last_bgsave_status": "ok", "connected_clients": "1", "maxclients": "10000", "connected_slaves": "0",
		}
	}
	f.broker = broker{urls: 1, down: map[string]error{}, seen: &rabbit.Inspection{
		Product: "RabbitMQ", Version: "3.10.8",
		Exchanges: map[string]rabbit.ExchangeState{},
		Queues:    map[string]rabbit.QueueState{"q.ai": {Standing: rabbit.Standing{Consumers: 1}}, "q.dlq": {Standing: rabbit.Standing{Consumers: 1}}},
	}}
	f.workers = workers{all: []control.Worker{{Node: "celery@a", Queues: []string{"q.ai"}}}, registered: map[string][]string{"celery@a": {"image.analyze"}}}
	return f
}

// role returns a role of the facts.
func (f *facts) role(name string) *role {
	for _, r := range f.redis {
		if r.name == name {
			return r
		}
	}
	panic("no role " + name)
}

// TestChecks has each fault found, and nothing besides.
func TestChecks(t *testing.T) {
	t.Parallel()
	queue := func(f *facts, q rabbit.QueueState) {
		q.Consumers = max(q.Consumers, 1)
		f.broker.seen.Queues["q.ai"] = q
	}
	info := func(role, field, value string) func(*facts) {
		return func(f *facts) { f.role(role).info[field] = value }
	}
	manage := func(change func(*management)) func(*facts) {
		return func(f *facts) {
			f.management = management{asked: true, nodes: []node{{Name: "rabbit@a", Running: true, FilesTotal: 100}}, queues: map[string]queueDetail{}}
			change(&f.management)
		}
	}
	number := func(n int) *int { return &n }
	zone := filepath.Join(t.TempDir(), "localtime")
	if err := os.WriteFile(zone, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		environ []string
		change  func(*facts)
		want    []string
	}{
		"nothing":                  {},
		"an unknown variable":      {[]string{"ONCEOVER_QUEUE=x"}, nil, []string{"warning settings.unknown"}},
		"no time limit":            {[]string{"ONCEOVER_TIME_LIMIT=0", "ONCEOVER_SOFT_TIME_LIMIT=0"}, nil, []string{"warning settings.time_limits"}},
		"a long time limit":        {[]string{"ONCEOVER_TIME_LIMIT=40m"}, nil, []string{"warning settings.time_limits"}},
		"a long grace":             {[]string{"ONCEOVER_GRACE=15m"}, nil, []string{"warning settings.grace"}},
		"no HTTP":                  {[]string{"ONCEOVER_HTTP_ADDR=off"}, nil, []string{"warning settings.http"}},
		"loopback in a pod":        {[]string{"KUBERNETES_SERVICE_HOST=10.0.0.1"}, nil, []string{"error settings.http"}},
		"all addresses in a pod":   {[]string{"KUBERNETES_SERVICE_HOST=10.0.0.1", "ONCEOVER_HTTP_ADDR=0.0.0.0:8080"}, nil, nil},
		"everything is allowed":    {[]string{"ONCEOVER_IMAGE_ALLOW=0.0.0.0/0,minio,10.1.2.3,10.1.0.0/16"}, nil, []string{"warning settings.allow 0.0.0.0/0"}},
		"metadata is allowed":      {[]string{"ONCEOVER_IMAGE_ALLOW=169.254.169.254"}, nil, []string{"warning settings.allow 169.254.169.254"}},
		"a wide network":           {[]string{"ONCEOVER_IMAGE_ALLOW=10.0.0.0/8,fd00::/8"}, nil, []string{"warning settings.allow 10.0.0.0/8", "warning settings.allow fd00::/8"}},
		"no image root":            {nil, func(f *facts) { f.machine.root = os.ErrNotExist }, []string{"error settings.image_root"}},
		"an image root that hangs": {nil, func(f *facts) { f.machine.root = errHangs }, nil},
		"no model":                 {nil, func(f *facts) { f.Settings.Offline = false }, []string{"warning settings.model"}},
		"guest elsewhere":          {[]string{"ONCEOVER_BROKER_URL=amqp://guest:hunter2@rabbit//"}, nil, []string{"warning settings.guest rabbit"}},
		"TLS without certificates": {[]string{"ONCEOVER_CACHE_URL=rediss://:hunter2@redis/1?ssl_cert_reqs=none"}, nil, []string{"warning settings.tls cache"}},
		"one database for two":     {[]string{"ONCEOVER_PROGRESS_URL=redis://127.0.0.1:6379/1"}, nil, []string{"warning settings.databases progress"}},
		"no time zone":             {[]string{"TZ=Asia/Seul"}, nil, []string{"warning settings.time_zone"}},
		"the file of a time zone":  {[]string{"TZ=:" + zone}, nil, nil},
		"a file, without a colon":  {[]string{"TZ=" + zone}, nil, nil},
		"no file of a time zone":   {[]string{"TZ=" + zone + "2"}, nil, []string{"warning settings.time_zone"}},
		"a time zone":              {[]string{"TZ=Asia/Seoul"}, nil, nil},

		"few files":     {nil, func(f *facts) { f.machine.files = 256 }, []string{"warning machine.files"}},
		"little memory": {nil, func(f *facts) { f.machine.memory = 512 << 20 }, []string{"warning machine.memory"}},
		"enough memory": {nil, func(f *facts) { f.machine.memory = 1 << 30 }, nil},
		"a full disk":   {nil, func(f *facts) { f.machine.disks = []disk{{"uploads", "/u", 1 << 20, 100 << 30, nil}} }, []string{"warning machine.disk uploads"}},
		"no disk":       {nil, func(f *facts) { f.machine.disks = []disk{{"uploads", "/u", 0, 0, os.ErrPermission}} }, []string{"error machine.disk uploads"}},

		"a disk that hangs": {nil, func(f *facts) { f.machine.disks = []disk{{"uploads", "/u", 0, 0, errHangs}} }, nil},
		"a disk that is mounted read-only": {nil, func(f *facts) {
			f.machine.disks = []disk{{"uploads", "/u", 0, 0, &os.PathError{Op: "open", Path: "/u/x", Err: syscall.EROFS}}}
		}, []string{"warning machine.disk uploads"}},

		"no broker": {nil, func(f *facts) {
			f.broker = broker{urls: 1, down: map[string]error{"amqp://a//": errors.New("refused")}}
		}, []string{"error broker.reachable amqp://a//"}},
		"one broker of two": {nil, func(f *facts) {
			f.broker.urls, f.broker.down = 2, map[string]error{"amqp://a//": errors.New("refused")}
		}, []string{"warning broker.reachable amqp://a//"}},
		"a broker that stops answering": {nil, func(f *facts) { f.broker.ended = errors.New("closed") }, []string{"error broker.reachable"}},
		"an old broker":                 {nil, func(f *facts) { f.broker.seen.Version = "3.8.9" }, []string{"warning broker.version"}},
		"a new broker":                  {nil, func(f *facts) { f.broker.seen.Version = "4.3.6" }, nil},
		"a certificate that runs out":   {nil, func(f *facts) { f.broker.expiry = f.now.Add(time.Hour) }, []string{"warning broker.certificate"}},
		"a good certificate":            {nil, func(f *facts) { f.broker.expiry = f.now.Add(100 * 24 * time.Hour) }, nil},
		"no exchange":                   {nil, func(f *facts) { f.broker.seen.Exchanges["tasks"] = rabbit.ExchangeState{Missing: true} }, []string{"warning broker.exchanges tasks"}},
		"no queue":                      {nil, func(f *facts) { f.broker.seen.Queues["q.ai"] = rabbit.QueueState{Missing: true} }, []string{"warning broker.queues q.ai"}},
		"another TTL": {nil, func(f *facts) {
			queue(f, rabbit.QueueState{Differs: &rabbit.Difference{Argument: "x-message-ttl", Want: "300000", Have: "1000"}})
		}, []string{"warning broker.arguments q.ai"}},
		"no dead letters": {nil, func(f *facts) {
			queue(f, rabbit.QueueState{Differs: &rabbit.Difference{Argument: "x-dead-letter-exchange", Want: "dlx", Have: "none"}})
		}, []string{"error broker.arguments q.ai"}},
		"not durable":     {nil, func(f *facts) { queue(f, rabbit.QueueState{Differs: &rabbit.Difference{Argument: "durable"}}) }, []string{"error broker.arguments q.ai"}},
		"may not consume": {nil, func(f *facts) { queue(f, rabbit.QueueState{Fault: errors.New("ACCESS_REFUSED")}) }, []string{"error broker.read q.ai"}},
		"may not publish": {nil, func(f *facts) {
			f.broker.seen.Publish = errors.New("ACCESS_REFUSED")
		}, []string{"error broker.write amq.default"}},
		"nobody consumes":            {nil, func(f *facts) { f.broker.seen.Queues["q.ai"] = rabbit.QueueState{} }, []string{"warning broker.consumers q.ai"}},
		"nobody consumes what waits": {nil, func(f *facts) { f.broker.seen.Queues["q.ai"] = rabbit.QueueState{Standing: rabbit.Standing{Ready: 1}} }, []string{"error broker.consumers q.ai"}},
		"nearly full":                {nil, func(f *facts) { queue(f, rabbit.QueueState{Standing: rabbit.Standing{Ready: 4001}}) }, []string{"error broker.backlog q.ai"}},
		"no delays":                  {nil, func(f *facts) { f.broker.seen.Exchanges[delays] = rabbit.ExchangeState{Missing: true} }, []string{"warning broker.delays " + delays}},

		"no management":       {nil, manage(func(m *management) { m.err = errors.New("401") }), []string{"warning management.reachable"}},
		"no statistics":       {nil, manage(func(m *management) { m.overview.DisableStats = true }), []string{"warning management.statistics"}},
		"an alarm":            {nil, manage(func(m *management) { m.nodes[0].DiskAlarm = true }), []string{"error management.alarms rabbit@a"}},
		"a node that is down": {nil, manage(func(m *management) { m.nodes[0].Running = false }), []string{"error management.nodes rabbit@a"}},
		"a partition":         {nil, manage(func(m *management) { m.nodes[0].Partitions = []string{"rabbit@b"} }), []string{"error management.nodes rabbit@a"}},
		"open files":          {nil, manage(func(m *management) { m.nodes[0].FilesUsed = 90 }), []string{"error management.files rabbit@a"}},
		"no majority": {nil, manage(func(m *management) {
			m.queues["q.ai"] = queueDetail{Type: "quorum", Members: []string{"a", "b", "c"}, Online: []string{"a"}}
		}), []string{"error management.quorum q.ai"}},
		"none to spare": {nil, manage(func(m *management) {
			m.queues["q.ai"] = queueDetail{Type: "quorum", Members: []string{"a", "b", "c"}, Online: []string{"a", "b"}}
		}), []string{"warning management.quorum q.ai"}},
		"a policy": {nil, manage(func(m *management) {
			q := queueDetail{}
			q.Policy.DeliveryLimit, q.Policy.ConsumerTimeout, q.Policy.MessageTTL = number(2), number(60_000), number(100)
			m.queues["q.ai"] = q
		}), []string{"error management.policy q.ai", "warning management.policy q.ai"}},

		"Redis is away":           {nil, func(f *facts) { f.role("cache").err = errors.New("refused") }, []string{"error redis.reachable cache"}},
		"an old Redis":            {nil, info("cache", "redis_version", "5.0.7"), []string{"warning redis.version 127.0.0.1:6379"}},
		"a replica":               {nil, info("results", "role", "slave"), []string{"error redis.role 127.0.0.1:6379"}},
		"failed jobs are evicted": {nil, info("failed", "maxmemory_policy", "allkeys-lru"), []string{"error redis.eviction failed"}},
		"failed jobs may be evicted": {nil, func(f *facts) {
			f.role("failed").info["maxmemory_policy"], f.role("failed").info["maxmemory"] = "allkeys-lru", "0"
		}, []string{"warning redis.eviction failed"}},
		"what runs out may be evicted": {nil, info("failed", "maxmemory_policy", "volatile-lru"), nil},
		"the cache is evicted":         {nil, info("cache", "maxmemory_policy", "allkeys-lru"), nil},
		"a full Redis":                 {nil, info("failed", "used_memory", "900"), []string{"error redis.memory 127.0.0.1:6379"}},
		"a full cache": {nil, func(f *facts) {
			f.role("cache").info["maxmemory_policy"], f.role("cache").info["used_memory"] = "allkeys-lru", "1000"
		}, nil},
		"no maxmemory": {nil, func(f *facts) {
			f.role("cache").info["maxmemory"], f.role("cache").info["total_system_memory"] = "0", "11"
		}, []string{"error redis.memory 127.0.0.1:6379"}},
		"no file":                       {nil, info("failed", "aof_enabled", "0"), []string{"warning redis.persistence failed"}},
		"a file each second":            {nil, func(f *facts) { f.role("failed").fsync = "everysec" }, []string{"warning redis.persistence failed"}},
		"a file that cannot be written": {nil, info("cache", "rdb_last_bgsave_status", "err"), []string{"error redis.persistence cache"}},
		"too few replicas":              {[]string{"ONCEOVER_FAILED_REPLICAS=1"}, nil, []string{"error redis.replicas failed"}},
		"many clients":                  {nil, info("cache", "connected_clients", "9000"), []string{"error redis.clients 127.0.0.1:6379"}},
		"a slow Redis":                  {nil, func(f *facts) { f.role("cache").took = time.Second }, []string{"warning redis.latency 127.0.0.1:6379"}},
		"a clock":                       {nil, func(f *facts) { f.role("cache").skew = -10 * time.Second }, []string{"warning redis.clock 127.0.0.1:6379"}},
		"a clock of yesterday":          {nil, func(f *facts) { f.role("cache").skew = 24 * time.Hour }, []string{"error redis.clock 127.0.0.1:6379"}},
		"keys for ever": {nil, func(f *facts) {
			f.role("results").looked, f.role("results").untimed = 50, []string{"celery-task-meta-x"}
		}, []string{"warning redis.ttl results"}},
		"a right": {nil, func(f *facts) { f.role("cache").denied = []error{&deniedError{"NOPERM", "grant it"}} }, []string{"error redis.rights cache"}},

		"blocked": {nil, func(f *facts) {
			f.workers = workers{err: fmt.Errorf("ask: %w", &control.BlockedError{Reason: "low on disk"})}
		}, []string{"error workers.alarm"}},
		"no worker":                    {nil, func(f *facts) { f.workers = workers{} }, []string{"warning workers.answer"}},
		"a worker that says half":      {nil, func(f *facts) { f.workers.all[0].Fault = "active: no answer in time" }, []string{"warning workers.answer celery@a"}},
		"a worker with a problem":      {nil, func(f *facts) { f.workers.all[0].Problems = []string{"redis refuses commands"} }, []string{"error workers.problems celery@a"}},
		"a worker of others":           {nil, func(f *facts) { f.workers.registered["celery@a"] = []string{"other.task"} }, []string{"error workers.tasks celery@a"}},
		"a worker of others elsewhere": {nil, func(f *facts) { f.workers.registered["celery@a"], f.workers.all[0].Queues = nil, []string{"other"} }, nil},
		"workers of one name": {nil, func(f *facts) {
			f.workers = workers{all: []control.Worker{{Node: "celery@localhost"}, {Node: "celery@b"}}}
		}, []string{"warning workers.nodes celery@localhost"}},
		"a paused queue": {nil, func(f *facts) { f.workers.pauses = map[string]control.Pause{"q.ai": {By: "kim"}} }, []string{"warning workers.paused q.ai"}},

		"no endpoint":                {nil, func(f *facts) { f.model = []endpoint{{name: "e", err: errors.New("refused")}} }, []string{"error model.reachable e"}},
		"a dead key":                 {nil, func(f *facts) { f.model = []endpoint{{name: "e", status: 401}} }, []string{"error model.reachable e"}},
		"a key for completions":      {nil, func(f *facts) { f.model = []endpoint{{name: "e", status: 403}} }, nil},
		"an endpoint that fails":     {nil, func(f *facts) { f.model = []endpoint{{name: "e", status: 503}} }, []string{"warning model.reachable e"}},
		"an endpoint without a list": {nil, func(f *facts) { f.model = []endpoint{{name: "e", model: "m", status: 404}} }, nil},
		"another model":              {nil, func(f *facts) { f.model = []endpoint{{name: "e", model: "m", status: 200, models: []string{"n"}}} }, []string{"warning model.name e"}},
		"the model with its tag": {nil, func(f *facts) {
			f.model = []endpoint{{name: "e", model: "llava", status: 200, models: []string{"llava:latest"}}}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := calm(t, tt.environ...)
			if tt.change != nil {
				tt.change(f)
			}
			want(t, newReport(f, checks()), tt.want...)
		})
	}
}

// TestFalseCalm has checks say that nothing is known where nobody could look, and not that all is well.
func TestFalseCalm(t *testing.T) {
	t.Parallel()
	why, workersAndRedis := errors.New("refused"), []string{}
	for _, of := range [][]check{redisChecks, workerChecks} {
		for _, c := range of {
			workersAndRedis = append(workersAndRedis, c.id)
		}
	}
	for name, tt := range map[string]struct {
		change func(*facts)
		want   []string // that are not well
	}{
		"nothing": {func(*facts) {}, nil},
		"no broker": {func(f *facts) { f.broker = broker{urls: 1, down: map[string]error{"amqp://a//": why}} }, []string{"broker.reachable", "broker.version", "broker.certificate",
			"broker.exchanges", "broker.queues", "broker.arguments", "broker.read", "broker.write", "broker.consumers", "broker.backlog", "broker.delays"}},
		"a broker that stops answering": {func(f *facts) { f.broker.ended = why }, []string{"broker.reachable",
			"broker.exchanges", "broker.queues", "broker.arguments", "broker.read", "broker.write", "broker.consumers", "broker.backlog", "broker.delays"}},
		"nobody may look at the exchanges": {func(f *facts) {
			f.broker.seen.Exchanges["tasks"], f.broker.seen.Exchanges[delays] = rabbit.ExchangeState{Unseen: why}, rabbit.ExchangeState{Unseen: why}
		}, []string{"broker.exchanges", "broker.delays"}},
		"nobody may look at a queue": {func(f *facts) {
			f.broker.seen.Queues["q.ai"] = rabbit.QueueState{Unseen: why, Standing: rabbit.Standing{Consumers: 1}}
		}, []string{"broker.arguments"}},
		"nobody answers": {func(f *facts) {
			for _, r := range f.redis {
				*r = role{name: r.name, opt: r.opt, err: why}
			}
			f.workers = workers{err: why, noPauses: why}
		}, workersAndRedis},
		"no INFO": {func(f *facts) { f.role("failed").info = nil },
			[]string{"redis.version", "redis.role", "redis.eviction", "redis.memory", "redis.persistence", "redis.replicas", "redis.clients"}},
		"no CONFIG":     {func(f *facts) { f.role("failed").fsync = "" }, []string{"redis.persistence"}},
		"no TIME":       {func(f *facts) { f.role("failed").timed = false }, []string{"redis.clock"}},
		"no worker":     {func(f *facts) { f.workers = workers{} }, []string{"workers.answer", "workers.problems", "workers.tasks", "workers.nodes"}},
		"half a worker": {func(f *facts) { f.workers.registered = nil }, []string{"workers.tasks"}},
	} {
		f := calm(t)
		tt.change(f)
		r := newReport(f, slices.Concat(brokerChecks, redisChecks, workerChecks))
		got := []string{}
		for _, one := range r.Findings {
			if one.Severity != OK && !slices.Contains(got, one.Check) {
				got = append(got, one.Check)
			}
		}
		if !slices.Equal(got, tt.want) && len(got)+len(tt.want) > 0 {
			t.Errorf("%s: got no calm of %q, want it of %q", name, got, tt.want)
		}
		checkReport(t, r)
	}
}

// TestNoRemoteControl asks no worker, as none answers.
func TestNoRemoteControl(t *testing.T) {
	t.Parallel()
	s := settings(t, "ONCEOVER_REMOTE_CONTROL=false", "ONCEOVER_BROKER_URL=amqp://127.0.0.1:1", "ONCEOVER_FAILED_URL=redis://127.0.0.1:1/5")
	f := &facts{Subject: s, workers: askWorkers(t.Context(), s.Settings)}
	if !errors.Is(f.workers.err, errNoRemoteControl) || f.workers.noPauses == nil {
		t.Errorf("got %+v", f.workers)
	}
	want(t, newReport(f, workerChecks))
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file, text string
		want       uint64
	}{
		"version 2":           {"memory.max", "1073741824\n", 1 << 30},
		"version 2, no limit": {"memory.max", "max\n", 0},
		"version 1":           {"memory/memory.limit_in_bytes", "536870912\n", 512 << 20},
		"version 1, no limit": {"memory/memory.limit_in_bytes", "9223372036854771712\n", 0},
		"nonsense":            {"memory.max", "x", 0},
		"none":                {"other", "", 0},
	} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, tt.file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, tt.file), []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := memoryLimit(root); got != tt.want {
			t.Errorf("%s: got %d, want %d", name, got, tt.want)
		}
	}
}

// TestExchangesOf asks for no exchange that the queues do without.
func TestExchangesOf(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		queues  []string
		delayed bool
		want    map[string]string
	}{
		"a queue of the design": {[]string{"q.ai"}, true, map[string]string{"tasks": "topic", "dlx": "direct", delays: "topic"}},
		"without delays":        {[]string{"q.ai"}, false, map[string]string{"tasks": "topic", "dlx": "direct"}},
		"a queue of Celery":     {[]string{"celery"}, true, map[string]string{}},
		"with dead letters":     {[]string{"celery", "q.dlq"}, true, map[string]string{"dlx": "direct"}},
	} {
		if got := exchangesOf(rabbit.Names(tt.queues...), tt.delayed); !maps.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}
