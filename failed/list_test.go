package failed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/rabbit"
)

// listed is a record as a list should have it.
type listed struct {
	Record
	key   Key
	cause string
}

// sorted puts the latest first, and of one millisecond the greater key.
func sorted(all []listed) []listed {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b listed) int {
		if d := b.Last.Compare(a.Last); d != 0 {
			return d
		}
		return strings.Compare(string(b.key), string(a.key))
	})
	return all
}

func keysListed(all []listed) []Key {
	out := make([]Key, len(all))
	for i, r := range all {
		out[i] = r.key
	}
	return out
}

// word is a name for a number without a digit in it.
func word(n int) string {
	out := ""
	for range 3 {
		out = string(rune('a'+n%26)) + out
		n /= 26
	}
	return out
}

// dawn is when the first of the records of these tests failed.
var dawn = time.Now().UTC().Truncate(time.Hour).Add(-2 * time.Hour)

// many returns n records of few distinct times: most are of one millisecond.
func many(t testing.TB, n int) []listed {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	template := failure(t, "template")
	out := make([]listed, n)
	for i := range out {
		r := template
		r.ID = fmt.Sprintf("%s-%03d", pick("a", "b", "C"), i)
		r.Message = r.Message.Clone()
		r.Message.Headers["id"] = r.ID
		r.Task = pick("t.one", "t.two", "t.three")
		r.Error = pick("ValueError", "KeyError", "OSError")
		r.Reason = celery.Reason(pick(string(ReasonFailed), string(rabbit.Expired)))
		r.Queue = pick("q.ai", "q.other")
		r.Text = pick("one", "two", "three")
		if r.Task == "t.three" {
			r.Text = "many " + word(i%40)
		}
		r.Last = dawn.Add(2 * time.Millisecond)
		if random.IntN(3) == 0 {
			r.Last = dawn.Add(time.Duration(random.IntN(5)) * time.Millisecond)
		}
		out[i] = listed{r, r.key(), causeOf(&r).ID}
	}
	return out
}

func (b *bundle) keepListed(all []listed) {
	b.t.Helper()
	records := make([]Record, len(all))
	for i, r := range all {
		records[i] = r.Record
	}
	b.keepMany(records)
}

// walk collects the pages of a list. between is called after each page that is not the last.
func (b *bundle) walk(f Filter, size int, between func(seen []Key)) []Key {
	b.t.Helper()
	var out []Key
	for text := ""; ; {
		from, err := ParseCursor(text)
		if err != nil {
			b.t.Fatal(err)
		}
		p, err := b.store.Page(b.t.Context(), f, from, size)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, e := range p.Entries {
			out = append(out, e.Key)
		}
		if len(p.Entries) > size {
			b.t.Fatalf("got a page of %d, want %d at most", len(p.Entries), size)
		}
		if p.Looked < len(p.Entries) {
			b.t.Errorf("got %d records, and %d looked at", len(p.Entries), p.Looked)
		}
		if p.Next.IsZero() {
			return out
		}
		if text = p.Next.String(); text == from.String() {
			b.t.Fatalf("the page after %s ends where it began", text)
		}
		if between != nil {
			between(out)
		}
	}
}

