package failed

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// pageSize is how many records are read at once.
const pageSize = 100

// Entry is a record as it is listed; its Message is not read, see [Store.Get].
type Entry struct {
	Key Key
	Record
	Note string // why the last attempt to replay it did not go
}

// Filter chooses records; fields that are zero choose all.
type Filter struct {
	Task   string    `json:"task,omitempty"`   // name of the task
	Error  string    `json:"error,omitempty"`  // class of the exception
	Queue  string    `json:"queue,omitempty"`  // where it was taken from
	Reason string    `json:"reason,omitempty"` // why it is kept
	Cause  string    `json:"cause,omitempty"`  // id of a Cause
	User   string    `json:"user,omitempty"`   // its keyword argument user_id
	Text   string    `json:"text,omitempty"`   // part of the error, the id or the arguments, in any case
	After  time.Time `json:"after,omitzero"`   // that failed last after this,
	Before time.Time `json:"before,omitzero"`  // or before this
}

// Match reports whether the filter chooses r, as far as r says: not by its cause.
func (f Filter) Match(r *Record) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	if !is(f.Task, r.Task) || !is(f.Error, r.Error) || !is(f.Queue, r.Queue) || !is(f.Reason, string(r.Reason)) || !is(f.User, r.User) {
		return false
	}
	if !f.After.IsZero() && r.Last.Before(f.After) || !f.Before.IsZero() && r.Last.After(f.Before) {
		return false
	}
	if f.Text == "" {
		return true
	}
	part := strings.ToLower(f.Text)
	return slices.ContainsFunc([]string{r.ID, r.Error, r.Text, r.Args, r.Kwargs, r.Stage}, func(s string) bool {
		return strings.Contains(strings.ToLower(s), part)
	})
}

// Looks reports whether every record has to be looked at, as no index tells which are chosen.
func (f Filter) Looks() bool { return f.Text != "" || f.Queue != "" || f.User != "" }

// bounds are the scores of a filter in timesKey, the later first.
func (f Filter) bounds() (high, low string) {
	high, low = "+inf", "-inf"
	if !f.Before.IsZero() {
		high = strconv.FormatInt(f.Before.UnixMilli(), 10)
	}
	if !f.After.IsZero() {
		low = strconv.FormatInt(ceilMilli(f.After), 10)
	}
	return high, low
}

