package remote

import (
	"bytes"
	"container/list"
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of Revoked, those of Celery (celery/worker/state.py, REVOKES_MAX and
// REVOKE_EXPIRES).
const (
	revokedMax = 50000
	revokedTTL = 3 * time.Hour
)

// Revoked remembers which tasks were revoked, by id and by stamp. The oldest go
// first: beyond 50,000 ids, or 50,000 stamps, and ids after three hours. Safe for
// concurrent use.
type Revoked struct {
	mu     sync.Mutex
	ids    memory
	stamps memory // keys by stampKey; they do not expire, as in Celery
	now    func() time.Time
}

// memory is a set of bounded size, which knows the age of its members.
type memory struct {
	members map[string]*list.Element // of member
	order   list.List                // oldest first
}

type member struct {
	key   string
	added time.Time
}

// add makes key the newest member.
func (m *memory) add(key string, now time.Time) {
	if e, known := m.members[key]; known {
		m.order.Remove(e)
	}
	m.members[key] = m.order.PushBack(member{key, now})
	if m.order.Len() > revokedMax {
		m.drop(m.order.Front())
	}
}

func (m *memory) drop(e *list.Element) {
	m.order.Remove(e)
	delete(m.members, e.Value.(member).key)
}

// expire forgets what was added before then.
func (m *memory) expire(then time.Time) {
	for e := m.order.Front(); e != nil && e.Value.(member).added.Before(then); e = m.order.Front() {
		m.drop(e)
	}
}

func (m *memory) since(key string) (at time.Time, ok bool) {
	e, known := m.members[key]
	if !known {
		return time.Time{}, false
	}
	return e.Value.(member).added, true
}

func (m *memory) has(key string) bool {
	_, known := m.members[key]
	return known
}

func newRevoked() *Revoked {
	return &Revoked{
		ids: memory{members: map[string]*list.Element{}}, stamps: memory{members: map[string]*list.Element{}}, now: time.Now,
	}
}

// Add remembers ids from now on.
func (r *Revoked) Add(ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for _, id := range ids {
		r.ids.add(id, now)
	}
}

// merge adds those ids that are not known. They count from now: what other
// workers say of the time is by the clock of their host. Known ones keep their
// time, or two workers would keep each other's for ever.
func (r *Revoked) merge(ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.ids.expire(now.Add(-revokedTTL))
	for _, id := range ids {
		if !r.ids.has(id) {
			r.ids.add(id, now)
		}
	}
}

// Since is when the id was revoked, if it is.
func (r *Revoked) Since(id string) (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids.expire(r.now().Add(-revokedTTL))
	return r.ids.since(id)
}

// IDs returns the ids, the oldest first; it is not nil.
func (r *Revoked) IDs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids.expire(r.now().Add(-revokedTTL))
	out := make([]string, 0, r.ids.order.Len())
	for e := r.ids.order.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(member).key)
	}
	return out
}

// AddStamps revokes tasks that have one of these values as the stamp of that
// name. The values are JSON values, numbers of any of Go's types for them.
func (r *Revoked) AddStamps(stamps map[string][]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for name, values := range stamps {
		for _, v := range values {
			r.stamps.add(stampKey(name, v), now)
		}
	}
}

// Match reports whether a task is revoked, by its id or by one of its stamps:
// those of stamps that stampedHeaders names. A stamp is a JSON value, or a list
// of which any item counts; values are equal when Python says so.
func (r *Revoked) Match(id string, stampedHeaders []string, stamps map[string]json.RawMessage) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids.expire(r.now().Add(-revokedTTL))
	if r.ids.has(id) {
		return true
	}
	return r.stamps.order.Len() > 0 && len(stampsIn(&r.stamps, stampedHeaders, stamps)) > 0
}

// stamp is one value of one stamp.
type stamp struct {
	name  string
	value any
}

// stampsIn returns those stamps of a task that are members of m.
func stampsIn(m *memory, names []string, stamps map[string]json.RawMessage) (in []stamp) {
	for _, name := range names {
		own, err := decode(stamps[name])
		if err != nil {
			continue // not JSON, which a stamp always is: equal to nothing
		}
		items, isList := own.([]any)
		if !isList {
			items = []any{own}
		}
		for _, item := range items {
			if m.has(stampKey(name, item)) {
				in = append(in, stamp{name, item})
			}
		}
	}
	return in
}

// decode reads a JSON value with its numbers as they are written.
func decode(raw json.RawMessage) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

// stampKey is the same text for stamps of one name whose values are equal in
// Python: 1 == 1.0 == True, and "1" is another.
func stampKey(name string, value any) string {
	var b strings.Builder
	b.WriteString(strconv.Quote(name))
	equalityKey(&b, value)
	return b.String()
}

func equalityKey(b *strings.Builder, v any) {
	switch v := v.(type) {
	case json.Number:
		b.WriteString(numberKey(v.String()))
	case float64:
		b.WriteString(numberKey(strconv.FormatFloat(v, 'g', -1, 64)))
	case bool:
		if v {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
	case []any:
		b.WriteByte('[')
		for _, item := range v {
			equalityKey(b, item)
			b.WriteByte(',')
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		for _, name := range sortedKeys(v) {
			b.WriteString(strconv.Quote(name) + ":")
			equalityKey(b, v[name])
			b.WriteByte(',')
		}
		b.WriteByte('}')
	case string:
		b.WriteString(strconv.Quote(v))
	case nil:
		b.WriteString("null")
	default: // an int, or what is no JSON value
		doc, _ := json.Marshal(v)
		b.Write(doc)
	}
}

// numberKey is a JSON number in the one way that equal numbers share. Integers
// are exact, as Python's are; what has a fraction or an exponent is a double.
func numberKey(text string) string {
	if !strings.ContainsAny(text, ".eE") {
		if text == "-0" {
			return "0"
		}
		return text
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) {
		return strconv.FormatFloat(f, 'g', -1, 64) // infinite when out of range, as in Python
	}
	whole, _ := big.NewFloat(f).Int(nil)
	return whole.String()
}
