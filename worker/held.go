package worker

import (
	"sync"
)

// held are jobs that the worker holds, from their acceptance to their end.
// The zero value is ready.
type held struct {
	mu   sync.Mutex
	jobs map[*job]struct{}
}

func (h *held) add(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.jobs == nil {
		h.jobs = map[*job]struct{}{}
	}
	h.jobs[j] = struct{}{}
}

func (h *held) remove(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.jobs, j)
}

// count is how many they are.
func (h *held) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.jobs)
}

// list returns the jobs in any order.
func (h *held) list() []*job {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*job, 0, len(h.jobs))
	for j := range h.jobs {
		out = append(out, j)
	}
	return out
}

// unacknowledged counts the jobs whose deliveries go back when the connection is closed.
func (h *held) unacknowledged() int {
	n := 0
	for _, j := range h.list() {
		if !j.hasAcked() {
			n++
		}
	}
	return n
}

// leases returns the names under which the jobs have their ids in a ledger.
func (h *held) leases(l Ledger) map[string]string {
	out := map[string]string{}
	for _, j := range h.list() {
		j.mu.Lock()
		if j.run != "" && ledgerOf(j.book) == l {
			out[j.req.ID] = j.run
		}
		j.mu.Unlock()
	}
	return out
}

// scheduled counts the jobs that wait for their ETA.
func (h *held) scheduled() int {
	n := 0
	for _, j := range h.list() {
		j.mu.Lock()
		if j.phase == scheduled {
			n++
		}
		j.mu.Unlock()
	}
	return n
}
