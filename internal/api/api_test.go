package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/api"
	"onceover/internal/ratelimit"
	"onceover/internal/redisretry"
	"onceover/internal/source"
	"onceover/internal/testenv"
	"onceover/internal/token"
	"onceover/internal/upload"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// picture is the head of a JPEG, which is all that the API looks at.
var picture = append([]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00"), bytes.Repeat([]byte("x"), 2000)...)

// bundle is an API on a real Redis and a real RabbitMQ.
type bundle struct {
	t       *testing.T
	api     *api.API
	server  *httptest.Server
	client  *http.Client // that validates each answer
	redis   *testenv.RedisServer
	uploads string
	broker  *rabbit.Conn
	publish atomic.Pointer[func(context.Context, celery.Message) error] // instead of the broker
	needs   *api.Needs
	token   string // sent with each request

	writeTimeout time.Duration // of the server
}

func setup(t *testing.T, change ...func(*api.Config, *bundle)) *bundle {
	t.Helper()
	t.Parallel()
	url := testenv.SharedRabbitMQ(t)
	b := &bundle{t: t, redis: testenv.Redis(t), uploads: t.TempDir(), writeTimeout: 30 * time.Second}
	store, err := upload.Open(b.uploads, source.S3Config{})
	if err != nil {
		t.Fatal(err)
	}
	producer := rabbit.NewProducer("api test", []string{url}, rabbit.QueueNamed("q.ai"))
	if b.broker, err = rabbit.Dial(t.Context(), "test", []string{url}); err != nil {
		t.Fatal(err)
	}
	if err := producer.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	rs, ps, limits := b.db(0), b.db(2), b.db(3)
	shown := progress.New(ps, zap.NewNop())
	feed := progress.NewFeed(shown)
	ctx, stopFeed := context.WithCancel(t.Context())
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		feed.Run(ctx)
	}()
	b.needs = &api.Needs{
		Progress: shown, Feed: feed, Results: results.New(rs, zap.NewNop()), Uploads: store, Keys: api.NewKeys(limits, zap.NewNop()),
		Metrics: prometheus.NewRegistry(),
		Publish: func(ctx context.Context, m celery.Message) error {
			if f := b.publish.Load(); f != nil {
				return (*f)(ctx, m)
			}
			message, err := rabbit.New(m)
			if err != nil {
				return err
			}
			return producer.Publish(ctx, message)
		},
	}
	cfg := api.Config{
		Domain: "waste", Task: "image.analyze", Exchange: "tasks", RoutingKey: "ai.analyze", MaxBytes: 1 << 20,
		Queued: func(lang string) (string, string) { return "queued", "waiting " + lang },
	}
	for _, c := range change {
		c(&cfg, b)
	}
	b.api = api.New(cfg, *b.needs, zap.NewNop())
	b.server = httptest.NewUnstartedServer(b.api.Handler())
	b.server.Config.WriteTimeout = b.writeTimeout
	b.server.Start()
	resp, err := http.Get(b.server.URL + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	validating := newDescribed(t, doc)
	b.client = &http.Client{Transport: validating, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		validating.next.(*http.Transport).CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		b.api.Drain()
		b.server.Close()
		stopFeed()
		<-fed
		producer.Close()
		b.broker.Close()
		store.Close()
		for _, c := range []*redis.Client{rs, ps, limits} {
			c.Close()
		}
		b.needs.Keys.Wait()
		b.needs.Progress.Wait()
		b.needs.Results.Wait()
	})
	return b
}

