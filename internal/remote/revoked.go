package remote

import (
	"bytes"
	"container/list"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// Bounds of Revoked, those of Celery (celery/worker/state.py, REVOKES_MAX and
// REVOKE_EXPIRES).
const (
	revokedMax = 50000
	revokedTTL = 3 * time.Hour
)

// Revoked remembers which tasks were revoked, by id and by stamp, within a bound:
// the oldest ids go first, and stamps stay. Safe for concurrent use.
type Revoked struct {
	mu     sync.Mutex
	ids    map[string]*list.Element // of entries
	order  *list.List               // oldest first
	stamps map[string][]any         // by name, JSON values
	now    func() time.Time
}

type entry struct {
	id    string
	added time.Time
}

func newRevoked() *Revoked {
	return &Revoked{ids: map[string]*list.Element{}, order: list.New(), stamps: map[string][]any{}, now: time.Now}
}

// Add remembers ids from now on.
func (r *Revoked) Add(ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if e, known := r.ids[id]; known {
			r.order.Remove(e)
		}
		r.ids[id] = r.order.PushBack(entry{id, r.now()})
	}
	r.purge()
}

// purge forgets what is too old or too much. r.mu is held.
func (r *Revoked) purge() {
	for e := r.order.Front(); e != nil; e = r.order.Front() {
		old := e.Value.(entry)
		if r.order.Len() <= revokedMax && r.now().Sub(old.added) <= revokedTTL {
			return
		}
		r.order.Remove(e)
		delete(r.ids, old.id)
	}
}

// Has reports whether the id is revoked.
func (r *Revoked) Has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.purge()
	_, known := r.ids[id]
	return known
}

// IDs returns the ids, the oldest first.
func (r *Revoked) IDs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.purge()
	out := make([]string, 0, r.order.Len())
	for e := r.order.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(entry).id)
	}
	return out
}

// AddStamps revokes tasks that have one of these values as the stamp of that
// name.
func (r *Revoked) AddStamps(stamps map[string][]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, values := range stamps {
		for _, v := range values {
			if !slices.ContainsFunc(r.stamps[name], func(have any) bool { return same(have, v) }) {
				r.stamps[name] = append(r.stamps[name], v)
			}
		}
	}
}

// Match reports whether a task is revoked, by its id or by one of its stamps. A
// stamp is a JSON value, or a list of which any item counts.
func (r *Revoked) Match(id string, stampedHeaders []string, stamps map[string]json.RawMessage) bool {
	if r.Has(id) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return matchStamps(r.stamps, stampedHeaders, stamps)
}

func matchStamps(revoked map[string][]any, names []string, stamps map[string]json.RawMessage) bool {
	for _, name := range names {
		values := revoked[name]
		if len(values) == 0 {
			continue
		}
		own, err := decode(stamps[name])
		if err != nil {
			continue
		}
		items, isList := own.([]any)
		if !isList {
			items = []any{own}
		}
		for _, item := range items {
			if slices.ContainsFunc(values, func(v any) bool { return same(v, item) }) {
				return true
			}
		}
	}
	return false
}

// decode reads a JSON value with its numbers as they are written.
func decode(raw json.RawMessage) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

// same is Python's == of JSON values: 1 == 1.0 == True, and "1" is another.
func same(a, b any) bool {
	x, xNumber := number(a)
	y, yNumber := number(b)
	if xNumber || yNumber {
		return xNumber && yNumber && x == y
	}
	left, errA := json.Marshal(a)
	right, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(left, right)
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	case float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}
