package eval

import (
	"bufio"
	"context"
	"fmt"
	"image/color"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The variables of a child process that runs an evaluation and is killed.
const (
	childURL     = "ONCEOVER_TEST_EVAL_URL"
	childLabels  = "ONCEOVER_TEST_EVAL_LABELS"
	childResults = "ONCEOVER_TEST_EVAL_RESULTS"
)

// TestChild is no test but the process that [TestKill] kills.
func TestChild(t *testing.T) {
	url := os.Getenv(childURL)
	if url == "" {
		return // of the parent
	}
	items := testItems(t, os.Getenv(childLabels), 0, nil)
	r := openResults(t, os.Getenv(childResults), true)
	fmt.Println("child begins")
	err := Run(context.Background(), context.Background(), Config{Models: []Model{testModel(t, url, "m")}, Items: items, Pictures: testPictures,
		Results: r, Concurrency: 3, MaxCost: 1_000_000})
	fmt.Println("child ends:", err)
}

// TestKill kills a run at each of some calls, in the middle of the call or right after its answer, goes on with it, and
// counts: no picture is paid for twice, and every picture is asked about or known to be lost.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	items := testItems(t, dir, 7, map[string]color.RGBA{"red": red, "green": green, "blue": blue})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lostInAll := 0
	for _, tt := range []struct {
		at    int
		after bool // the call is answered when the process is killed
	}{{1, false}, {1, true}, {2, false}, {5, false}, {9, true}, {20, false}, {21, true}} {
		e := newEndpoint(t)
		path := filepath.Join(t.TempDir(), "results.jsonl")
		cmd := exec.Command(exe, "-test.run=^TestChild$", "-test.v")
		cmd.Env = append(os.Environ(), childURL+"="+e.URL, childLabels+"="+dir, childResults+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		reached, killed := make(chan struct{}), make(chan struct{})
		e.holdCalls(func(n int) {
			if n == tt.at {
				close(reached)
			}
			if n >= tt.at && !tt.after {
				<-killed
			}
		})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := make(chan string, 1)
		go func() { // ends with the child's output
			var all strings.Builder
			for s := bufio.NewScanner(out); s.Scan(); {
				all.WriteString(s.Text() + "\n")
			}
			said <- all.String()
		}()
		select {
		case <-reached:
		case text := <-said:
			select {
			case <-reached: // its last call
				said <- text
			default:
				t.Fatalf("the child ended early:\n%s", text)
			}
		}
		if err := cmd.Process.Kill(); err != nil { // SIGKILL
			t.Fatal(err)
		}
		text := <-said
		_ = cmd.Wait() // it was killed
		close(killed)

		before, most := e.total()
		if most != 1 || before < tt.at || strings.Contains(text, "child ends") && !tt.after {
			t.Fatalf("at call %d: got %d calls, %d for one picture:\n%s", tt.at, before, most, text)
		}
		e.holdCalls(nil)
		m := testModel(t, e.URL, "m")
		r := openResults(t, path, true)
		lost := outcomes(r, items, m)[Lost]
		known := outcomes(r, items, m)[Answered]
		if lost > 3 || known+lost < before {
			t.Errorf("at call %d: %d calls, of which the file knows %d answers and %d lost, want all of them and at most 3 lost", tt.at, before, known, lost)
		}
		if !tt.after && lost < 1 {
			t.Errorf("at call %d: nothing is lost, and the call was in flight", tt.at)
		}
		if spent := r.Spent(); spent < int64(before)*callCost {
			t.Errorf("at call %d: the file says that %d were spent, of %d that may have been", tt.at, spent, before*callCost)
		}
		lostInAll += lost
		cfg := Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 3}
		if err := Run(t.Context(), t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		all, most := e.total()
		if got := outcomes(r, items, m); most != 1 || got[Answered]+got[Lost] != len(items) || got[Lost] != lost || all < got[Answered] {
			t.Errorf("at call %d: gone on with: got %d calls, %d for one picture, %v, want no picture paid for twice and %d lost", tt.at, all, most, got, lost)
		}
		cfg.RetryLost = true
		if err := Run(t.Context(), t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		again, _ := e.total()
		if got := outcomes(r, items, m); got[Answered] != len(items) || again != all+lost {
			t.Errorf("at call %d: with the lost ones: got %v after %d calls, want all after %d", tt.at, got, again, all+lost)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d pictures were lost in all", lostInAll)
}
