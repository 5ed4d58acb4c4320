package devbroker

import (
	"slices"
	"strings"
)

// exchange routes messages to the queues and exchanges bound to it.
type exchange struct {
	name, kind          string
	durable, autoDelete bool
	bindings            []*binding
}

// binding leads to a queue or an exchange; the other is nil.
type binding struct {
	key     string
	pattern []string // key in words, for topic exchanges
	queue   *queue
	to      *exchange
}

// same tells whether two bindings of one exchange are one and the same.
func (bd *binding) same(other *binding) bool {
	return bd.key == other.key && bd.queue == other.queue && bd.to == other.to
}

// exchange finds an exchange.
func (b *broker) exchange(name string) (*exchange, error) {
	x := b.exchanges[name]
	if x == nil {
		return nil, refuse(notFound, "no exchange '%s' in vhost '/'", name)
	}
	return x, nil
}

// route returns the queues that m reaches through x, each once. b.mu is held.
func (b *broker) route(x *exchange, m *message) (queues []*queue) {
	if x == b.exchanges[""] {
		if q := b.queues[m.key]; q != nil {
			queues = append(queues, q)
		}
		return queues
	}
	key := words(m.key)
	reached := []*exchange{x}
	for i := 0; i < len(reached); i++ {
		for _, bd := range reached[i].bindings {
			if !reached[i].matches(bd, m.key, key) {
				continue
			}
			if bd.queue != nil && !slices.Contains(queues, bd.queue) {
				queues = append(queues, bd.queue)
			}
			if bd.to != nil && !slices.Contains(reached, bd.to) {
				reached = append(reached, bd.to)
			}
		}
	}
	return queues
}

func (x *exchange) matches(bd *binding, key string, words []string) bool {
	switch x.kind {
	case "direct":
		return bd.key == key
	case "topic":
		return topicMatches(bd.pattern, words)
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
// words, none included, in time proportional to the product of their lengths.
func topicMatches(pattern, key []string) bool {
	matched := make([]bool, len(key)+1) // matched[k]: the pattern so far matches the first k words
	matched[0] = true
	for _, p := range pattern {
		before := matched[0] // matched[k-1] without p
		matched[0] = matched[0] && p == "#"
		for k, word := range key {
			with := before && (p == "*" || p == word)
			if p == "#" {
				with = matched[k] || matched[k+1]
			}
			before, matched[k+1] = matched[k+1], with
		}
	}
	return matched[len(key)]
}