// db opens one of the databases. Its client does not wait.
func (b *bundle) db(n int) *redis.Client {
	opt, err := redisretry.Options(fmt.Sprintf("%s/%d", b.redis.URL(), n))
	if err != nil {
		b.t.Fatal(err)
	}
	c := redis.NewClient(opt)
	b.t.Cleanup(func() { c.Close() })
	return c
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

func (a answer) text(key string) string { return fmt.Sprint(a.body[key]) }

func (b *bundle) do(r *http.Request) answer {
	b.t.Helper()
	if b.token != "" && r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if err := json.NewDecoder(resp.Body).Decode(&a.body); err != nil && r.Method != http.MethodHead {
		b.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	return a
}

func (b *bundle) request(method, path, contentType string, body io.Reader) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.server.URL+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

func (b *bundle) get(path string) answer {
	b.t.Helper()
	return b.do(b.request(http.MethodGet, path, "", nil))
}

func (b *bundle) post(doc string) answer {
	b.t.Helper()
	return b.do(b.request(http.MethodPost, "/api/v1/waste/analyze", "application/json", strings.NewReader(doc)))
}

// form is a request with a form of texts, and of a picture unless it is nil.
func (b *bundle) form(file []byte, fields ...string) *http.Request {
	b.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for i := 0; i < len(fields); i += 2 {
		if err := w.WriteField(fields[i], fields[i+1]); err != nil {
			b.t.Fatal(err)
		}
	}
	if file != nil {
		part, err := w.CreateFormFile("file", "photo.jpg")
		if err != nil {
			b.t.Fatal(err)
		}
		part.Write(file)
	}
	w.Close()
	return b.request(http.MethodPost, "/api/v1/waste/analyze", w.FormDataContentType(), &body)
}

// message takes a message from the queue, nil if there is none.
func (b *bundle) message() *amqp091.Delivery {
	b.t.Helper()
	ch, err := b.broker.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	defer ch.Close()
	d, ok, err := ch.Get("q.ai", true)
	if err != nil {
		b.t.Fatal(err)
	}
	if !ok {
		return nil
	}
	return &d
}

// messages takes all.
func (b *bundle) messages() (all []*amqp091.Delivery) {
	b.t.Helper()
	for d := b.message(); d != nil; d = b.message() {
		all = append(all, d)
	}
	return all
}

func kwargs(t *testing.T, d *amqp091.Delivery) map[string]any {
	t.Helper()
	var body []any
	if err := json.Unmarshal(d.Body, &body); err != nil || len(body) != 3 {
		t.Fatalf("got body %s, %v", d.Body, err)
	}
	return body[1].(map[string]any)
}

func (b *bundle) kept() []string {
	b.t.Helper()
	entries, err := os.ReadDir(b.uploads)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestAnalyzeURL: the job of a URL is a message as Celery sends it, and is shown as waiting before any worker has it.
func TestAnalyzeURL(t *testing.T) {
	b := setup(t)
	a := b.post(`{"image_url": "https://photos.example/a.jpg?token=x", "user_input": " Where? ", "lang": "en", "unheard_of": 1}`)
	id := a.text("job_id")
	if a.status != 202 || a.header.Get("Location") != "/api/v1/waste/status/"+id || a.header.Get("Retry-After") != "1" {
		t.Fatalf("got %+v", a)
	}
	d := b.message()
	if d == nil || d.Headers["id"] != id || d.Headers["task"] != "image.analyze" || d.ContentType != "application/json" || d.DeliveryMode != 2 || d.CorrelationId != id {
		t.Fatalf("got message %+v", d)
	}
	want := map[string]any{"job_id": id, "image_url": "https://photos.example/a.jpg?token=x", "user_input": "Where?", "lang": "en"}
	if got := kwargs(t, d); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got arguments %v, want %v", got, want)
	}
	for _, path := range []string{"/status/" + id, "/api/v1/waste/status/" + id} {
		if a := b.get(path); a.status != 200 || a.text("status") != "pending" || a.text("stage") != "queued" || a.text("message") != "waiting en" || a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: got %+v", path, a)
		}
	}
	if a := b.get("/api/v1/waste/result/" + id); a.status != 202 || a.text("status") != "pending" || a.header.Get("Location") != "/api/v1/waste/status/"+id {
		t.Errorf("result: got %+v", a)
	}
	if ttl := b.db(2).TTL(t.Context(), progress.Key(id)).Val(); ttl <= 0 || ttl > time.Hour {
		t.Errorf("got TTL %v of the progress", ttl)
	}
}

// TestUpload keeps a picture and sends its URL.
func TestUpload(t *testing.T) {
	b := setup(t)
	for name, r := range map[string]*http.Request{
		"texts before the picture": b.form(picture, "user_input", "어디에?", "lang", "ko", "else", "ignored"),
		"the picture alone":        b.form(picture),
	} {
		a := b.do(r)
		if a.status != 202 {
			t.Fatalf("%s: got %+v", name, a)
		}
		args := kwargs(t, b.message())
		file, ok := strings.CutPrefix(fmt.Sprint(args["image_url"]), "file://")
		got, err := os.ReadFile(file)
		if !ok || err != nil || !bytes.Equal(got, picture) {
			t.Errorf("%s: got %v, %d bytes, %v", name, args["image_url"], len(got), err)
		}
		if _, ok := args["user_id"]; ok {
			t.Errorf("%s: got arguments %v, want no user", name, args)
		}
	}
	if n := len(b.kept()); n != 2 {
		t.Errorf("got %d files, want 2", n)
	}
}

// TestBadRequests has a clear answer to each, and leaves nothing behind.
func TestBadRequests(t *testing.T) {
	b := setup(t)
	jsonOf := func(doc string) *http.Request {
		return b.request(http.MethodPost, "/api/v1/waste/analyze", "application/json", strings.NewReader(doc))
	}
	raw := func(contentType, body string) *http.Request {
		return b.request(http.MethodPost, "/api/v1/waste/analyze", contentType, strings.NewReader(body))
	}
	two := "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n" + string(picture) + "\r\n"
	cut := jsonOf(`{}`)
	cut.Header.Set("Idempotency-Key", strings.Repeat("k", 256))
	for name, tt := range map[string]struct {
		r      *http.Request
		status int
		detail string
	}{
		"no content type":            {raw("", "x"), 415, "multipart/form-data"},
		"text":                       {raw("text/plain", "x"), 415, "multipart/form-data"},
		"a broken content type":      {raw("multipart/form-data; boundary", "x"), 415, "multipart/form-data"},
		"no boundary":                {raw("multipart/form-data", "x"), 400, "boundary"},
		"not JSON":                   {jsonOf(`{"image_url": `), 422, "JSON object that is expected: it ends in the middle"},
		"nothing":                    {jsonOf(``), 422, "JSON object that is expected: it is empty"},
		"bad JSON":                   {jsonOf(`{"image_url"= "x"}`), 422, "JSON object that is expected: it is no JSON from byte 13 on"},
		"a truth":                    {jsonOf(`{"lang": true}`), 422, "lang is true or false: expected a string"},
		"an object for a URL":        {jsonOf(`{"image_url": {}}`), 422, "image_url is an object: expected a string"},
		"a text":                     {jsonOf(`"https://x/y"`), 422, "JSON object that is expected: it is a string"},
		"a list":                     {jsonOf(`[]`), 422, "JSON object that is expected: it is a list"},
		"two values":                 {jsonOf(`{"image_url": "https://x/y"} {}`), 422, "more than one"},
		"no URL":                     {jsonOf(`{}`), 422, "image_url"},
		"a URL that is a number":     {jsonOf(`{"image_url": 5}`), 422, "image_url is a number: expected a string"},
		"the worker's files":         {jsonOf(`{"image_url": "file:///etc/passwd"}`), 422, "https://"},
		"the worker's bucket":        {jsonOf(`{"image_url": "s3://bucket/key"}`), 422, "https://"},
		"a data URL":                 {jsonOf(`{"image_url": "data:image/png;base64,AAAA"}`), 422, "https://"},
		"no host":                    {jsonOf(`{"image_url": "https:///x"}`), 422, "https://"},
		"a long URL":                 {jsonOf(`{"image_url": "https://x/` + strings.Repeat("a", 8192) + `"}`), 422, "8192"},
		"a large document":           {jsonOf(`{"image_url": "` + strings.Repeat("a", 70_000) + `"}`), 413, "64 KiB"},
		"a long question":            {jsonOf(`{"image_url": "https://x/y", "user_input": "` + strings.Repeat("가", 5001) + `"}`), 422, "user_input"},
		"a language that is none":    {jsonOf(`{"image_url": "https://x/y", "lang": "<b>"}`), 422, "lang"},
		"a form without a picture":   {b.form(nil, "user_input", "x"), 422, "field file"},
		"an empty picture":           {b.form([]byte{}), 422, "empty"},
		"not a picture":              {b.form([]byte("<html>")), 415, "JPEG"},
		"HEIC":                       {b.form([]byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00")), 415, "HEIC"},
		"two pictures":               {raw("multipart/form-data; boundary=x", two+two+"--x--\r\n"), 422, "more than one"},
		"a form that ends too early": {raw("multipart/form-data; boundary=x", two), 400, "to its end"},
		"a form that is none":        {raw("multipart/form-data; boundary=x", "hello"), 422, "field file"},
		"a picture that is too large, said before": {b.form(append(picture[:len(picture):len(picture)], make([]byte, 3<<20)...)), 413, "1048576"},
		"a picture that is a little too large":     {b.form(append(picture[:len(picture):len(picture)], make([]byte, 1<<20)...)), 413, "1048576"},
		"a question that is too large":             {b.form(picture, "user_input", strings.Repeat("x", 70_000)), 413, "64 KiB"},
		"a question that is not UTF-8":             {b.form(picture, "user_input", "\xff"), 422, "UTF-8"},
		"a question that is too long, afterwards":  {raw("multipart/form-data; boundary=x", two+"--x\r\nContent-Disposition: form-data; name=\"lang\"\r\n\r\n<b>\r\n--x--\r\n"), 422, "lang"},
		"an idempotency key that is too long":      {cut, 400, "Idempotency-Key"},
		"GET":                                      {b.request(http.MethodGet, "/api/v1/waste/analyze", "", nil), 405, "POST"},
		"DELETE of a job":                          {b.request(http.MethodDelete, "/status/x", "", nil), 405, "GET"},
		"nothing there":                            {b.request(http.MethodGet, "/api/v1/waste", "", nil), 404, "openapi.json"},
		"another domain":                           {b.request(http.MethodPost, "/api/v1/receipts/analyze", "", nil), 404, "openapi.json"},
		"an unknown job":                           {b.request(http.MethodGet, "/status/unknown", "", nil), 404, "no job"},
		"a very long id":                           {b.request(http.MethodGet, "/status/"+strings.Repeat("x", 513), "", nil), 404, "512"},
		"no logout":                                {b.request(http.MethodPost, "/api/v1/auth/logout", "", nil), 404, "openapi.json"},
		"an unknown result":                        {b.request(http.MethodGet, "/api/v1/waste/result/unknown", "", nil), 404, "no job"},
	} {
		a := b.do(tt.r)
		if a.status != tt.status || !strings.Contains(a.text("detail"), tt.detail) || a.body["status"] != float64(tt.status) {
			t.Errorf("%s: got %d %v, want %d and %q", name, a.status, a.body, tt.status, tt.detail)
		}
		if tt.status == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s: got no Allow", name)
		}
	}
	if files, left := b.kept(), b.messages(); len(files) != 0 || len(left) != 0 {
		t.Errorf("got files %v and %d messages, want nothing left", files, len(left))
	}
	if n := b.db(2).DBSize(t.Context()).Val() + b.db(3).DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want none", n)
	}
}

// endless is a body that does not say how long it is.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), e.left)
	e.left -= n
	return int(n), nil
}

