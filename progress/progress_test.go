package progress_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func setup(t *testing.T) (*progress.Store, *redis.Client) {
	t.Helper()
	t.Parallel()
	opt, err := redisretry.Options(testenv.Redis(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(opt)
	t.Cleanup(func() { c.Close() })
	return progress.New(c, zap.NewNop()), c
}

func load(t *testing.T, s *progress.Store, job string) progress.Update {
	t.Helper()
	u, err := s.Load(t.Context(), job)
	if err != nil || u == nil {
		t.Fatalf("load %s: %v, %v", job, u, err)
	}
	return *u
}

func check(t *testing.T, got, want progress.Update) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(progress.Update{}, "UpdatedAt")); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

func TestReport(t *testing.T) {
	s, client := setup(t)
	tr, err := s.Track(t.Context(), "j-1", "t-1", false)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().UTC().Truncate(time.Second)
	if err := tr.Show(t.Context(), 30, "cache", "찾는 중"); err != nil {
		t.Fatal(err)
	}
	raw, err := client.Get(t.Context(), "job:j-1:progress").Result()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(raw), &doc); err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse("2006-01-02T15:04:05", doc["updated_at"].(string))
	if err != nil || at.Before(before) || at.After(time.Now().UTC()) {
		t.Errorf("got updated_at %v, want now as naive UTC in whole seconds", doc["updated_at"])
	}
	delete(doc, "updated_at")
	want := map[string]any{"progress": 30.0, "stage": "cache", "message": "찾는 중"}
	if diff := cmp.Diff(want, doc); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	if ttl := client.TTL(t.Context(), "job:j-1:progress").Val(); ttl <= 59*time.Minute || ttl > time.Hour {
		t.Errorf("got TTL %v, want 1 h", ttl)
	}
}

