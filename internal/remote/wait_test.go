package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/internal/testenv"
)

// TestNobodyWaitsForRedisOrTheBroker has a node that cannot reach them.
func TestNobodyWaitsForRedisOrTheBroker(t *testing.T) {
	url := broker(t)
	_, node := newStill()
	redis, openRedis := newGate()
	declare, openDeclare := newGate()
	node.gates = map[string]chan struct{}{"parked": redis, "revoke-parked": redis, "add": declare}
	l := startWith(t, url, node, nil)
	t.Cleanup(openRedis) // before the Remote is stopped
	t.Cleanup(openDeclare)
	wait(t, "Remote", l.Ready())

	scheduled := l.ask("scheduled", "{}")
	revoked := l.ask("revoke", `{"task_id":"a"}`)
	l.request(`{"method":"revoke","arguments":{"task_id":"b"}}`)
	added := l.ask("add_consumer", `{"queue":"q1"}`)
	l.request(`{"method":"add_consumer","arguments":{"queue":"q2"}}`)
	cancelled := l.ask("cancel_consumer", `{"queue":"q1"}`)

	// Each of these is answered although nothing else is.
	l.ping()
	if ids := l.Revoked.IDs(); !slices.Equal(ids, []string{"a", "b"}) {
		t.Errorf("got %v revoked when a later ping was answered, want a and b", ids)
	}
	if got := node.told("revoke"); len(got) != 2 {
		t.Errorf("the node was told %v, want that it revokes what it holds, twice", got)
	}
	wait(t, "stats", l.ask("stats", "{}"))
	for what, replies := range map[string]<-chan amqp.Delivery{"scheduled": scheduled, "revoke": revoked, "add_consumer": added, "cancel_consumer": cancelled} {
		if len(replies) > 0 {
			t.Errorf("%s was answered before it could be carried out", what)
		}
	}

	if parked, added := node.told("parked", "revoke-parked"), node.told("add", "cancel"); len(parked) > 1 || len(added) > 1 {
		t.Errorf("the node was told %v and %v, want one at a time of each", parked, added)
	}

	openDeclare() // neither of the two waits for the other
	for what, replies := range map[string]<-chan amqp.Delivery{"add_consumer": added, "cancel_consumer": cancelled} {
		wait(t, what, replies)
	}
	if got, want := node.told("add", "cancel"), []string{"add q1", "add q2", "cancel q1"}; !slices.Equal(got, want) {
		t.Errorf("the node was told %v, want %v", got, want)
	}
	openRedis()
	wait(t, "scheduled", scheduled)
	wait(t, "revoke", revoked)
	wait(t, "next of the lane", l.ask("scheduled", "{}"))
	if got, want := node.told("parked", "revoke-parked"), []string{"parked", "revoke-parked [a]", "revoke-parked [b]", "parked"}; !slices.Equal(got, want) {
		t.Errorf("the node was told %v, want %v", got, want)
	}
}

// newGate is a gate of a node, and what opens it.
func newGate() (gate chan struct{}, open func()) {
	gate = make(chan struct{})
	return gate, sync.OnceFunc(func() { close(gate) })
}

// TestRepliesFromEverywhere has the lanes and the reader of requests reply at the
// same time.
func TestRepliesFromEverywhere(t *testing.T) {
	l := start(t, broker(t), nil)
	wait(t, "Remote", l.Ready())
	queue, replies := capture(t, l.ch, "", "")
	requests := map[string]string{"ping": "{}", "scheduled": "{}", "cancel_consumer": `{"queue":"q"}`}
	const each = 50
	for range each {
		for method, arguments := range requests {
			l.request(fmt.Sprintf(`{"method":%q,"arguments":%s,"ticket":%q,"reply_to":{"exchange":"","routing_key":%q}}`, method, arguments, method, queue))
		}
	}
	got := map[any]int{}
	for range each * len(requests) {
		got[wait(t, "reply", replies).Headers["ticket"]]++
	}
	for method := range requests {
		if got[method] != each {
			t.Errorf("got %d replies to %s, want %d", got[method], method, each)
		}
	}
}

// TestRunWaitsForTheNode when it ends, and what was asked for before is done.
func TestRunWaitsForTheNode(t *testing.T) {
	url := broker(t)
	_, node := newStill()
	gate, open := newGate()
	node.gates = map[string]chan struct{}{"add": gate}
	l := startWith(t, url, node, nil)
	t.Cleanup(open)
	wait(t, "Remote", l.Ready())
	l.request(`{"method":"add_consumer","arguments":{"queue":"q1"}}`)
	l.request(`{"method":"cancel_consumer","arguments":{"queue":"q1"}}`)
	l.ping()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.stop()
	}()
	for l.link.Load() != nil { // its connection is closed
		wait(t, "tick", time.After(time.Millisecond))
	}
	select {
	case <-ended:
		t.Error("Run has ended while the node was at work")
	default:
	}
	open()
	wait(t, "end of Run", ended)
	if got, want := node.told("add", "cancel"), []string{"add q1", "cancel q1"}; !slices.Equal(got, want) {
		t.Errorf("the node was told %v, want %v", got, want)
	}
}

