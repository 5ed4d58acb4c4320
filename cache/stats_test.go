package cache

import (
	"math"
	"testing"
	"time"

	"onceover/internal/testenv"
	"onceover/phash"
)

// TestStats counts over two processes and three days.
func TestStats(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	k := ticking(c, other)
	k.at = k.at.UTC().Truncate(24 * time.Hour).Add(12*time.Hour + 30*time.Minute)
	start := k.at
	r := random()
	a, b, derived := picture(randomHash(r)), picture(randomHash(r)), picture(randomHash(r))
	flat := picture(phash.Hash{})
	paid := Entry{Origin: Origin{CostMicroUSD: 1500}}
	copied := paid
	copied.DerivedFrom = a.Hash.String()

	c.Record(a, Answer{Entry: paid, Kind: Fresh})
	c.Record(a, Answer{Entry: paid, Kind: Exact})
	c.Record(derived, Answer{Entry: copied, Kind: Exact})
	other.Record(b, Answer{Entry: paid, Kind: Near, Near: 4})
	check(t, c.Flush(t.Context()))
	check(t, other.Flush(t.Context()))
	k.at = start.Add(time.Hour)
	c.Record(a, Answer{Entry: paid, Kind: Shared})
	k.at = start.Add(24 * time.Hour) // not written before, and still counted in its hour
	c.Record(a, Answer{Entry: paid, Kind: Exact})
	c.Record(flat, Answer{Kind: Exact})
	c.Record(flat, Answer{Kind: Exact})
	check(t, c.Flush(t.Context()))
	check(t, c.Flush(t.Context()))
	k.at = start.Add(48 * time.Hour)

	s, err := other.Stats(t.Context(), 49, 3)
	check(t, err)
	if len(s.Hours) != 49 || !s.Hours[0].Hour.Equal(start.Truncate(time.Hour)) || !s.Hours[48].Hour.Equal(k.at.Truncate(time.Hour)) {
		t.Fatalf("got %d hours, want 49 from %v on", len(s.Hours), start)
	}
	for i, want := range map[int]Hour{
		0:  {Exact: 2, Near: 1, Missed: 1, SavedMicroUSD: 4500, SpentMicroUSD: 1500},
		1:  {Shared: 1, SavedMicroUSD: 1500},
		2:  {},
		24: {Exact: 3, SavedMicroUSD: 1500},
		48: {},
	} {
		want.Hour = s.Hours[i].Hour
		is(t, s.Hours[i], want)
	}
	if h := s.Hours[0]; h.Hits() != 3 || h.Jobs() != 4 {
		t.Errorf("got %d hits of %d jobs, want 3 of 4", h.Hits(), h.Jobs())
	}
	day := func(n int) string { return start.AddDate(0, 0, n).Format("2006-01-02") }
	is(t, s.Days, []Day{{day(0), 3}, {day(1), 2}, {day(2), 0}})
	is(t, s.Top, []Hot{{a.Hash.String(), 4}, {flat.Digest.String(), 2}, {b.Hash.String(), 1}})
	s, err = c.Stats(t.Context(), 1, 3)
	check(t, err)
	if len(s.Hours) != 1 || len(s.Days) != 1 || len(s.Top) != 0 {
		t.Errorf("got %+v, want the present hour and day alone", s)
	}
	for hours, want := range map[int]int{-1: 1, 0: 1, 10_000: 168} {
		if s, err := c.Stats(t.Context(), hours, 0); err != nil || len(s.Hours) != want || len(s.Top) != 0 {
			t.Errorf("%d: got %d hours, %v, want %d", hours, len(s.Hours), err, want)
		}
	}
	for _, key := range []string{statsPrefix + start.Format("2006-01-02T15"), uniquePrefix + day(0), topPrefix + day(0)} {
		lives(t, client, key, TTL+25*time.Hour)
	}
}

