package results_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/results"
)

// part is the outcome of the header's task number i.
func part(i int, state celery.State, result string) results.Part {
	return results.Part{TaskID: fmt.Sprint("task-", i), Group: "g", Index: &i, State: state, Result: json.RawMessage(result)}
}

func chordStore(t *testing.T) (*results.Store, func(p results.Part, want bool)) {
	t.Helper()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	t.Cleanup(func() { // every key has a TTL
		ctx := context.Background() // the test's own has ended
		keys, err := client.Keys(ctx, "*").Result()
		if err != nil || len(keys) == 0 {
			t.Errorf("got keys %v, %v, want some", keys, err)
		}
		for _, key := range keys {
			if ttl := client.TTL(ctx, key).Val(); ttl < 0 {
				t.Errorf("key %s has no TTL", key)
			}
		}
	})
	return store, func(p results.Part, want bool) {
		t.Helper()
		got, err := store.CountPart(t.Context(), p)
		if err != nil || got != want {
			t.Errorf("part of %s: got complete %v, %v, want %v", p.TaskID, got, err, want)
		}
	}
}

func begin(t *testing.T, s *results.Store, size int) {
	t.Helper()
	if err := s.BeginChord(t.Context(), celery.ChordSize{Group: "g", Size: size}, true); err != nil {
		t.Fatal(err)
	}
}