// TestQueueThatCannotBeHad is answered with the node's error.
func TestQueueThatCannotBeHad(t *testing.T) {
	for want, err := range map[string]error{
		`{"error":"ValueError('declare queue q: refused')"}`: errors.New("declare queue q: refused"),
		`{"error":"AccessRefused('q')"}`:                     celery.NewException("AccessRefused", "q", nil),
	} {
		r, node := newStill()
		node.addErr = err
		answer, _ := answerTo(r, &request{Method: "add_consumer", Arguments: map[string]json.RawMessage{"queue": json.RawMessage(`"q"`)}})
		if got, _ := json.Marshal(answer); string(got) != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestFullLane refuses, and says why.
func TestFullLane(t *testing.T) {
	r, node := newStill()
	for r.parked.add(func() {}) {
	}
	if n := len(r.parked.work); n != laneLength {
		t.Errorf("got %d commands in the lane, want %d", n, laneLength)
	}
	var got []byte
	r.run(&request{Method: "revoke", Arguments: map[string]json.RawMessage{"task_id": json.RawMessage(`"a"`)}}, func(answer any) {
		got, _ = json.Marshal(answer)
	})
	if !strings.Contains(string(got), "10000 commands wait") {
		t.Errorf("got the answer %s, want an error", got)
	}
	if _, known := r.Revoked.Since("a"); !known || len(node.told("revoke")) == 0 {
		t.Error("what is held and what will come was not revoked")
	}
}

// TestLaneAtTheEnd carries out what was asked for before.
func TestLaneAtTheEnd(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	l, did := newLane(), 0
	for range 3 {
		l.add(func() { did++ })
	}
	l.run(ctx)
	if did != 3 {
		t.Errorf("got %d of 3 commands carried out", did)
	}
}

// TestCatchUp has a revocation lie in the queue, behind a request that is being
// carried out.
func TestCatchUp(t *testing.T) {
	url := broker(t)
	_, node := newStill()
	gate, open := newGate()
	node.gates = map[string]chan struct{}{"resize": gate}
	l := startWith(t, url, node, nil)
	wait(t, "Remote", l.Ready())
	if err := l.ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirmed := l.ch.NotifyPublish(make(chan amqp.Confirmation, 2))
	l.request(`{"method":"pool_grow"}`)
	l.request(`{"method":"revoke","arguments":{"task_id":"a"}}`)
	for range 2 {
		wait(t, "confirm", confirmed)
	}
	go func() { // as soon as the mark is on its way
		defer open()
		for l.waiting() == 0 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	l.CatchUp(t.Context())
	if _, known := l.Revoked.Since("a"); !known {
		t.Error("a request that the broker had before has not been carried out")
	}
	if n := l.waiting(); n != 0 {
		t.Errorf("got %d marks that somebody waits for, want none", n)
	}
}

// waiting is how many marks somebody waits for.
func (l *live) waiting() int {
	m := l.link.Load().marks
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

// TestCatchUpInVain has no connection, one that ends, one over which nothing comes,
// and a job that is over.
func TestCatchUpInVain(t *testing.T) {
	url := broker(t)
	r, _ := newStill()
	r.CatchUp(t.Context()) // has never connected

	uri, err := amqp.ParseURI(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.NewProxy(t, fmt.Sprintf("%s:%d", uri.Host, uri.Port))
	l := start(t, proxy.URL(url), nil)
	wait(t, "Remote", l.Ready())
	proxy.Pause()
	began := time.Now()
	l.CatchUp(t.Context())
	if took := time.Since(began); took < catchUpTime || took > catchUpTime+5*time.Second {
		t.Errorf("got %v waited, want %v", took, catchUpTime)
	}
	over, end := context.WithCancel(t.Context())
	end()
	began = time.Now()
	l.CatchUp(over)
	if took := time.Since(began); took > catchUpTime/2 {
		t.Errorf("got %v waited for a job that is over", took)
	}
	proxy.Restore()
	l.ping() // stands behind the first mark
	if n := l.logs.FilterMessage("remote control request ignored").Len(); n != 0 {
		t.Error("a mark that came late was taken for a request")
	}
	marks := l.link.Load().marks
	proxy.Cut()
	wait(t, "end of the connection", marks.ended)
	began = time.Now()
	l.CatchUp(t.Context())
	if took := time.Since(began); took > catchUpTime/2 {
		t.Errorf("got %v waited without a connection", took)
	}
}
