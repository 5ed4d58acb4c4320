package remote

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
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
