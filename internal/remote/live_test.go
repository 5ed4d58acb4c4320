package remote

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"onceover/internal/testenv"
)

// TestReply looks at a reply as it is on the wire.
func TestReply(t *testing.T) {
	l := start(t, broker(t), nil)
	wait(t, "Remote", l.Ready())
	d := l.ping()
	if string(d.Body) != `{"go@h":{"ok":"pong"}}` || d.ContentType != "application/json" || d.DeliveryMode != amqp.Transient {
		t.Errorf("got %s as %s, delivery mode %d", d.Body, d.ContentType, d.DeliveryMode)
	}
	if clock, _ := d.Headers["clock"].(int64); d.Headers["ticket"] != "T" || clock <= 101 {
		t.Errorf("got headers %v, want ticket T and a clock past the request's 100", d.Headers)
	}
}

// TestBadRequestsAreSurvived sends what makes no sense, and then asks.
func TestBadRequestsAreSurvived(t *testing.T) {
	l := start(t, broker(t), nil)
	wait(t, "Remote", l.Ready())
	for _, body := range []string{`{`, `[]`, `{"arguments":{}}`, `{"method":"ping","pattern":"(","matcher":"pcre"}`, `{"method":"ping","destination":["other@h"]}`} {
		l.request(body)
	}
	if err := l.ch.Publish(controlExchange, "", false, false, amqp.Publishing{ContentType: "application/x-python-serialize", Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	// The broker closes the channel of a reply to an exchange that is not there.
	for range 3 {
		l.request(`{"method":"ping","ticket":"1","reply_to":{"exchange":"none","routing_key":"k"}}`)
	}
	l.ping()
	l.request(`{"method":"ping","ticket":"1","reply_to":{"exchange":"none","routing_key":"k"}}`)
	l.logged("a remote control reply was refused", 1)
	l.ping()
	if n := l.logs.FilterMessage("remote control request ignored").Len(); n != 5 {
		t.Errorf("got %d requests reported as ignored, want 5", n)
	}
	if n := l.logs.FilterMessage("remote control lost, reconnecting").Len(); n != 0 {
		t.Error("the connection was lost")
	}
}

// TestExchangesAreUsedAsTheyStand finds them declared with other flags.
func TestExchangesAreUsedAsTheyStand(t *testing.T) {
	url := broker(t)
	ch := channel(t, url)
	for name, kind := range map[string]string{controlExchange: "fanout", replyExchange: "direct"} {
		if err := ch.ExchangeDeclare(name, kind, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := ch.ExchangeDeclare(eventExchange, "topic", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	l := start(t, url, func(c *Config) { c.Mingle = true })
	wait(t, "Remote", l.Ready())
	l.ping()
}

// TestNodeNames are each worker's own.
func TestNodeNames(t *testing.T) {
	url := broker(t)
	first := start(t, url, nil)
	wait(t, "first Remote", first.Ready())
	second := start(t, url, nil)
	entry := second.logged("remote control not connected, trying again", 1)
	if text := fmt.Sprint(entry.ContextMap()["error"]); entry.Level != zapcore.ErrorLevel || !strings.Contains(text, "ONCEOVER_NODE_NAME") {
		t.Errorf("got %v %q, want an error that names the setting", entry.Level, text)
	}
	first.stop()
	wait(t, "second Remote", second.Ready())
	second.logged("remote control connected", 1)
	second.ping()
}

// TestPidboxOfOlderCelery finds the queue with the flags of Celery 5.2: of a
// worker that is gone, and of one that is there.
func TestPidboxOfOlderCelery(t *testing.T) {
	url := broker(t)
	ch := channel(t, url)
	for _, node := range []string{"gone@h", "there@h"} {
		_, err := ch.QueueDeclare(node+".celery.pidbox", false, true, false, false,
			amqp.Table{"x-expires": int32(10000), "x-message-ttl": int32(300000)})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ch.Consume("there@h.celery.pidbox", "", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	l := start(t, url, func(c *Config) { c.NodeName = "gone@h" })
	wait(t, "Remote", l.Ready())
	l.ping()

	l = start(t, url, func(c *Config) { c.NodeName = "there@h" })
	entry := l.logged("remote control not connected, trying again", 1)
	if text := fmt.Sprint(entry.ContextMap()["error"]); !strings.Contains(text, "ONCEOVER_NODE_NAME") {
		t.Errorf("got %q, want an error that names the setting", text)
	}
}

// TestConnectionIsRegained cuts it, with events on their way.
func TestConnectionIsRegained(t *testing.T) {
	url := broker(t)
	uri, err := amqp.ParseURI(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.NewProxy(t, fmt.Sprintf("%s:%d", uri.Host, uri.Port))
	l := start(t, proxy.URL(url), func(c *Config) { c.TaskEvents = true })
	wait(t, "Remote", l.Ready())
	l.ping()
	proxy.Cut()
	l.logged("remote control lost, reconnecting", 1)
	ch := channel(t, url)
	_, events := capture(t, ch, eventExchange, "#")
	for i := range 5 {
		l.TaskEvent("task-started", args{"uuid": fmt.Sprint(i)})
	}
	proxy.Restore()
	l.logged("remote control connected", 1)
	var saw []string
	for len(saw) < 6 {
		saw = append(saw, kinds(t, wait(t, "event", events))...)
	}
	if want := append([]string{"worker-online"}, slices.Repeat([]string{"task-started"}, 5)...); !slices.Equal(saw, want) {
		t.Errorf("got the events %v, want %v", saw, want)
	}
	l.ch = ch // the other went through the proxy
	l.ping()
	if n := l.logs.FilterMessage("remote control lost, reconnecting").Len(); n != 1 {
		t.Errorf("got %d log lines of one loss, want 1", n)
	}
}

// TestEventsOnTheWire looks at a burst, and at what is sent at the end.
func TestEventsOnTheWire(t *testing.T) {
	url := broker(t)
	ch := channel(t, url)
	if err := ch.ExchangeDeclare(eventExchange, "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	_, events := capture(t, ch, eventExchange, "#")
	l := start(t, url, func(c *Config) { c.TaskEvents = true })
	wait(t, "Remote", l.Ready())
	d := wait(t, "event", events)
	var online map[string]any
	if err := json.Unmarshal(d.Body, &online); err != nil {
		t.Fatal(err)
	}
	if d.RoutingKey != "worker.online" || d.Headers["hostname"] != "go@h" || d.DeliveryMode != amqp.Transient {
		t.Errorf("got routing key %s, headers %v, delivery mode %d", d.RoutingKey, d.Headers, d.DeliveryMode)
	}
	want := []string{"active", "clock", "freq", "hostname", "loadavg", "pid", "processed", "sw_ident", "sw_sys", "sw_ver", "timestamp", "type", "utcoffset"}
	if got := sortedKeys(online); !slices.Equal(got, want) {
		t.Errorf("worker-online has %v, want %v", got, want)
	}

	const burst = 1000
	for i := range burst {
		l.TaskEvent("task-started", args{"uuid": fmt.Sprint(i)})
	}
	l.TaskEvent("task-failed", args{"uuid": "x", "exception": func() {}}) // no JSON
	l.stop()
	var tasks []string
	for kind := ""; kind != "worker-offline"; {
		d := wait(t, "event", events)
		list := kinds(t, d)
		switch kind = list[0]; {
		case len(list) > 1 && d.RoutingKey != "task.multi", len(list) == 1 && d.RoutingKey != strings.ReplaceAll(kind, "-", "."):
			t.Errorf("got %d events under %s", len(list), d.RoutingKey)
		case strings.HasPrefix(kind, "task-"):
			tasks = append(tasks, list...)
		}
	}
	if len(tasks) != burst || l.Dropped() != 1 {
		t.Errorf("got %d task events before worker-offline and %d dropped, want %d and 1", len(tasks), l.Dropped(), burst)
	}
}

// TestGossip has another worker send a heartbeat and hold an election.
func TestGossip(t *testing.T) {
	url := broker(t)
	l := start(t, url, func(c *Config) { c.TaskEvents = true })
	wait(t, "Remote", l.Ready())
	_, acks := capture(t, l.ch, eventExchange, "worker.elect.#")
	say := func(key, body string) {
		if err := l.ch.Publish(eventExchange, key, false, false, amqp.Publishing{ContentType: "application/json", Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	say("worker.heartbeat", `{"type":"worker-heartbeat","hostname":"other@h","clock":5000}`)
	say("worker.elect", `{`)
	say("worker.elect", `{"type":"worker-elect","hostname":"other@h","clock":5001,"id":"E"}`)
	for range 200 { // what is sent beside them does not swallow the ack
		l.TaskEvent("task-started", args{"uuid": "x"})
	}
	for {
		d := wait(t, "worker-elect-ack", acks)
		if d.RoutingKey != "worker.elect.ack" {
			continue // what we said
		}
		var ack struct {
			ID, Hostname string
			Clock        int64
		}
		if err := json.Unmarshal(d.Body, &ack); err != nil {
			t.Fatal(err)
		}
		if ack.ID != "E" || ack.Hostname != "go@h" || ack.Clock <= 5000 {
			t.Errorf("got %+v, want E acknowledged by go@h with a clock past 5000", ack)
		}
		break
	}

	// Told to hold one, it takes part behind all others, and hears itself.
	l.request(`{"method":"election","arguments":{"id":"F","topic":"task","action":{"task":"t"}}}`)
	var vote struct {
		ID, Topic string
		Clock     int64
		Cver      int
		Action    any
	}
	d := wait(t, "worker-elect", acks)
	if err := json.Unmarshal(d.Body, &vote); err != nil {
		t.Fatal(err)
	}
	if d.RoutingKey != "worker.elect" || vote.ID != "F" || vote.Topic != "task" || vote.Cver != 1 || vote.Action == nil || vote.Clock < electionHandicap {
		t.Errorf("got %s %s", d.RoutingKey, d.Body)
	}
	if d := wait(t, "worker-elect-ack", acks); d.RoutingKey != "worker.elect.ack" {
		t.Errorf("got %s, want worker.elect.ack", d.RoutingKey)
	}
}

// TestEndsWithoutABroker has a broker that does not answer any more.
func TestEndsWithoutABroker(t *testing.T) {
	url := broker(t)
	uri, err := amqp.ParseURI(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.NewProxy(t, fmt.Sprintf("%s:%d", uri.Host, uri.Port))
	direct := channel(t, url)
	l := start(t, proxy.URL(url), nil)
	wait(t, "Remote", l.Ready())
	l.ch.Close()
	l.ch = direct
	l.ping()
	proxy.Pause()
	began := time.Now()
	l.stop()
	const heartbeats = 10 * time.Second // after two or three of them the client would notice by itself
	if took := time.Since(began); took > heartbeats {
		t.Errorf("Run took %v to end, want it not to wait for a broker that is silent", took)
	}
	proxy.Restore()
}

// TestGreeting says hello where nobody is, and where somebody is: who is alone knows at once.
func TestGreeting(t *testing.T) {
	url := broker(t)
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, x := range []struct{ name, kind string }{{controlExchange, amqp.ExchangeFanout}, {replyExchange, amqp.ExchangeDirect}} {
		if err := declareExchange(conn, x.name, x.kind, false); err != nil {
			t.Fatal(err)
		}
	}
	r := New(Config{NodeName: "new@h"}, nil, zap.NewNop())
	hello := func(want bool) *greeting {
		t.Helper()
		g, err := r.hello(t.Context(), conn)
		if err != nil || g.alone != want {
			t.Fatalf("got %+v, %v, want alone: %t", g, err, want)
		}
		return g
	}
	hello(true).ch.Close()
	first := start(t, url, nil)
	wait(t, "Remote", first.Ready())
	first.Revoked.Add("by the first")
	g := hello(false)
	defer g.ch.Close()
	if d := wait(t, "reply", g.replies); d.Headers["ticket"] != g.ticket {
		t.Errorf("got a reply with the ticket %v", d.Headers["ticket"])
	} else if r.greeted(d.Body); !slices.Contains(r.Revoked.IDs(), "by the first") {
		t.Errorf("got %v revoked, want what the first one knows", r.Revoked.IDs())
	}
}