// TestLargeBodies has twenty bodies of a gigabyte at once: refused, in little memory, and nothing left on the disk.
func TestLargeBodies(t *testing.T) {
	b := setup(t)
	validating := b.client.Transport.(*described)
	validating.next.(*http.Transport).ExpectContinueTimeout = time.Minute
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	before, most, done := heap(), uint64(0), make(chan struct{})
	var all, sampling sync.WaitGroup
	sampling.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
				most = max(most, heap())
			}
		}
	})
	var refused atomic.Int64
	for i := range 20 {
		all.Go(func() {
			head := "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n" + string(picture)
			r := b.request(http.MethodPost, "/api/v1/waste/analyze", "multipart/form-data; boundary=x", io.MultiReader(strings.NewReader(head), &endless{1 << 30}))
			if i%2 == 0 {
				r.ContentLength = int64(len(head)) + 1<<30
				r.Header.Set("Expect", "100-continue") // the answer comes before the body
			}
			resp, err := b.client.Do(r)
			if err != nil {
				if i%2 == 0 {
					t.Error(err)
				}
				return // the server has closed the connection while the client was still sending
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("got %s", resp.Status)
			}
			refused.Add(1)
		})
	}
	all.Wait()
	close(done)
	sampling.Wait()
	if n := refused.Load(); n < 10 {
		t.Errorf("got %d answers, want at least those of the clients that wait for one", n)
	}
	if most > before+128<<20 {
		t.Errorf("the heap grew from %d to %d MiB", before>>20, most>>20)
	}
	for len(b.kept()) != 0 { // what was begun is removed when its request has ended
		time.Sleep(time.Millisecond)
	}
}