func TestChordIsCompleteOnce(t *testing.T) {
	t.Parallel()
	store, count := chordStore(t)
	count(part(0, celery.Success, "10"), false) // before the size is known
	begin(t, store, 3)
	count(part(0, celery.Success, "10"), false) // redelivered
	count(part(2, celery.Success, `"셋"`), false)
	count(part(1, celery.Success, "[1, 2]"), true)
	count(part(1, celery.Success, "[1, 2]"), true) // its worker died, and it came again
	count(part(0, celery.Success, "10"), false)    // the body is another's to send
	got, err := store.Header(t.Context(), "g")
	if want := `[10,[1,2],"\uc14b"]`; string(got) != want || err != nil {
		t.Errorf("got header %s, %v, want %s", got, err, want)
	}
	if err := store.ChordDone(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	count(part(1, celery.Success, "[1, 2]"), false)
}

func TestChordGrows(t *testing.T) {
	t.Parallel()
	store, count := chordStore(t)
	begin(t, store, 1)
	if err := store.GrowChord(t.Context(), "g", "added"); err != nil {
		t.Fatal(err)
	}
	count(part(0, celery.Success, "1"), false)
	last := results.Part{TaskID: "added", Group: "g", State: celery.Success, Result: json.RawMessage("2")} // no place: at the end
	count(last, true)
	if got, err := store.Header(t.Context(), "g"); string(got) != "[1,2]" || err != nil {
		t.Errorf("got header %s, %v", got, err)
	}
}

func TestChordFails(t *testing.T) {
	t.Parallel()
	for state, result := range map[celery.State]string{
		celery.Failure: `{"exc_type":"ValueError","exc_message":["boom",7],"exc_module":"builtins"}`,
		celery.Revoked: `{"exc_type":"ValueError","exc_message":["boom",7],"exc_module":"builtins"}`,
	} {
		store, count := chordStore(t)
		begin(t, store, 2)
		count(part(1, state, result), false)
		count(part(0, celery.Success, "1"), true)
		_, err := store.Header(t.Context(), "g")
		var exc *celery.Exception
		if want := "celery.exceptions.ChordError: Dependency task-1 raised ValueError('boom', 7)"; !errors.As(err, &exc) || exc.Error() != want {
			t.Errorf("%s: got %v, want %s", state, err, want)
		}
		if err := store.ChordFailed(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
		count(part(0, celery.Success, "1"), false)
	}
}

// TestNestedHeader has a header with a group in it, whose shape was saved.
func TestNestedHeader(t *testing.T) {
	t.Parallel()
	store, count := chordStore(t)
	begin(t, store, 2)
	shape := &celery.Result{ID: "g", Members: []*celery.Result{
		{ID: "task-0"},
		{ID: "inner", Members: []*celery.Result{{ID: "task-1"}, {ID: "elsewhere"}}},
		{ID: "unknown"},
	}}
	if err := store.SaveGroup(t.Context(), shape); err != nil {
		t.Fatal(err)
	}
	record(t, store, meta(t, "elsewhere", celery.Success, "loaded"))
	count(part(0, celery.Success, "1"), false)
	count(part(1, celery.Success, "2"), true)
	got, err := store.Header(t.Context(), "g")
	if want := `[1,[2,"loaded"],null]`; string(got) != want || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

// TestPartIsPythons compares a member of the sorted set with what json.dumps of
// Python makes of the same part, since workers of Celery before 5.7 tell a part
// that comes again by it.
func TestPartIsPythons(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	for result, want := range map[string]string{
		`{"a":[1,2.5,null,true],"b":"x"}`: `{"a": [1, 2.5, null, true], "b": "x"}`,
		`"안녕 \"q\", 😀\n"`:                 `"\uc548\ub155 \"q\", \ud83d\ude00\n"`,
		`[]`:                              `[]`,
	} {
		client.FlushDB(t.Context())
		if _, err := store.CountPart(t.Context(), part(0, celery.Success, result)); err != nil {
			t.Fatal(err)
		}
		got := client.ZRange(t.Context(), results.GroupKey("g")+".j", 0, -1).Val()
		if want := `[1, "task-0", "SUCCESS", ` + want + `]`; len(got) != 1 || got[0] != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestChordGrowsOnce has the run that adds a part to a chord redelivered: it adds the same part.
func TestChordGrowsOnce(t *testing.T) {
	t.Parallel()
	store, count := chordStore(t)
	grow := func(member string) {
		t.Helper()
		if err := store.GrowChord(t.Context(), "g", member); err != nil {
			t.Fatal(err)
		}
	}
	added := func(member string) results.Part {
		return results.Part{TaskID: member, Group: "g", State: celery.Success, Result: json.RawMessage("2")}
	}
	for life := range 2 { // the same id once more, as of a frozen chord that is applied again
		if err := store.BeginChord(t.Context(), celery.ChordSize{Group: "g", Size: 1}, false); err != nil {
			t.Fatal(err)
		}
		grow("a")
		grow("a")
		grow("b")
		count(part(0, celery.Success, "1"), false)
		count(added("a"), false)
		grow("a")
		count(added("b"), true)
		if got, err := store.Header(t.Context(), "g"); string(got) != "[1,2,2]" || err != nil {
			t.Errorf("life %d: got header %s, %v", life, got, err)
		}
		if err := store.ChordDone(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFreshChord begins a chord whose id had a chord before, which only a first run may.
func TestFreshChord(t *testing.T) {
	t.Parallel()
	store, count := chordStore(t)
	begin(t, store, 1)
	count(part(0, celery.Success, "1"), true)
	if err := store.ChordDone(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	begin(t, store, 1) // redelivered
	count(part(0, celery.Success, "1"), false)
	if err := store.BeginChord(t.Context(), celery.ChordSize{Group: "g", Size: 1}, false); err != nil {
		t.Fatal(err)
	}
	count(part(0, celery.Success, "1"), true)
}

// TestChordAfterAFailedOne begins a chord whose id had a chord before that failed, of which the parts are kept: they are none of this one's.
func TestChordAfterAFailedOne(t *testing.T) {
	t.Parallel()
	store, count := chordStore(t)
	begin(t, store, 2)
	if err := store.GrowChord(t.Context(), "g", "grown"); err != nil {
		t.Fatal(err)
	}
	count(part(0, celery.Failure, `{"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}`), false)
	count(part(1, celery.Success, "1"), false)
	count(results.Part{TaskID: "grown", Group: "g", State: celery.Success, Result: json.RawMessage("2")}, true)
	if err := store.ChordFailed(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	if err := store.BeginChord(t.Context(), celery.ChordSize{Group: "g", Size: 2}, false); err != nil {
		t.Fatal(err)
	}
	count(part(0, celery.Success, "10"), false)
	count(part(1, celery.Success, "20"), true)
	if got, err := store.Header(t.Context(), "g"); string(got) != "[10,20]" || err != nil {
		t.Errorf("got header %s, %v, want that of the second chord", got, err)
	}
}
