package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/config"
	"onceover/internal/control"
	"onceover/internal/devbroker"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/results"
	"onceover/worker"
)

// deployment is RabbitMQ, two servers of Redis as in docker-compose.yml, a model's endpoint and a worker.
type deployment struct {
	t        *testing.T
	rabbit   *testenv.Rabbit
	main     *testenv.RedisServer
	kept     *testenv.RedisServer
	endpoint *httptest.Server
	environ  []string
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{
		t: t, rabbit: testenv.RabbitMQ(t),
		main: testenv.Redis(t, "--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru"),
		kept: testenv.Redis(t, "--maxmemory", "256mb", "--maxmemory-policy", "noeviction", "--appendonly", "yes", "--appendfsync", "always"),
		endpoint: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Authorization") != "Bearer hunter2":
				w.WriteHeader(http.StatusUnauthorized)
			case r.URL.Path == "/v1/models":
				fmt.Fprint(w, `{"object": "list", "data": [{"id": "m", "object": "model"}]}`)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		})),
	}
	t.Cleanup(d.endpoint.Close)
	d.environ = []string{
		"ONCEOVER_BROKER_URL=" + d.rabbit.URL(), "ONCEOVER_REDIS_URL=" + d.main.URL(),
		"ONCEOVER_FAILED_URL=" + d.kept.URL() + "/5", "ONCEOVER_LIMITS_URL=" + d.kept.URL() + "/3",
		"ONCEOVER_VISION_URL=" + d.endpoint.URL + "/v1", "ONCEOVER_VISION_MODEL=m", "ONCEOVER_VISION_API_KEY=hunter2",
	}
	return d
}

// client connects to a database.
func (d *deployment) client(server *testenv.RedisServer, db int) *redis.Client {
	d.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: server.Addr(), DB: db})
	d.t.Cleanup(func() { c.Close() })
	return c
}

// work runs a worker until the test ends.
func (d *deployment) work(change ...func(*worker.Config)) {
	d.t.Helper()
	log := zap.NewNop()
	stored, shown := results.New(d.client(d.main, 0), log), progress.New(d.client(d.main, 2), log)
	store := failed.New(failed.Config{}, d.client(d.kept, 5), stored, shown, nil, log)
	cfg := worker.DefaultConfig()
	cfg.BrokerURLs, cfg.NodeName = []string{d.rabbit.URL()}, "celery@doctor-test"
	for _, f := range change {
		f(&cfg)
	}
	w, err := worker.New(cfg, stored, shown, store, nil, log)
	if err != nil {
		d.t.Fatal(err)
	}
	analyze := worker.Task{Name: "image.analyze", Handler: worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) { return nil, nil })}
	if err := w.Register(analyze); err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	d.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			d.t.Error(err)
		}
		stored.Wait()
		shown.Wait()
	})
}

func (d *deployment) examine(environ ...string) *Report {
	d.t.Helper()
	return Examine(d.t.Context(), settings(d.t, append(d.environ, environ...)...))
}

// channel opens a connection of the test's own.
func (d *deployment) channel(vhost string) *amqp.Channel {
	d.t.Helper()
	conn, err := amqp.DialConfig(d.rabbit.URL(), amqp.Config{Vhost: vhost})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		d.t.Fatal(err)
	}
	return ch
}