// TestPages compares lists with those that are made of all records.
func TestPages(t *testing.T) {
	b := setup(t)
	all := many(t, 400)
	b.keepListed(all)
	at := func(ms float64) time.Time { return dawn.Add(time.Duration(ms * float64(time.Millisecond))) }
	between := func(r *listed, from, to float64) bool { return !r.Last.Before(at(from)) && !r.Last.After(at(to)) }
	one := all[0]
	tests := []struct {
		name  string
		f     Filter
		want  func(*listed) bool
		exact bool // Size knows
	}{
		{"all", Filter{}, func(*listed) bool { return true }, true},
		{"task", Filter{Task: "t.one"}, func(r *listed) bool { return r.Task == "t.one" }, true},
		{"error", Filter{Error: "KeyError"}, func(r *listed) bool { return r.Error == "KeyError" }, false}, // of more causes than are merged
		{"few causes", Filter{Task: "t.two", Error: "KeyError", Reason: "expired"}, func(r *listed) bool {
			return r.Task == "t.two" && r.Error == "KeyError" && r.Reason == rabbit.Expired
		}, true},
		{"reason", Filter{Reason: "failed"}, func(r *listed) bool { return r.Reason == ReasonFailed }, false},
		{"many causes", Filter{Task: "t.three"}, func(r *listed) bool { return r.Task == "t.three" }, false},
		{"queue", Filter{Queue: "q.other"}, func(r *listed) bool { return r.Queue == "q.other" }, false},
		{"unknown user", Filter{User: "nobody"}, func(*listed) bool { return false }, false},
		{"cause", Filter{Cause: one.cause}, func(r *listed) bool { return r.cause == one.cause }, true},
		{"cause and its task", Filter{Cause: one.cause, Task: one.Task}, func(r *listed) bool { return r.cause == one.cause }, false},
		{"cause and another task", Filter{Cause: one.cause, Task: "t.none"}, func(r *listed) bool { return false }, false},
		{"unknown cause", Filter{Cause: "none"}, func(r *listed) bool { return false }, true},
		{"unknown task", Filter{Task: "t.none"}, func(r *listed) bool { return false }, true},
		{"text", Filter{Text: "C-0"}, func(r *listed) bool { return strings.HasPrefix(r.ID, "C-0") }, false},
		{"text and task", Filter{Text: "c-", Task: "t.one"}, func(r *listed) bool { return r.ID[0] == 'C' && r.Task == "t.one" }, false},
		{"after", Filter{After: at(2)}, func(r *listed) bool { return between(r, 2, 9) }, true},
		{"before", Filter{Before: at(1)}, func(r *listed) bool { return between(r, 0, 1) }, true},
		{"one time", Filter{After: at(2), Before: at(2)}, func(r *listed) bool { return between(r, 2, 2) }, true},
		{"between times", Filter{After: at(2.5), Before: at(3.5)}, func(r *listed) bool { return between(r, 3, 3) }, true},
		{"times and task", Filter{Task: "t.two", After: at(1), Before: at(2)}, func(r *listed) bool { return r.Task == "t.two" && between(r, 1, 2) }, true},
		{"times and cause", Filter{Cause: one.cause, Before: at(2)}, func(r *listed) bool { return r.cause == one.cause && between(r, 0, 2) }, true},
		{"times, many causes, queue", Filter{Task: "t.three", Queue: "q.ai", After: at(2)}, func(r *listed) bool {
			return r.Task == "t.three" && r.Queue == "q.ai" && between(r, 2, 9)
		}, false},
		{"an empty time", Filter{After: at(3), Before: at(2)}, func(*listed) bool { return false }, true},
	}
	causes := map[string]bool{}
	for _, r := range all {
		if r.Task == "t.three" {
			causes[r.cause] = true
		}
	}
	if len(causes) <= maxLists {
		t.Fatalf("got %d causes of a task, want more than %d", len(causes), maxLists)
	}
	sizes := []int{1, 7, 33, 99, 100, 101, 131, 1000}
	for i, tt := range tests {
		var chosen []listed
		for _, r := range all {
			if tt.want(&r) {
				chosen = append(chosen, r)
			}
		}
		want := keysListed(sorted(chosen))
		if (len(want) == 0) != (tt.name[0] == 'u' || strings.Contains(tt.name, "another") || strings.Contains(tt.name, "empty")) {
			t.Fatalf("%s: %d of the records are meant: the test shows nothing", tt.name, len(want))
		}
		walked := sizes[1:]
		if i%7 == 3 { // takes long
			walked = sizes
		}
		for _, size := range walked {
			if got := b.walk(tt.f, size, nil); !slices.Equal(got, want) {
				t.Errorf("%s: pages of %d: got %d records, want %d: %s", tt.name, size, len(got), len(want), firstDifference(got, want))
			}
		}
		var each []Key
		for _, e := range b.list(tt.f) {
			each = append(each, e.Key)
		}
		if !slices.Equal(each, want) {
			t.Errorf("%s: Each: got %d records, want %d: %s", tt.name, len(each), len(want), firstDifference(each, want))
		}
		n, exact, err := b.store.Size(t.Context(), tt.f)
		if err != nil || exact != tt.exact || exact && n != len(want) {
			t.Errorf("%s: got size %d, exact %v, %v; want %d, %v", tt.name, n, exact, err, len(want), tt.exact)
		}
	}
}

