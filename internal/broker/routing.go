package broker

import (
	"strings"
)

// exchange routes messages to the queues and exchanges bound to it.
type exchange struct {
	name, kind                    string
	durable, autoDelete, internal bool
	bindings                      []*binding
	round                         uint64 // the last round of routing that came by here
}

// binding leads to a queue or an exchange; the other is nil.
type binding struct {
	key     string
	pattern []string // key in words, for topic exchanges
	args    table
	queue   *queue
	to      *exchange
}

// same tells whether two bindings of one exchange are one and the same.
func (bd *binding) same(other *binding) bool {
	return bd.key == other.key && bd.queue == other.queue && bd.to == other.to &&
		bd.args.equal(other.args)
}

// route returns the queues that m reaches through x, each once. The slice is reused by the next call.
// b.mu is held.
func (b *broker) route(x *exchange, m *message) []*queue {
	b.round++
	b.routed = b.routed[:0]
	if x == b.exchanges[""] {
		if q := b.queues[m.key]; q != nil {
			b.routed = append(b.routed, q)
		}
		return b.routed
	}
	var headers table
	key := words(m.key)
	x.round = b.round
	for todo := []*exchange{x}; len(todo) > 0; {
		x, todo = todo[0], todo[1:]
		if x.kind == "headers" && headers == nil {
			p := m.properties()
			headers = p.headers()
		}
		for _, bd := range x.bindings {
			if !x.matches(bd, m.key, key, headers) {
				continue
			}
			if q := bd.queue; q != nil && q.round != b.round {
				q.round = b.round
				b.routed = append(b.routed, q)
			} else if to := bd.to; to != nil && to.round != b.round {
				to.round = b.round
				todo = append(todo, to)
			}
		}
	}
	return b.routed
}

func (x *exchange) matches(bd *binding, key string, words []string, headers table) bool {
	switch x.kind {
	case "direct":
		return bd.key == key
	case "topic":
		return topicMatches(bd.pattern, words)
	case "headers":
		return headersMatch(bd.args, headers)
	}
	return true // fanout
}

// words splits a routing key or topic pattern. An empty one has no words, as in RabbitMQ.
func words(key string) []string {
	if key == "" {
		return nil
	}
	return strings.Split(key, ".")
}

// topicMatches matches a key with a pattern in which * stands for exactly one word and # for any number of
// words, none included. Only the last # seen needs to be tried again with more words, so the time is at most
// the product of the lengths.
func topicMatches(pattern, key []string) bool {
	p, k := 0, 0
	hash, resume := -1, 0 // the last # seen, and the word from which to go on if it takes one more
	for k < len(key) {
		switch {
		case p < len(pattern) && pattern[p] == "#":
			hash, resume = p, k
			p++
		case p < len(pattern) && (pattern[p] == "*" || pattern[p] == key[k]):
			p++
			k++
		case hash >= 0:
			resume++
			p, k = hash+1, resume
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "#" {
		p++
	}
	return p == len(pattern)
}

// headersMatch compares message headers with a binding's arguments. A void argument asks for presence only;
// otherwise type and value must be equal. Arguments that begin with "x-" count only if x-match says so.
func headersMatch(args, headers table) bool {
	mode := args.get("x-match").text()
	all := mode != "any" && mode != "any-with-x"
	withX := strings.HasSuffix(mode, "-with-x")
	for _, a := range args {
		if a.name == "x-match" || !withX && strings.HasPrefix(a.name, "x-") {
			continue
		}
		have := headers.get(a.name)
		if ok := have == a.value || a.value.kind == 'V' && have.kind != 0; ok != all {
			return ok
		}
	}
	return all
}