// TestRealDeployment has a deployment as docker-compose.yml makes it, with a model, in which nothing is wrong, and then one fault after the other.
func TestRealDeployment(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	want(t, d.examine(), "warning broker.exchanges dlx", "warning broker.exchanges tasks", "warning broker.queues q.ai", "warning broker.queues q.dlq",
		"warning broker.delays celery_delayed_delivery", "warning workers.answer")
	d.work()
	var r *Report
	for deadline := time.Now().Add(30 * time.Second); ; { // until it consumes and answers
		if r = d.examine(); r.Verdict == OK || time.Now().After(deadline) {
			break
		}
	}
	want(t, r)
	if n := r.Count(OK); n < 25 {
		t.Errorf("got %d checks of which all is well: %+v", n, r.Findings)
	}

	// Nothing is left of a probe.
	s := settings(t, d.environ...)
	Probe(t.Context(), s.Settings, r)
	if last := r.Findings[len(r.Findings)-1]; last.Check != "probe.job" || last.Subject != "q.ai" || last.Severity != OK {
		t.Errorf("got %+v", last)
	}
	db0 := d.client(d.main, 0)
	if keys := db0.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("the probe has left %q", keys)
	}
	want(t, r)

	for name, tt := range map[string]struct {
		seed, mend func()
		environ    []string
		want       []string
		unknown    []string // besides
	}{
		"a wrong password of the broker": {environ: []string{"ONCEOVER_BROKER_URL=" + strings.Replace(d.rabbit.URL(), "guest:guest", "guest:hunter2", 1)},
			want: []string{"error broker.reachable amqp://" + d.rabbit.Addr() + "//"}},
		"a virtual host that is not there": {environ: []string{"ONCEOVER_BROKER_URL=" + d.rabbit.URL() + "none"},
			want: []string{"error broker.reachable amqp://" + d.rabbit.Addr() + "//none"}},
		"no rights": {
			seed: func() {
				d.rabbit.Ctl("add_user", "nobody", "hunter2")
				d.rabbit.Ctl("set_permissions", "nobody", "^$", "^$", "^$")
			},
			environ: []string{"ONCEOVER_BROKER_URL=" + strings.Replace(d.rabbit.URL(), "guest:guest", "nobody:hunter2", 1)},
			want:    []string{"error broker.read q.ai", "error broker.read q.dlq", "error broker.write amq.default"},
			unknown: []string{"broker.exchanges", "broker.arguments", "broker.delays"},
		},
		"the rights to read": {
			seed: func() {
				d.rabbit.Ctl("add_user", "reader", "hunter2")
				d.rabbit.Ctl("set_permissions", "reader", "^$", "^$", `^(q\.ai|q\.dlq)$`)
			},
			environ: []string{"ONCEOVER_BROKER_URL=" + strings.Replace(d.rabbit.URL(), "guest:guest", "reader:hunter2", 1)},
			want:    []string{"error broker.write amq.default"},
			unknown: []string{"broker.exchanges", "broker.arguments"},
		},
		"an exchange of another type": {
			seed: func() {
				d.rabbit.Ctl("add_vhost", "odd")
				d.rabbit.Ctl("set_permissions", "-p", "odd", "guest", ".*", ".*", ".*")
				if err := d.channel("odd").ExchangeDeclare("tasks", "direct", true, false, false, false, nil); err != nil {
					t.Error(err)
				}
			},
			environ: []string{"ONCEOVER_BROKER_URL=" + strings.TrimSuffix(d.rabbit.URL(), "/") + "odd"},
			want: []string{"error broker.exchanges tasks", "warning broker.exchanges dlx", "warning broker.queues q.ai", "warning broker.queues q.dlq",
				"warning broker.delays celery_delayed_delivery", "warning workers.answer"},
		},
		"a queue with another TTL": {
			seed: func() {
				args := amqp.Table{"x-queue-type": "quorum", "x-message-ttl": int32(1000), "x-max-length": int32(1000), "x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "dlq"}
				if _, err := d.channel("/").QueueDeclare("q.batch", true, false, false, false, args); err != nil {
					t.Error(err)
				}
			},
			environ: []string{"ONCEOVER_QUEUES=q.ai,q.batch"},
			want:    []string{"warning broker.arguments q.batch", "warning broker.consumers q.batch"},
		},
		"a queue without dead letters": {
			seed: func() {
				if _, err := d.channel("/").QueueDeclare("q.api", true, false, false, false, amqp.Table{"x-queue-type": "quorum", "x-message-ttl": int32(300000), "x-max-length": int32(2000)}); err != nil {
					t.Error(err)
				}
			},
			environ: []string{"ONCEOVER_QUEUES=q.ai,q.api"},
			want:    []string{"error broker.arguments q.api", "warning broker.consumers q.api"},
		},
		"a wrong password of Redis": {environ: []string{"ONCEOVER_CACHE_URL=redis://nobody:hunter2@" + d.main.Addr() + "/1"}, want: []string{"error redis.reachable cache"}},
		"no Redis":                  {environ: []string{"ONCEOVER_CACHE_URL=redis://127.0.0.1:1/1"}, want: []string{"error redis.reachable cache"}},
		"no such database":          {environ: []string{"ONCEOVER_CACHE_URL=" + d.main.URL() + "/99"}, want: []string{"error redis.reachable cache"}},
		"failed jobs where keys are evicted": {environ: []string{"ONCEOVER_FAILED_URL=" + d.main.URL() + "/5"},
			want: []string{"error redis.eviction failed", "warning redis.persistence failed"}},
		"a file that is written each second": {
			seed: func() { d.client(d.kept, 5).ConfigSet(t.Context(), "appendfsync", "everysec") },
			mend: func() { d.client(d.kept, 5).ConfigSet(t.Context(), "appendfsync", "always") },
			want: []string{"warning redis.persistence failed"},
		},
		"no replica": {environ: []string{"ONCEOVER_FAILED_REPLICAS=1"}, want: []string{"error redis.replicas failed"}},
		"a result that never runs out": {
			seed: func() { db0.Set(t.Context(), "celery-task-meta-x", "{}", 0) },
			mend: func() { db0.Del(t.Context(), "celery-task-meta-x") },
			want: []string{"warning redis.ttl results"},
		},
		"a right of Redis": {
			seed: func() {
				if err := db0.Do(t.Context(), "ACL", "SETUSER", "cache", "on", ">hunter2", "~phash:*", "+@all").Err(); err != nil {
					t.Error(err)
				}
			},
			environ: []string{"ONCEOVER_CACHE_URL=redis://cache:hunter2@" + d.main.Addr() + "/1"},
			want:    []string{"error redis.rights cache"},
		},
		"a dead key":    {environ: []string{"ONCEOVER_VISION_API_KEY=hunter2-dead"}, want: []string{"error model.reachable default"}},
		"no endpoint":   {environ: []string{"ONCEOVER_VISION_URL=http://127.0.0.1:1/v1"}, want: []string{"error model.reachable default"}},
		"another model": {environ: []string{"ONCEOVER_VISION_MODEL=n"}, want: []string{"warning model.name default"}},
		"a paused queue": {
			seed: func() {
				if err := control.NewPauses(d.client(d.kept, 5)).Set(t.Context(), "q.ai", control.Pause{By: "kim", Since: time.Now()}); err != nil {
					t.Error(err)
				}
			},
			mend: func() { d.client(d.kept, 5).Del(t.Context(), "onceover:paused") },
			want: []string{"warning workers.paused q.ai"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.seed != nil {
				tt.seed()
			}
			r := d.examine(tt.environ...)
			want(t, r, tt.want...)
			for _, check := range tt.unknown {
				if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == check && f.Severity == Unknown }) {
					t.Errorf("got %+v, want it said that %s is not known", r.Findings, check)
				}
			}
			if tt.mend != nil {
				tt.mend()
			}
		})
	}

	// An alarm: the broker says so once something is published.
	d.rabbit.Ctl("set_vm_memory_high_watermark", "absolute", "1")
	for deadline := time.Now().Add(30 * time.Second); ; {
		r = d.examine()
		if got := problems(r); len(got) == 1 && got[0] == "error workers.alarm" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want the alarm", problems(r))
		}
	}
	d.rabbit.Ctl("set_vm_memory_high_watermark", "0.6")
}