func firstDifference(got, want []Key) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%s is missing at the end", want[i])
		case i >= len(want):
			return fmt.Sprintf("%s is more than wanted", got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("number %d is %s, want %s", i, got[i], want[i])
		}
	}
	return "none"
}

// TestPagesWhileRecordsComeAndGo keeps and discards records between pages: the others are neither
// missed nor doubled.
func TestPagesWhileRecordsComeAndGo(t *testing.T) {
	b := setup(t)
	for name, f := range map[string]Filter{"all": {}, "merged": {Task: "t.one"}, "many causes": {Task: "t.three"}} {
		all := many(t, 400)
		b.keepListed(all)
		var chosen []listed
		for _, r := range all {
			if f.Task == "" || r.Task == f.Task {
				chosen = append(chosen, r)
			}
		}
		order := keysListed(sorted(chosen))
		touched := map[Key]bool{}
		discard := func(k Key) {
			t.Helper()
			touched[k] = true
			if err := b.store.Discard(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		got := b.walk(f, 13, func(seen []Key) {
			n++
			// That at which the next page begins, one before, and the next.
			last := filtered(seen, func(k Key) bool { return slices.Contains(order, k) })
			at := slices.Index(order, last[len(last)-1])
			discard(order[at])
			discard(order[max(at-5, 0)])
			if at+1 < len(order) && n%2 == 0 {
				discard(order[at+1])
			}
			// One at each end, and one of the same millisecond on either side.
			for i, last := range []time.Time{dawn.Add(time.Second), dawn.Add(-time.Second), dawn.Add(2 * time.Millisecond), dawn.Add(2 * time.Millisecond)} {
				r := all[i].Record
				r.ID = []string{"new", "new", "A-new", "z-new"}[i] + fmt.Sprint(n, "-", i)
				r.Last = last
				r.Task = "t.one"
				if f.Task != "" {
					r.Task = f.Task
				}
				touched[r.key()] = true
				b.keep(r)
			}
		})
		if n < 5 {
			t.Errorf("%s: got %d pages, want many", name, n)
		}
		seen := map[Key]int{}
		for _, k := range got {
			if seen[k]++; seen[k] > 1 {
				t.Errorf("%s: %s is listed twice", name, k)
			}
		}
		untouched := func(k Key) bool { return !touched[k] }
		if got, want := filtered(got, untouched), filtered(order, untouched); !slices.Equal(got, want) {
			t.Errorf("%s: got %d records of those that stayed, want %d: %s", name, len(got), len(want), firstDifference(got, want))
		}
		for _, e := range b.entries() {
			if err := b.store.Discard(t.Context(), e.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func filtered(all []Key, is func(Key) bool) (out []Key) {
	for _, k := range all {
		if is(k) {
			out = append(out, k)
		}
	}
	return out
}

// TestPageEnds looks for nothing among many records while Redis is slow: the page ends after a
// moment, with the place to go on.
func TestPageEnds(t *testing.T) {
	b := setup(t)
	all := many(t, 350)
	b.keepListed(all)
	client := b.connect(5)
	client.AddHook(slowPipelines{pageTime})
	slow := New(Config{}, client, b.results, b.marks, nil, b.store.log)
	var found []Key
	var looked, pages int
	for from := (Cursor{}); ; {
		p, err := slow.Page(t.Context(), Filter{Text: all[17].ID}, from, 50)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		looked += p.Looked
		for _, e := range p.Entries {
			found = append(found, e.Key)
		}
		if from = p.Next; from.IsZero() {
			break
		}
		if p.Looked == 0 {
			t.Fatal("got a page that has looked at nothing, want it to get on")
		}
	}
	if pages < 3 || looked != len(all) || !slices.Equal(found, []Key{all[17].key}) {
		t.Errorf("got %v in %d pages, %d records looked at, want the one record, all looked at, in several pages", found, pages, looked)
	}
}

// slowPipelines lets each pipeline take a while.
type slowPipelines struct{ by time.Duration }

func (slowPipelines) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (slowPipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h slowPipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		select {
		case <-time.After(h.by):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return next(ctx, cmds)
	}
}

// asked is how many commands the server has been asked, without INFO.
func (b *bundle) asked() (n int) {
	b.t.Helper()
	stats, err := b.client.Info(b.t.Context(), "commandstats").Result()
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(stats) {
		if _, rest, ok := strings.Cut(line, ":calls="); ok && !strings.HasPrefix(line, "cmdstat_info") {
			count, _, _ := strings.Cut(rest, ",")
			c, _ := strconv.Atoi(count)
			n += c
		}
	}
	return n
}

// TestCostOfLists counts what lists and counts ask Redis: as much of 2,000 records as of 200.
func TestCostOfLists(t *testing.T) {
	b := setup(t)
	template := failure(t, "template")
	var records []Record
	for i := range 2000 {
		r := template
		r.ID, r.Text = fmt.Sprintf("job-%04d", i), word(i%3)
		r.Last = dawn.Add(time.Duration(i) * time.Millisecond)
		records = append(records, r)
	}
	cause := causeOf(&records[0]).ID
	page := func(f Filter, from Cursor) Cursor {
		p, err := b.store.Page(t.Context(), f, from, 50)
		if err != nil || len(p.Entries) != 50 {
			t.Fatalf("got %d records, %v, want 50", len(p.Entries), err)
		}
		return p.Next
	}
	costs := func() map[string]int {
		out := map[string]int{}
		cost := func(name string, do func()) {
			before := b.asked()
			do()
			out[name] = b.asked() - before
		}
		cost("page", func() { page(Filter{}, Cursor{}) })
		next := page(Filter{}, Cursor{})
		cost("second page", func() { page(Filter{}, next) })
		cost("page of three causes", func() { page(Filter{Task: template.Task}, Cursor{}) })
		cost("page of a cause", func() { page(Filter{Cause: cause}, Cursor{}) })
		cost("size", func() { b.store.Size(t.Context(), Filter{}) })
		cost("size of three causes", func() { b.store.Size(t.Context(), Filter{Task: template.Task}) })
		cost("causes", func() { b.store.Causes(t.Context()) })
		cost("count", func() { b.store.Count(t.Context()) })
		cost("found by id", func() { b.store.Find(t.Context(), "job-0000") })
		cost("get", func() { b.store.Get(t.Context(), key("job-0000")) })
		return out
	}
	b.keepMany(records[:200])
	costs() // connects
	few := costs()
	b.keepMany(records[200:])
	lots := costs()
	t.Logf("commands: %v", lots)
	for name, n := range few {
		if lots[name] != n || n > 70 {
			t.Errorf("%s: got %d commands of 200 records, %d of 2,000, want the same, and 70 at most", name, n, lots[name])
		}
	}
}

func TestCursor(t *testing.T) {
	t.Parallel()
	for _, c := range []Cursor{
		{}, {1, "a:0"}, {-62135596800000, "a:0"}, {1700000000000, "a.b:0~0123456789abcdef"}, {0, "a"}, {5, "."}, {5, "한글:0"}, {5, " :0"},
	} {
		if got, err := ParseCursor(c.String()); err != nil || got != c {
			t.Errorf("%q: got %+v, %v", c.String(), got, err)
		}
	}
	for _, rubbish := range []string{
		"a", ".", "1", "1.", ".a:0", "x.a:0", "1e3.a:0", "1,5.a:0", " 1.a:0", "99999999999999999999.a:0", "0x10.a:0", "1_000.a:0", "--1.a:0", "-.a:0",
	} {
		if got, err := ParseCursor(rubbish); err == nil || !strings.Contains(err.Error(), "is no place in the list") {
			t.Errorf("%q: got %+v, %v, want an error", rubbish, got, err)
		}
	}
}

// FuzzCursor reads any text: what is read is written again, and read as the same.
func FuzzCursor(f *testing.F) {
	for _, text := range []string{"", "0.", "1.a:0", "-62135596800000.a:0", "+5.a", "1..", "99999999999999999999.a", "1.\xff", "00.0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCursor(text)
		if err != nil {
			if !c.IsZero() {
				t.Errorf("%q: got %+v beside error %v", text, c, err)
			}
			return
		}
		if c.IsZero() != (text == "") {
			t.Errorf("%q: got the beginning: %v", text, c.IsZero())
		}
		if again, err := ParseCursor(c.String()); err != nil || again != c {
			t.Errorf("%q: got %+v, and read again %+v, %v", text, c, again, err)
		}
	})
}