// ceilMilli is t in Unix milliseconds, rounded up.
func ceilMilli(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// Cursor is a place in the list of records: behind the one of its key. The zero value is the beginning.
type Cursor struct {
	last int64 // Unix milliseconds
	key  Key
}

// IsZero reports whether c is the beginning.
func (c Cursor) IsZero() bool { return c == Cursor{} }

// String returns c for ParseCursor: milliseconds, a dot and the key; "" for the beginning.
func (c Cursor) String() string {
	if c.IsZero() {
		return ""
	}
	return strconv.FormatInt(c.last, 10) + "." + string(c.key)
}

// ParseCursor reads what String has written.
func ParseCursor(text string) (Cursor, error) {
	if text == "" {
		return Cursor{}, nil
	}
	number, key, _ := strings.Cut(text, ".")
	last, err := strconv.ParseInt(number, 10, 64)
	if err != nil || key == "" {
		return Cursor{}, fmt.Errorf("%q is no place in the list: expected milliseconds, a dot and a key, as a page before gave it", text)
	}
	return Cursor{last, Key(key)}, nil
}

// before reports whether c is listed before d.
func (c Cursor) before(d Cursor) bool {
	return c.last > d.last || c.last == d.last && c.key > d.key
}

// Page is a part of the list of records.
type Page struct {
	Entries []Entry
	Next    Cursor // where to go on, zero at the end of the list
	Looked  int    // how many records were looked at
}

// pageTime is how long Page looks at records that the filter does not choose.
const pageTime = 200 * time.Millisecond

// Page returns the records that come after a place, the newest first: as many as asked for, or fewer
// if these are not found in a moment, with Next to go on.
func (s *Store) Page(ctx context.Context, f Filter, from Cursor, size int) (Page, error) {
	var p Page
	began := time.Now()
	err := s.walk(ctx, f, from, size, func(e Entry, chosen bool) bool {
		if len(p.Entries) == size || p.Looked > 0 && p.Looked%pageSize == 0 && time.Since(began) > pageTime {
			p.Next = from
			return false
		}
		p.Looked++
		from = Cursor{e.Last.UnixMilli(), e.Key}
		if chosen {
			p.Entries = append(p.Entries, e)
		}
		return true
	})
	return p, err
}

// Each calls fn with every record that f chooses, the newest first, until fn returns false. Records
// that come meanwhile are not seen, those that go may be.
func (s *Store) Each(ctx context.Context, f Filter, fn func(Entry) bool) error {
	return s.walk(ctx, f, Cursor{}, pageSize, func(e Entry, chosen bool) bool { return !chosen || fn(e) })
}

// walk calls fn with every record of the filter's causes after a place, and whether it is chosen, until fn returns false. It reads
// so many records first, then more at once.
func (s *Store) walk(ctx context.Context, f Filter, from Cursor, first int, fn func(e Entry, chosen bool) bool) error {
	lists, _, err := s.lists(ctx, f)
	if err != nil {
		return err
	}
	for n := min(first, pageSize) + 2; ; n = pageSize { // with the place itself, and one to see whether there are more
		if err := context.Cause(ctx); err != nil {
			return err
		}
		places, err := s.places(ctx, lists, f, from, n)
		if err != nil {
			return fmt.Errorf("list failed jobs: %w", err)
		}
		if len(places) == 0 {
			return nil
		}
		entries, err := s.entries(ctx, places)
		if err != nil {
			return fmt.Errorf("read failed jobs: %w", err)
		}
		for _, e := range entries {
			if !fn(e, f.Match(&e.Record)) {
				return nil
			}
		}
		from = places[len(places)-1]
	}
}

// maxLists is how many causes are listed each by itself. With more all records are looked at.
const maxLists = 32

// lists returns the sorted sets that have the records which a filter may choose. They are exactly
// those if exact is set, but for the times.
func (s *Store) lists(ctx context.Context, f Filter) (keys []string, exact bool, err error) {
	exact = !f.Looks() && len(f.Task) <= 200 && len(f.Error) <= 200 // causes have so much of a name
	switch {
	case f.Cause != "":
		return []string{causeKey(f.Cause)}, exact && f.Task == "" && f.Error == "" && f.Reason == "", nil
	case f.Task == "" && f.Error == "" && f.Reason == "":
		return []string{timesKey}, exact, nil
	}
	known, err := s.client.HGetAll(ctx, causesKey).Result()
	if err != nil {
		return nil, false, fmt.Errorf("look up the causes of failures: %w", err)
	}
	is := func(want, have string) bool { return want == "" || shorten(want, 200) == have }
	for id, doc := range known {
		var c Cause
		switch err := json.Unmarshal([]byte(doc), &c); {
		case err != nil || id == otherCauses.ID:
			exact = false
		case !is(f.Task, c.Task) || !is(f.Error, c.Error) || !is(f.Reason, string(c.Reason)):
			continue
		}
		keys = append(keys, causeKey(id))
	}
	if len(keys) > maxLists {
		return []string{timesKey}, false, nil
	}
	return keys, exact, nil
}

// Size returns how many records a filter chooses. If exact is not set it may be any number: only
// looking at all tells.
func (s *Store) Size(ctx context.Context, f Filter) (n int, exact bool, err error) {
	lists, exact, err := s.lists(ctx, f)
	if err != nil || !exact {
		return 0, false, err
	}
	high, low := f.bounds()
	counts := make([]*redis.IntCmd, len(lists))
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, list := range lists {
			counts[i] = p.ZCount(ctx, list, low, high)
		}
		return nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("count failed jobs: %w", err)
	}
	for _, c := range counts {
		n += int(c.Val())
	}
	return n, true, nil
}

// Oldest returns when the job failed that is kept for longest; ok is false if none is kept.
func (s *Store) Oldest(ctx context.Context) (at time.Time, ok bool, err error) {
	first, err := s.client.ZRangeWithScores(ctx, timesKey, 0, 0).Result()
	if err != nil {
		return at, false, fmt.Errorf("look for the oldest failed job: %w", err)
	}
	if len(first) == 0 {
		return at, false, nil
	}
	return time.UnixMilli(int64(first[0].Score)).UTC(), true, nil
}

// placesScript returns members of a sorted set with their scores, from the highest, beginning with a score at most, and behind a
// member with that score if one is given, whether or not it is there.
//
// KEYS: the set. ARGV: the score, or +inf; the member, or ""; how many.
var placesScript = redis.NewScript(`
local function upTo(a, b) -- by bytes, as in the set: Lua compares by the server's locale
  local from = 1
  while a:sub(from, from + 63) == b:sub(from, from + 63) and from <= #a do from = from + 64 end
  for i = from, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x > y end
  end
  return #a >= #b
end
local at = 0
if ARGV[1] ~= '+inf' then at = redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[1], '+inf') end
if ARGV[2] ~= '' then -- those of one score are in the order of their texts
  local past = at + redis.call('ZCOUNT', KEYS[1], ARGV[1], ARGV[1])
  while at < past do
    local middle = math.floor((at + past) / 2)
    if upTo(redis.call('ZREVRANGE', KEYS[1], middle, middle)[1], ARGV[2]) then at = middle + 1 else past = middle end
  end
end
return redis.call('ZREVRANGE', KEYS[1], at, at + ARGV[3] - 1, 'WITHSCORES')
`)