// keyed is a request with an idempotency key.
func keyed(r *http.Request, key string) *http.Request {
	r.Header.Set("Idempotency-Key", key)
	return r
}

// TestIdempotency posts one request a hundred times at once: one message, one id.
func TestIdempotency(t *testing.T) {
	b := setup(t)
	ids := make(chan string, 200)
	post := func(n int) {
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				for {
					a := b.do(keyed(b.form(picture, "lang", "en"), `"my key"`))
					switch a.status {
					case 202:
						ids <- a.text("job_id")
						return
					case 409: // another one is at it
						time.Sleep(time.Millisecond)
					default:
						t.Errorf("got %+v", a)
						return
					}
				}
			})
		}
		all.Wait()
	}
	post(100)
	post(1)
	close(ids)
	first := ""
	for id := range ids {
		if first == "" {
			first = id
		}
		if id != first {
			t.Errorf("got ids %s and %s, want one", first, id)
		}
	}
	if all := b.messages(); len(all) != 1 || all[0].Headers["id"] != first {
		t.Errorf("got %d messages, want one", len(all))
	}
	if n := len(b.kept()); n != 1 {
		t.Errorf("got %d files, want that of the message", n)
	}
	// The same without quotes is the same key; another request with it is refused.
	if a := b.do(keyed(b.form(picture, "lang", "en"), "my key")); a.status != 202 || a.text("job_id") != first {
		t.Errorf("got %+v", a)
	}
	for name, r := range map[string]*http.Request{
		"another language": b.form(picture, "lang", "ko"), "another picture": b.form(append([]byte("GIF89a"), picture...), "lang", "en"),
	} {
		if a := b.do(keyed(r, "my key")); a.status != 422 || !strings.Contains(a.text("detail"), "another request") {
			t.Errorf("%s: got %+v", name, a)
		}
	}
	if a := b.do(keyed(b.form(picture, "lang", "en"), "another key")); a.status != 202 || a.text("job_id") == first {
		t.Errorf("another key: got %+v", a)
	}
	if n := len(b.kept()); n != 2 {
		t.Errorf("got %d files, want those of the two jobs", n)
	}
	for _, key := range b.db(3).Keys(t.Context(), "*").Val() {
		if ttl := b.db(3).TTL(t.Context(), key).Val(); ttl < 23*time.Hour || ttl > 24*time.Hour {
			t.Errorf("got TTL %v of %s, want a day", ttl, key)
		}
	}
}