func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return err.Error()
	}
	return u.Host
}

// TestSilentServers has servers that take connections and say nothing.
func TestSilentServers(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	through := func(addr string) *testenv.Proxy {
		p := testenv.NewProxy(t, addr)
		p.Pause()
		return p
	}
	broker, main, kept, endpoint := through(d.rabbit.Addr()), through(d.main.Addr()), through(d.kept.Addr()), through(hostOf(d.endpoint.URL))
	r := Examine(t.Context(), settings(t, "ONCEOVER_BROKER_URL="+broker.URL(d.rabbit.URL()), "ONCEOVER_REDIS_URL=redis://"+main.Addr(),
		"ONCEOVER_FAILED_URL=redis://"+kept.Addr()+"/5", "ONCEOVER_VISION_URL=http://"+endpoint.Addr()+"/v1", "ONCEOVER_VISION_MODEL=m"))
	want(t, r, "error broker.reachable amqp://"+broker.Addr()+"//", "error redis.reachable cache", "error redis.reachable failed", "error redis.reachable limits",
		"error redis.reachable progress", "error redis.reachable results", "error model.reachable default")
}

// TestSilentNode has one node of a cluster that says nothing, and three endpoints of four.
func TestSilentNode(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	silent := testenv.NewProxy(t, d.rabbit.Addr())
	silent.Pause()
	s := settings(t, "ONCEOVER_BROKER_URL="+silent.URL(d.rabbit.URL())+";"+d.rabbit.URL())
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	b := askBroker(ctx, s.Settings)
	if b.down["amqp://"+silent.Addr()+"//"] == nil || len(b.down) != 1 || b.ended != nil || b.seen == nil || !b.seen.Queues["q.dlq"].Missing {
		t.Errorf("got %+v, want all of the node that answers", b)
	}

	mute := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(mute.Close)
	all := config.Settings{Models: make([]config.Endpoint, 4)}
	for i := range all.Models {
		all.Models[i].BaseURL, all.Models[i].APIKey = mute.URL, "hunter2"
	}
	all.Models[3].BaseURL = d.endpoint.URL + "/v1"
	ctx, cancel = context.WithTimeout(t.Context(), endpointTime+time.Second)
	defer cancel()
	if out := askModel(ctx, &all); out[0].err == nil || out[2].err == nil || out[3].err != nil || out[3].status != http.StatusOK {
		t.Errorf("got %+v, want three that do not answer, and one that does", out)
	}
}