// places returns the next n places of several lists together.
func (s *Store) places(ctx context.Context, lists []string, f Filter, from Cursor, n int) ([]Cursor, error) {
	high, _ := f.bounds()
	if !from.IsZero() {
		high = strconv.FormatInt(from.last, 10)
	}
	parts := make([]*redis.Cmd, len(lists))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, list := range lists {
			parts[i] = placesScript.Eval(ctx, p, []string{list}, high, string(from.key), n)
		}
		return nil
	})
	if err != nil && len(lists) > 0 {
		return nil, err
	}
	var all []Cursor
	var end Cursor // up to where all lists are known; zero: to their ends
	for _, part := range parts {
		flat, err := part.StringSlice()
		if err != nil {
			return nil, err
		}
		for i := 0; i+1 < len(flat); i += 2 {
			last, err := strconv.ParseFloat(flat[i+1], 64)
			if err != nil {
				return nil, fmt.Errorf("the time of failed job %s is %q: expected milliseconds", flat[i], flat[i+1])
			}
			c := Cursor{int64(math.Round(last)), Key(flat[i])}
			if !f.After.IsZero() && c.last < ceilMilli(f.After) {
				break
			}
			all = append(all, c)
			if i/2 == n-1 && (end.IsZero() || c.before(end)) {
				end = c
			}
		}
	}
	slices.SortFunc(all, func(a, b Cursor) int {
		return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(b.key, a.key))
	})
	if !end.IsZero() {
		all = slices.DeleteFunc(all, func(c Cursor) bool { return end.before(c) })
	}
	return all[:min(n, len(all))], nil
}

// entries reads the records at places. Those that have gone are left out.
func (s *Store) entries(ctx context.Context, places []Cursor) ([]Entry, error) {
	fields := make([]*redis.SliceCmd, len(places))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, c := range places {
			fields[i] = p.HMGet(ctx, recordKey(c.key), fieldRecord, fieldNote)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(places))
	for i, c := range places {
		doc, ok := fields[i].Val()[0].(string)
		if !ok { // gone since, or lost: then it must not be counted any more
			if err := s.forgetLost(ctx, c.key); err != nil {
				return nil, err
			}
			continue
		}
		e := Entry{Key: c.key}
		if err := json.Unmarshal([]byte(doc), &e.Record); err != nil {
			e.Record = Record{ID: c.key.Name(), Text: fmt.Sprintf("%v: %v", errUnreadable, err)}
		}
		e.Last = time.UnixMilli(c.last).UTC()
		if note, ok := fields[i].Val()[1].(string); ok && note != "" {
			e.Note = "not replayed: " + note
		}
		out = append(out, e)
	}
	return out, nil
}

// Find returns the records of a job: by its id, by a record's key, or by
// the beginning of an id if only one job has it. It returns nothing if there is no
// such record.
func (s *Store) Find(ctx context.Context, name string) ([]Key, error) {
	if name == "" {
		return nil, nil
	}
	if there, err := s.client.Exists(ctx, recordKey(Key(name))).Result(); err != nil || there > 0 {
		if err != nil {
			err = fmt.Errorf("look up failed job %s: %w", name, err)
		}
		return []Key{Key(name)}, err
	}
	var found []Key
	err := s.beginning(ctx, name+":", func(k Key) bool {
		if k.Name() == name {
			found = append(found, k)
		}
		return true
	})
	if err != nil || len(found) > 0 {
		return found, err
	}
	var ids []string
	err = s.beginning(ctx, name, func(k Key) bool {
		if id := k.Name(); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		found = append(found, k)
		return len(ids) < 2
	})
	if err == nil && len(ids) > 1 {
		err = fmt.Errorf("%q is the beginning of several ids, such as %s and %s: give more of it", name, ids[0], ids[1])
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// beginning calls fn with the keys that begin so, in the order of their texts, until fn returns false.
func (s *Store) beginning(ctx context.Context, text string, fn func(Key) bool) error {
	for from := "[" + text; ; {
		keys, err := s.client.ZRangeArgs(ctx, redis.ZRangeArgs{
			Key: namesKey, ByLex: true, Start: from, Stop: "(" + text + "\xff", Count: 10 * pageSize,
		}).Result()
		if err != nil {
			return fmt.Errorf("look up failed jobs that begin with %s: %w", text, err)
		}
		for _, k := range keys {
			if !fn(Key(k)) {
				return nil
			}
		}
		if len(keys) < 10*pageSize {
			return nil
		}
		from = "(" + keys[len(keys)-1]
	}
}

// States returns what DB0 says of the jobs, in their order; "" if it says nothing.
func (s *Store) States(ctx context.Context, ids []string) ([]celery.State, error) {
	return s.results.States(ctx, ids)
}