// TestIdempotencyOverACrash has a process die at each of its steps: the request that is repeated makes the same job.
func TestIdempotencyOverACrash(t *testing.T) {
	for name, published := range map[string]bool{"before it is published": false, "after it was published": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			died, begun := make(chan struct{}), make(chan string, 1)
			publish := func(ctx context.Context, m celery.Message) error {
				if published {
					b.publish.Store(nil)
					if err := b.needs.Publish(ctx, m); err != nil {
						t.Error(err)
					}
				}
				begun <- m.Request.ID
				<-died // and nothing of what comes next is done
				return rabbit.ErrNoConnection
			}
			b.publish.Store(&publish)
			abandoned := make(chan struct{})
			go func() {
				defer close(abandoned)
				b.do(keyed(b.form(picture), "k"))
			}()
			id := <-begun
			b.publish.Store(nil)
			if a := b.do(keyed(b.form(picture), "k")); a.status != 409 || a.header.Get("Retry-After") != "1" {
				t.Errorf("while it is under way: got %+v", a)
			}
			// The claim runs out, as nobody is there to renew it.
			db := b.db(3)
			for _, key := range db.Keys(t.Context(), "*").Val() {
				if ttl := db.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 31*time.Second {
					t.Errorf("got TTL %v of a claim", ttl)
				}
				db.Del(t.Context(), key)
			}
			if a := b.do(keyed(b.form(picture), "k")); a.status != 202 || a.text("job_id") != id {
				t.Errorf("got %+v, want the job %s", a, id)
			}
			for _, d := range b.messages() {
				if d.Headers["id"] != id {
					t.Errorf("got a message of job %v, want %s only", d.Headers["id"], id)
				}
			}
			// What the dead one would have given up is not its any more.
			close(died)
			<-abandoned
			if a := b.do(keyed(b.form(picture), "k")); a.status != 202 || a.text("job_id") != id || len(b.messages()) != 0 {
				t.Errorf("got %+v, want the job %s, and no other message", a, id)
			}
		})
	}
}

// TestBrokerAway says so, keeps nothing, and takes the same request later.
func TestBrokerAway(t *testing.T) {
	b := setup(t)
	for name, tt := range map[string]struct {
		err  error
		kept int
	}{
		"no connection": {fmt.Errorf("%w: refused", rabbit.ErrNoConnection), 0},
		"full":          {rabbit.Errors{rabbit.ErrRefused}, 0},
		"no queue":      {rabbit.Errors{&rabbit.UndeliverableError{Err: rabbit.ErrUnroutable}}, 0},
		"no confirm":    {rabbit.Errors{rabbit.ErrUnconfirmed}, 1}, // the broker may have it, and then its picture is needed
		"lost":          {rabbit.Errors{rabbit.ErrLost}, 1},
		"timed out":     {context.DeadlineExceeded, 1},
	} {
		fail := func(context.Context, celery.Message) error { return tt.err }
		b.publish.Store(&fail)
		before := len(b.kept())
		if a := b.do(keyed(b.form(picture), name)); a.status != 503 || a.header.Get("Retry-After") != "5" || strings.Contains(a.text("detail"), "amqp") {
			t.Errorf("%s: got %+v", name, a)
		}
		if n := len(b.kept()) - before; n != tt.kept {
			t.Errorf("%s: got %d files, want %d", name, n, tt.kept)
		}
		b.publish.Store(nil)
		if a := b.do(keyed(b.form(picture), name)); a.status != 202 {
			t.Errorf("%s, later: got %+v", name, a)
		}
	}
}

