package progress_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"onceover/progress"
)

// step is something that one of two runs of a job does.
type step struct {
	run  int
	name string
	do   func(t *testing.T, tr *progress.Tracker)
}

func steps(run int, end string) []step {
	s := []step{
		{run, "10", func(t *testing.T, tr *progress.Tracker) { report(t, tr, 10, "download") }},
		{run, "90", func(t *testing.T, tr *progress.Tracker) { report(t, tr, 90, "store") }},
	}
	switch end {
	case "finish":
		s = append(s, step{run, end, func(t *testing.T, tr *progress.Tracker) {
			if err := tr.Finish(t.Context(), "done", "m"); err != nil {
				t.Fatal(err)
			}
		}})
	case "fail":
		s = append(s, step{run, end, func(t *testing.T, tr *progress.Tracker) {
			if err := tr.Fail(t.Context(), "m", "why"); err != nil {
				t.Fatal(err)
			}
		}})
	}
	return s
}

// orders returns every order in which a and b can run, each in its own.
func orders(a, b []step) [][]step {
	if len(a) == 0 || len(b) == 0 {
		return [][]step{append(slices.Clone(a), b...)}
	}
	var all [][]step
	for _, rest := range orders(a[1:], b) {
		all = append(all, append([]step{a[0]}, rest...))
	}
	for _, rest := range orders(a, b[1:]) {
		all = append(all, append([]step{b[0]}, rest...))
	}
	return all
}

// TestTwoRuns has a run that was interrupted, and its redelivery, which ends the job, in every
// order: the number never falls, and the end stays, whatever the other still reports.
func TestTwoRuns(t *testing.T) {
	s, _ := setup(t)
	for _, end := range []string{"finish", "fail"} {
		for i, order := range orders(steps(0, ""), steps(1, end)) {
			job := fmt.Sprint(end, i)
			runs := []*progress.Tracker{track(t, s, job, false), track(t, s, job, true)}
			shown, ended, names := 0, false, ""
			for _, st := range order {
				names += fmt.Sprintf(" run %d: %s;", st.run, st.name)
				st.do(t, runs[st.run])
				u := load(t, s, job)
				ended = ended || st.name == end
				if u.Progress < shown {
					t.Errorf("%s the number fell from %d to %d", names, shown, u.Progress)
				}
				if over := u.Progress == 100 || u.Stage == "failed"; over != ended {
					t.Errorf("%s got %+v, want the end shown: %t", names, u, ended)
				}
				shown = u.Progress
			}
		}
	}
}

// TestManyRuns has runs that report while one of them ends the job.
func TestManyRuns(t *testing.T) {
	s, _ := setup(t)
	for i := range 10 {
		job := fmt.Sprint(i)
		report(t, track(t, s, job, false), 0, "begin")
		var runs sync.WaitGroup
		for run := range 8 {
			tr := track(t, s, job, true)
			runs.Go(func() {
				for n := range 20 {
					if err := tr.Report(t.Context(), n*5, "ai_vision", "m"); err != nil {
						t.Error(err)
					}
					if run == 3 && n == 10 {
						if err := tr.Finish(t.Context(), "done", "m"); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		runs.Wait()
		check(t, load(t, s, job), progress.Update{Progress: 100, Stage: "done", Message: "m"})
	}
}

// TestAfterTheEnd has what may replace an end: a run that begins from the start, a reset, and
// another end. A job that failed with 100 shown of an earlier life does not show 100.
func TestAfterTheEnd(t *testing.T) {
	s, _ := setup(t)
	ctx := t.Context()
	old := track(t, s, "j", false)
	report(t, old, 50, "ai_vision")
	if err := old.Finish(ctx, "done", "m"); err != nil {
		t.Fatal(err)
	}
	if err := track(t, s, "j", true).Fail(ctx, "m", "why"); err != nil {
		t.Fatal(err)
	}
	check(t, load(t, s, "j"), progress.Update{Progress: 0, Stage: "failed", Message: "m", Error: "why"})
	if err := s.Reset(ctx, "j", "queued", "m"); err != nil {
		t.Fatal(err)
	}
	report(t, track(t, s, "j", true), 30, "cache") // a replay
	check(t, load(t, s, "j"), progress.Update{Progress: 30, Stage: "cache", Message: "m"})
	if err := old.Finish(ctx, "done", "m"); err != nil {
		t.Fatal(err)
	}
	fresh, err := s.Track(ctx, "j", "another task", false)
	if err != nil {
		t.Fatal(err)
	}
	report(t, fresh, 20, "hash")
	report(t, fresh, 10, "download")
	check(t, load(t, s, "j"), progress.Update{Progress: 20, Stage: "download", Message: "m"})
}