func TestProgressNeverFalls(t *testing.T) {
	s, _ := setup(t)
	ctx := t.Context()
	track := func(resume bool) *progress.Tracker {
		t.Helper()
		tr, err := s.Track(ctx, "j", "", resume)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	report := func(tr *progress.Tracker, n int, stage string) {
		t.Helper()
		if err := tr.Show(ctx, n, stage, ""); err != nil {
			t.Fatal(err)
		}
	}
	first := track(false)
	report(first, 50, "ai_vision")
	report(first, 40, "preprocess")
	check(t, load(t, s, "j"), progress.Update{Progress: 50, Stage: "preprocess"})

	second := track(true) // a retry
	report(second, 10, "download")
	check(t, load(t, s, "j"), progress.Update{Progress: 50, Stage: "download"})
	if err := second.Fail(ctx, "실패", "ValueError: x"); err != nil {
		t.Fatal(err)
	}
	check(t, load(t, s, "j"), progress.Update{Progress: 50, Stage: "failed", Message: "실패", Error: "ValueError: x"})

	report(track(true), 100, "done") // a straggler
	check(t, load(t, s, "j"), progress.Update{Progress: 50, Stage: "failed", Message: "실패", Error: "ValueError: x"})
	if err := second.Finish(ctx, "done", ""); err != nil {
		t.Fatal(err)
	}
	report(track(true), 10, "download") // redelivered after the end
	check(t, load(t, s, "j"), progress.Update{Progress: 100, Stage: "done"})
	report(track(false), 0, "download")
	check(t, load(t, s, "j"), progress.Update{Progress: 0, Stage: "download"})
}

func TestTrackSurvivesAForeignValue(t *testing.T) {
	s, client := setup(t)
	for _, value := range []string{"half a documen", "", "[]", "7", `{"progress":"x"}`, `{"progress":1e999}`, `{"progress":nan}`, `{"progress":-3}`, `{"stage":"x"}`} {
		client.Set(t.Context(), progress.Key("j"), value, time.Minute)
		report(t, track(t, s, "j", true), 10, "download")
		check(t, load(t, s, "j"), progress.Update{Progress: 10, Stage: "download", Message: "m"})
	}
	client.Del(t.Context(), progress.Key("j"))
	client.LPush(t.Context(), progress.Key("j"), "x")
	report(t, track(t, s, "j", true), 10, "download")
	check(t, load(t, s, "j"), progress.Update{Progress: 10, Stage: "download", Message: "m"})
}

func track(t *testing.T, s *progress.Store, jobID string, resume bool) *progress.Tracker {
	t.Helper()
	tr, err := s.Track(t.Context(), jobID, "task of "+jobID, resume)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func report(t *testing.T, tr *progress.Tracker, n int, stage string) {
	t.Helper()
	if err := tr.Show(t.Context(), n, stage, "m"); err != nil {
		t.Fatal(err)
	}
}

func TestLoadNothing(t *testing.T) {
	s, _ := setup(t)
	if u, err := s.Load(t.Context(), "none"); u != nil || err != nil {
		t.Errorf("got %v, %v, want nil, nil", u, err)
	}
}

// TestCountRun counts the runs of a task, and forgets them with its marks.
// TestLoadAll reads the updates of many jobs at once: also beside some that have none, or one that cannot be read.
func TestLoadAll(t *testing.T) {
	s, client := setup(t)
	for i, id := range []string{"a", "b"} {
		tr, err := s.Track(t.Context(), id, id, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Show(t.Context(), 10*(i+1), "stage", "message"); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Set(t.Context(), "job:damaged:progress", "{", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	got, err := s.LoadAll(t.Context(), []string{"b", "none", "damaged", "a"})
	if err != nil || len(got) != 4 || got[0] == nil || got[0].Progress != 20 || got[1] != nil || got[2] != nil || got[3] == nil || got[3].Progress != 10 {
		t.Errorf("got %v, %v", got, err)
	}
	if none, err := s.LoadAll(t.Context(), nil); err != nil || len(none) != 0 {
		t.Errorf("got %v, %v of no jobs", none, err)
	}
}

func TestCountRun(t *testing.T) {
	s, c := setup(t)
	ctx := t.Context()
	for _, tt := range []struct {
		run  string
		want int
	}{{"a", 1}, {"b", 2}, {"b", 2}, {"c", 3}} { // b asks again, as the answer was lost
		if n, err := s.CountRun(ctx, "t", tt.run); n != tt.want || err != nil {
			t.Fatalf("%s: got %d, %v, want %d", tt.run, n, err, tt.want)
		}
	}
	for range 2 {
		if err := s.NotBegun(ctx, "t", "b"); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.CountRun(ctx, "t", "d"); n != 3 || err != nil {
		t.Errorf("got %d, %v after one was taken back, want 3", n, err)
	}
	if ttl := c.TTL(ctx, "job:t:runs").Val(); ttl <= 0 {
		t.Errorf("got TTL %v", ttl)
	}
	for _, tt := range []struct {
		state celery.State
		left  int64 // keys
	}{{"", 0}, {celery.Failure, 0}, {celery.Revoked, 0}, {celery.Success, 3}, {celery.Retried, 3}} {
		id := "t-" + string(tt.state)
		if _, err := s.CountRun(ctx, id, "a"); err != nil {
			t.Fatal(err)
		}
		since, _, err := s.Begin(ctx, id, "a", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if tt.state != "" {
			if theirs, err := s.Record(ctx, celery.Meta{TaskID: id, Status: tt.state}, since); theirs.Raw != "" || err != nil {
				t.Fatalf("got %q, %v, want %s recorded", theirs.Raw, err, tt.state)
			}
		}
		if was, err := s.ResetMarks(ctx, id); was != tt.state || err != nil {
			t.Errorf("got %q, %v, want %q", was, err, tt.state)
		}
		if n := c.Exists(ctx, "job:"+id+":runs", "job:"+id+":finished", "job:"+id+":run").Val(); n != tt.left {
			t.Errorf("%q: got %d keys left, want %d", tt.state, n, tt.left)
		}
	}
}

// TestReset shows a job as not begun, if anything was shown of it.
func TestReset(t *testing.T) {
	s, c := setup(t)
	ctx := t.Context()
	if err := s.Reset(ctx, "a", "queued", "waiting"); err != nil {
		t.Fatal(err)
	}
	if n := c.Exists(ctx, progress.Key("a")).Val(); n != 0 {
		t.Error("something is shown of a job that showed nothing before")
	}
	tracker, err := s.Track(ctx, "a", "a", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := tracker.Show(ctx, 60, "ai_vision", "looking"); err != nil {
		t.Fatal(err)
	}
	if err := s.Reset(ctx, "a", "queued", "waiting"); err != nil {
		t.Fatal(err)
	}
	check(t, load(t, s, "a"), progress.Update{Progress: 0, Stage: "queued", Message: "waiting"})
	if ttl := c.TTL(ctx, progress.Key("a")).Val(); ttl <= 0 {
		t.Errorf("got TTL %v", ttl)
	}
}