// TestRedisAway answers 503 at once, and takes jobs that need no key.
func TestRedisAway(t *testing.T) {
	b := setup(t)
	b.redis.Stop()
	for name, r := range map[string]*http.Request{
		"status": b.request(http.MethodGet, "/status/x", "", nil), "result": b.request(http.MethodGet, "/api/v1/waste/result/x", "", nil), "a key": keyed(b.form(picture), "k"),
	} {
		if a := b.do(r); a.status != 503 {
			t.Errorf("%s: got %+v", name, a)
		}
	}
	if files := b.kept(); len(files) != 0 {
		t.Errorf("got files %v", files)
	}
	if a := b.do(b.form(picture)); a.status != 202 || len(b.messages()) != 1 {
		t.Errorf("got %+v, want the job taken", a)
	}
}

// TestStates has each state of a job as the progress and Celery's result show it.
func TestStates(t *testing.T) {
	b := setup(t)
	meta := func(state celery.State, result string) string {
		return fmt.Sprintf(`{"status": %q, "result": %s, "traceback": null, "children": [], "date_done": "2026-11-21T00:44:25.123456+00:00", "task_id": "x"}`, state, result)
	}
	doc := func(progress int, stage, more string) string {
		return fmt.Sprintf(`{"progress": %d, "message": "m", "stage": %q, "updated_at": "2026-11-21T00:44:20"%s}`, progress, stage, more)
	}
	exception := `{"exc_type": "ValueError", "exc_message": ["not a picture"], "exc_module": "builtins"}`
	for name, tt := range map[string]struct {
		progress, meta string
		code           int // of the result
		want           string
	}{
		"queued":                   {doc(0, "queued", ""), "", 202, `{"job_id":"ID","status":"pending","progress":0,"message":"m","stage":"queued","updated_at":"2026-11-21T00:44:20"}`},
		"at work":                  {doc(30, "cache", ""), "", 202, `{"job_id":"ID","status":"processing","progress":30,"message":"m","stage":"cache","updated_at":"2026-11-21T00:44:20"}`},
		"tried again":              {doc(30, "retry", ""), meta("RETRY", exception), 202, `{"job_id":"ID","status":"pending","progress":30,"message":"m","stage":"retry","updated_at":"2026-11-21T00:44:20"}`},
		"done":                     {doc(100, "done", ""), meta("SUCCESS", `{"category": "플라스틱", "n": 12345678901234567890, "f": 1.0}`), 200, `{"job_id":"ID","status":"completed","progress":100,"message":"m","stage":"done","updated_at":"2026-11-21T00:44:20","result":{"category":"플라스틱","n":12345678901234567890,"f":1.0}}`},
		"done, result elsewhere":   {doc(100, "done", ""), "", 200, `{"job_id":"ID","status":"completed","progress":100,"message":"m","stage":"done","updated_at":"2026-11-21T00:44:20"}`},
		"failed":                   {doc(30, "failed", `, "error": "no"`), meta("FAILURE", exception), 200, `{"job_id":"ID","status":"failed","progress":30,"message":"m","stage":"failed","updated_at":"2026-11-21T00:44:20","error":"no"}`},
		"progress has run out":     {"", meta("SUCCESS", `5`), 200, `{"job_id":"ID","status":"completed","progress":100,"message":"","stage":"done","updated_at":"2026-11-21T00:44:25","result":5}`},
		"failure, no progress":     {"", meta("FAILURE", exception), 200, `{"job_id":"ID","status":"failed","progress":0,"message":"","stage":"failed","updated_at":"2026-11-21T00:44:25","error":"ValueError: not a picture"}`},
		"revoked, no progress":     {"", meta("REVOKED", `{"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}`), 200, `{"job_id":"ID","status":"failed","progress":0,"message":"","stage":"failed","updated_at":"2026-11-21T00:44:25","error":"celery.exceptions.TaskRevokedError: expired"}`},
		"started, no progress":     {"", `{"status": "STARTED", "result": {}, "traceback": null, "children": [], "date_done": null, "task_id": "x"}`, 202, `{"job_id":"ID","status":"processing","progress":0,"message":"","stage":"","updated_at":""}`},
		"an id with odd letters":   {doc(30, "cache", ""), "", 202, `{"job_id":"ID","status":"processing","progress":30,"message":"m","stage":"cache","updated_at":"2026-11-21T00:44:20"}`},
		"done, and replayed since": {doc(0, "queued", ""), meta("FAILURE", exception), 202, `{"job_id":"ID","status":"pending","progress":0,"message":"m","stage":"queued","updated_at":"2026-11-21T00:44:20"}`},
	} {
		id := uuid.NewString()
		if strings.Contains(name, "odd") {
			id = "a b ä?%+&"
		}
		if tt.progress != "" {
			b.db(2).Set(t.Context(), progress.Key(id), tt.progress, time.Hour)
		}
		if tt.meta != "" {
			b.db(0).Set(t.Context(), "celery-task-meta-"+id, tt.meta, time.Hour)
		}
		for path, code := range map[string]int{"/status/": 200, "/api/v1/waste/status/": 200, "/api/v1/waste/result/": tt.code} {
			r := b.request(http.MethodGet, "/", "", nil)
			r.URL = r.URL.JoinPath(path)
			r.URL.Path += id
			resp, err := b.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := strings.ReplaceAll(tt.want, "ID", id); err != nil || resp.StatusCode != code || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s, %s: got %d %s, want %d %s", name, path, resp.StatusCode, got, code, want)
			}
		}
	}
	id := uuid.NewString()
	b.db(2).Set(t.Context(), progress.Key(id), "not JSON", time.Hour)
	if a := b.get("/status/" + id); a.status != 500 {
		t.Errorf("not JSON: got %+v", a)
	}
}