// TestUniqueAndTop counts 10,000 pictures, and more.
func TestUniqueAndTop(t *testing.T) {
	c, client := setup(t)
	ticking(c)
	all := randomHashes(maxTop + 500)
	exact := Answer{Kind: Exact}
	for i, h := range all[:maxTop] {
		for range 1 + i%3 {
			c.Record(picture(h), exact)
		}
	}
	check(t, c.Flush(t.Context()))
	s, err := c.Stats(t.Context(), 1, maxTop+1)
	check(t, err)
	if got := float64(s.Days[0].Unique); math.Abs(got-maxTop) > 0.02*maxTop {
		t.Errorf("got %v different pictures, want %d within 2 %%", got, maxTop)
	}
	if len(s.Top) != maxTop || s.Top[0].Hits != 3 || s.Top[maxTop-1].Hits != 1 {
		t.Errorf("got %d pictures, want %d from 3 hits to 1", len(s.Top), maxTop)
	}
	for i := 1; i < len(s.Top); i++ {
		if a, b := s.Top[i-1], s.Top[i]; a.Hits < b.Hits || a.Hits == b.Hits && a.Picture > b.Picture {
			t.Fatalf("got %v before %v, want the most hit first", a, b)
		}
	}
	for _, h := range all[maxTop:] {
		for range 9 {
			c.Record(picture(h), exact)
		}
	}
	check(t, c.Flush(t.Context()))
	key := topPrefix + c.now().UTC().Format(dayLayout)
	if n := client.ZCard(t.Context(), key).Val(); n != maxTop {
		t.Errorf("got %d pictures kept, want %d", n, maxTop)
	}
	s, err = c.Stats(t.Context(), 1, 501)
	check(t, err)
	if s.Top[499].Hits != 9 || s.Top[500].Hits != 3 {
		t.Errorf("got %d and %d hits, want 9 and 3", s.Top[499].Hits, s.Top[500].Hits)
	}
}

// TestStatsOfAnyForm reads counters that somebody else has written.
func TestStatsOfAnyForm(t *testing.T) {
	c, client := setup(t)
	k := ticking(c)
	hour, day := k.at.UTC().Format(hourLayout), k.at.UTC().Format(dayLayout)
	client.HSet(t.Context(), statsPrefix+hour, "exact", "many", "near", 2, "unknown", 3)
	client.Set(t.Context(), topPrefix+day, "x", time.Hour)
	client.Set(t.Context(), uniquePrefix+day, "x", time.Hour)
	client.Expire(t.Context(), statsPrefix+hour, time.Hour)
	s, err := c.Stats(t.Context(), 1, 5)
	if err != nil || s.Hours[0].Exact != 0 || s.Hours[0].Near != 2 || len(s.Top) != 0 || s.Days[0].Unique != 0 {
		t.Errorf("got %+v, %v, want what can be read", s, err)
	}
	c.Record(picture(hash(t, good)), Answer{Kind: Near})
	if err := c.Flush(t.Context()); err == nil {
		t.Error("got no error, want the wrong types told")
	}
	if s, err := c.Stats(t.Context(), 1, 5); err != nil || s.Hours[0].Near != 3 {
		t.Errorf("got %+v, %v, want the rest counted", s, err)
	}
}

// TestFlushDoesNotBlock loses the connection: what was counted is lost, no time is,
// and nothing is counted twice.
func TestFlushDoesNotBlock(t *testing.T) {
	c, _, server := setupServer(t)
	proxy := testenv.NewProxy(t, server.Addr())
	far, _ := join(t, proxy.Addr()+"?read_timeout=300ms")
	p := picture(hash(t, good))
	far.Record(p, Answer{Kind: Exact})
	check(t, far.Flush(t.Context()))
	for _, lose := range []func(){proxy.Pause, proxy.Cut} {
		lose()
		far.Record(p, Answer{Kind: Exact})
		start := time.Now()
		if err := far.Flush(t.Context()); err == nil {
			t.Error("got no error, want one")
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("got %v, want it to give up", took)
		}
		proxy.Restore()
	}
	check(t, far.Flush(t.Context()))
	far.Record(p, Answer{Kind: Exact})
	check(t, far.Flush(t.Context()))
	if n := jobs(t, c); n < 2 || n > 4 { // what was under way when it stalled may have arrived
		t.Errorf("got %d jobs counted, want 2 to 4", n)
	}
}

func TestRecordMakesNoRoundTrip(t *testing.T) {
	c, client := setup(t)
	commands := count(client)
	for i := range 100 {
		c.Record(picture(randomHash(random())), Answer{Kind: []Kind{Exact, Near, Fresh}[i%3]})
	}
	if trips, _ := commands.take(); trips != 0 {
		t.Errorf("got %d round trips, want none", trips)
	}
	check(t, c.Flush(t.Context()))
	if trips, names := commands.take(); trips != 1 {
		t.Errorf("got %d round trips, %v, want 1", trips, names)
	}
}