// TestRealProbe has a worker that tells when a job begins, and a queue with a backlog.
func TestRealProbe(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.work(func(c *worker.Config) { c.TrackStarted = true })
	ch := d.channel("/")
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // until it consumes
		if q, err := ch.QueueDeclarePassive("q.ai", true, false, false, false, nil); err != nil {
			ch = d.channel("/")
		} else if q.Consumers > 0 {
			break
		}
	}
	if _, err := ch.QueueDeclare("behind", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Qos(1, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Consume("behind", "", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := ch.PublishWithContext(t.Context(), "", "behind", false, false, amqp.Publishing{}); err != nil {
			t.Fatal(err)
		}
	}
	r := &Report{Verdict: OK}
	Probe(t.Context(), settings(t, append(d.environ, "ONCEOVER_QUEUES=q.ai,behind")...).Settings, r)
	if len(r.Findings) != 2 || r.Findings[0].Severity != OK || r.Findings[1].Severity != Unknown || !strings.Contains(r.Findings[1].Found, "2 messages waited") {
		t.Errorf("got %+v", r.Findings)
	}
	if keys := d.client(d.main, 0).Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("the probe has left %q", keys)
	}
	checkReport(t, r)
}

// TestEmbeddedBroker has a broker that would deliver messages to the trial of a consumer.
func TestEmbeddedBroker(t *testing.T) {
	t.Parallel()
	b, err := devbroker.Listen(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.PublishWithContext(t.Context(), "", "q", false, false, amqp.Publishing{}); err != nil {
		t.Fatal(err)
	}
	s := settings(t, "ONCEOVER_QUEUES=q", "ONCEOVER_BROKER_URL="+b.URL())
	if got := askBroker(t.Context(), s.Settings); got.ended != nil || got.seen == nil || got.seen.Queues["q"].Ready != 1 {
		t.Errorf("got %+v", got)
	}
	if m, ok, err := ch.Get("q", true); err != nil || !ok || m.Redelivered {
		t.Errorf("got %+v, %v, %v, want a message that was never delivered", m, ok, err)
	}
}

// TestSettingsAlone asks nobody.
func TestSettingsAlone(t *testing.T) {
	t.Parallel()
	s := settings(t, "ONCEOVER_BROKER_URL=amqp://u:hunter2@127.0.0.1:1//", "ONCEOVER_REDIS_URL=redis://127.0.0.1:1", "ONCEOVER_OFFLINE=true")
	s.SettingsAlone = true
	r := Examine(t.Context(), s)
	want(t, r)
	if n := len(r.Findings); n < 10 || n > 20 || r.Seconds > 1 {
		t.Errorf("got %d findings in %v s", n, r.Seconds)
	}
}

// TestRealManagement asks RabbitMQ's management API.
func TestRealManagement(t *testing.T) {
	t.Parallel()
	api, rabbitURL := testenv.SharedRabbitMQAPI(t), testenv.SharedRabbitMQ(t)
	u, err := url.Parse(rabbitURL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := amqp.Dial(rabbitURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q.ai", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	ask := func(api string) *facts {
		f := &facts{Subject: settings(t, "ONCEOVER_BROKER_URL="+rabbitURL, "ONCEOVER_MANAGEMENT_URL="+api, "ONCEOVER_OFFLINE=true"), now: time.Now()}
		f.management = askManagement(t.Context(), f.Subject)
		return f
	}
	want(t, newReport(ask(api), managementChecks))
	if f := ask(api); f.management.err != nil || len(f.management.nodes) != 1 || f.management.queues["q.ai"].Type != "quorum" || len(f.management.queues["q.ai"].Online) != 1 {
		t.Errorf("got %+v", f.management)
	}
	want(t, newReport(ask(strings.Replace(api, "guest:guest", "guest:hunter2", 1)), managementChecks), "warning management.reachable")
	want(t, newReport(ask("http://guest:hunter2@127.0.0.1:1"), managementChecks), "warning management.reachable")

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, api+"/api/policies"+u.Path+"/short", strings.NewReader(`{"pattern": "^q", "definition": {"delivery-limit": 2, "message-ttl": 100}, "apply-to": "queues"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for deadline := time.Now().Add(30 * time.Second); len(problems(newReport(ask(api), managementChecks))) == 0 && time.Now().Before(deadline); { // until the queue has it
		time.Sleep(50 * time.Millisecond)
	}
	r := newReport(ask(api), managementChecks)
	want(t, r, "warning management.policy q.ai")
	if n := r.Count(Warning); n != 2 {
		t.Errorf("got %d warnings, want one for the delivery limit and one for the TTL: %+v", n, r.Problems())
	}
	http.DefaultClient.CloseIdleConnections()
}