// TestRateLimit has the fields of the draft, and admits all while Redis is away, unless it is not to.
func TestRateLimit(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		t.Run(fmt.Sprint("refuse ", refuse), func(t *testing.T) {
			b := setup(t, func(cfg *api.Config, b *bundle) {
				limits := b.db(3)
				cfg.RefuseUncounted = refuse
				b.needs.Limiter = ratelimit.New(ratelimit.Rule{Limit: 2, Window: time.Minute}, limits, zap.NewNop())
				b.t.Cleanup(b.needs.Limiter.Wait)
				proxies, err := ratelimit.ParseProxies([]string{"127.0.0.1"})
				if err != nil {
					b.t.Fatal(err)
				}
				b.needs.Proxies = proxies
			})
			from := func(ip string) *http.Request {
				r := b.request(http.MethodPost, "/api/v1/waste/analyze", "application/json", strings.NewReader(`{"image_url": "https://x/y"}`))
				r.Header.Set("X-Forwarded-For", ip)
				return r
			}
			for i, want := range []int{202, 202, 429, 429} {
				a := b.do(from("192.0.2.1"))
				if a.status != want || a.header.Get("RateLimit-Policy") != `"default";q=2;w=60` {
					t.Errorf("request %d: got %+v, want %d", i+1, a, want)
				}
				if left := fmt.Sprintf(`"default";r=%d;t=`, max(0, 1-i)); !strings.HasPrefix(a.header.Get("RateLimit"), left) {
					t.Errorf("request %d: got RateLimit %s, want %s…", i+1, a.header.Get("RateLimit"), left)
				}
				if want == 429 && (a.text("type") != "https://iana.org/assignments/http-problem-types#quota-exceeded" || a.text("violated-policies") != "[default]") {
					t.Errorf("request %d: got %v", i+1, a.body)
				}
			}
			if a := b.do(from("192.0.2.2")); a.status != 202 {
				t.Errorf("another address: got %+v", a)
			}
			if a := b.get("/status/x"); a.status != 404 || a.header.Get("RateLimit") != "" {
				t.Errorf("status: got %+v, want it not limited", a)
			}
			b.redis.Stop()
			want := 202
			if refuse {
				want = 503
			}
			if a := b.do(from("192.0.2.1")); a.status != want {
				t.Errorf("Redis away: got %+v, want %d", a, want)
			}
		})
	}
}

const secret = "a secret of the tests, forty bytes long."

func signed(t *testing.T, subject string) string {
	t.Helper()
	raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Subject: subject, ID: uuid.NewString(), ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestTokens asks for a token on every route but the description, and takes none that was revoked.
func TestTokens(t *testing.T) {
	b := setup(t, func(_ *api.Config, b *bundle) {
		b.needs.Tokens = token.New(token.Config{Secret: secret}, b.db(4), zap.NewNop())
		b.t.Cleanup(b.needs.Tokens.Wait)
	})
	routes := func() []*http.Request {
		return []*http.Request{
			b.form(picture), b.request(http.MethodGet, "/status/x", "", nil), b.request(http.MethodGet, "/api/v1/waste/status/x", "", nil),
			b.request(http.MethodGet, "/api/v1/waste/result/x", "", nil), b.request(http.MethodPost, "/api/v1/auth/logout", "", nil),
		}
	}
	good := signed(t, "user-7")
	for _, authorization := range []string{"", "Bearer", "Bearer ", "Basic " + good, "Bearer " + good[:len(good)-2], good, "Bearer x", "Bearer " + good + " x"} {
		for _, r := range routes() {
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			if a := b.do(r); a.status != 401 || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") || strings.Contains(a.text("detail"), good[:20]) {
				t.Errorf("%s with %q: got %+v", r.URL.Path, authorization, a)
			}
		}
	}
	if files := b.kept(); len(files) != 0 {
		t.Errorf("got files %v of requests without a token", files)
	}
	r := b.form(picture)
	r.Header.Set("Authorization", "bearer "+good) // RFC 9110: whatever its case
	if a := b.do(r); a.status != 202 {
		t.Fatalf("got %+v", a)
	}
	if args := kwargs(t, b.message()); args["user_id"] != "user-7" {
		t.Errorf("got arguments %v, want the user", args)
	}
	// A key is of the user who uses it.
	ids := map[string]bool{}
	for _, user := range []string{"user-7", "user-8", "user-7"} {
		r := keyed(b.form(picture), "k")
		r.Header.Set("Authorization", "Bearer "+signed(t, user))
		ids[b.do(r).text("job_id")] = true
	}
	if len(ids) != 2 {
		t.Errorf("got jobs %v, want one for each user", ids)
	}
	b.token = good
	if a := b.do(b.request(http.MethodPost, "/api/v1/auth/logout", "", nil)); a.status != 200 {
		t.Fatalf("logout: got %+v", a)
	}
	for _, r := range routes() {
		if a := b.do(r); a.status != 401 || a.text("detail") != "Token has been revoked" {
			t.Errorf("%s after logout: got %+v", r.URL.Path, a)
		}
	}
	b.token = signed(t, "user-7")
	b.redis.Stop()
	for _, r := range routes() {
		if a := b.do(r); a.status != 503 {
			t.Errorf("%s without Redis: got %+v, want 503, as nobody knows what was revoked", r.URL.Path, a)
		}
	}
}

// TestLocalOnly: without tokens no page of another site, and no other name, gets at the API.
func TestLocalOnly(t *testing.T) {
	b := setup(t)
	for name, change := range map[string]func(*http.Request){
		"another name":        func(r *http.Request) { r.Host = "evil.example" },
		"a page of elsewhere": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"another origin":      func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
	} {
		r := b.form(picture)
		change(r)
		if a := b.do(r); a.status != 403 || a.text("detail") == "" {
			t.Errorf("%s: got %+v", name, a)
		}
	}
	for _, host := range []string{"localhost", "localhost:80", "127.0.0.1", "127.8.8.8:1", "[::1]:80", "[::1]"} {
		r := b.request(http.MethodGet, "/status/x", "", nil)
		r.Host = host
		if a := b.do(r); a.status != 404 {
			t.Errorf("%s: got %+v", host, a)
		}
	}
	if files := b.kept(); len(files) != 0 {
		t.Errorf("got files %v", files)
	}
}

// TestDomain has the paths of another domain.
func TestDomain(t *testing.T) {
	b := setup(t, func(cfg *api.Config, _ *bundle) { cfg.Domain = "receipts" })
	r := b.request(http.MethodPost, "/api/v1/receipts/analyze", "application/json", strings.NewReader(`{"image_url": "https://x/y"}`))
	if a := b.do(r); a.status != 202 || !strings.HasPrefix(a.header.Get("Location"), "/api/v1/receipts/status/") {
		t.Errorf("got %+v", a)
	}
	if a := b.post(`{}`); a.status != 404 {
		t.Errorf("got %+v of another domain's path", a)
	}
}

// TestClientGoesAway keeps nothing of a picture that did not arrive.
func TestClientGoesAway(t *testing.T) {
	b := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body, send := io.Pipe()
	r := b.request(http.MethodPost, "/api/v1/waste/analyze", "multipart/form-data; boundary=x", body).WithContext(ctx)
	done := make(chan error, 1)
	go func() {
		resp, err := b.client.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	if _, err := io.WriteString(send, "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"+string(picture)); err != nil {
		t.Fatal(err)
	}
	for len(b.kept()) == 0 { // until it is under way
		time.Sleep(time.Millisecond)
	}
	cancel()
	send.CloseWithError(io.ErrUnexpectedEOF)                                                      // the client waits for its body
	if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, io.ErrUnexpectedEOF) { // whichever it sees first
		t.Errorf("got %v", err)
	}
	for len(b.kept()) != 0 {
		time.Sleep(time.Millisecond)
	}
}
