package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// waitFor looks again and again until ok, and ends the test if that takes too long.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within a minute", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// atModel reports whether a job shows that the model looks at its picture.
func (b *bundle) atModel(id string) bool {
	raw, err := b.db(2).Get(b.t.Context(), "job:"+id+":progress").Bytes()
	if err != nil {
		return false
	}
	var u update
	return json.Unmarshal(raw, &u) == nil && u.Stage == "ai_vision"
}

// TestOneLookAcrossTheFleet gives one new picture to several workers at once: to 5,
// or to 50 with ONCEOVER_TEST_FULL=1.
func TestOneLookAcrossTheFleet(t *testing.T) {
	b := setup(t)
	b.model.gate.Store(true)
	workers := 5
	if os.Getenv("ONCEOVER_TEST_FULL") == "1" {
		workers = 50
	}
	var jobs []job
	var started []*process
	for i := range workers {
		started = append(started, b.start("worker", "ONCEOVER_CONCURRENCY=1", "ONCEOVER_MINGLE=false", fmt.Sprintf("ONCEOVER_NODE_NAME=w%d@here", i)))
		jobs = append(jobs, analyze("image_url", b.picture("bottle.jpg")))
	}
	for _, w := range started {
		w.wait(`"msg":"ready"`, 1)
	}
	sent := b.client("send", jobs...)
	for _, o := range sent {
		waitFor(t, "job "+o.ID+" waits for the model", func() bool { return b.atModel(o.ID) })
	}
	close(b.model.hold)
	paid := 0
	for _, o := range b.results(sent) {
		if o.State != "SUCCESS" {
			t.Errorf("got %+v", o)
		}
		if o.Value["cached"] == nil {
			paid++
		}
	}
	if n := b.model.vision.Load(); n != 1 || paid != 1 {
		t.Errorf("got %d vision calls and %d paid answers for one picture, want 1 and 1", n, paid)
	}
	b.checkKeys()
}

// TestLookOfAKilledWorker kills the worker that asks the model: the one that waits
// goes on.
func TestLookOfAKilledWorker(t *testing.T) {
	b := setup(t)
	b.model.gate.Store(true)
	first := b.worker("ONCEOVER_CONCURRENCY=1")
	asked := b.client("send", analyze("image_url", b.picture("can.jpg")))
	waitFor(t, "the model is asked", func() bool { return b.model.vision.Load() == 1 })
	b.worker("ONCEOVER_CONCURRENCY=2")
	waits := b.client("send", analyze("image_url", b.picture("can.jpg")))
	waitFor(t, "the second job waits", func() bool { return b.atModel(waits[0].ID) })
	first.signal(syscall.SIGKILL)
	waitFor(t, "the model is asked again", func() bool { return b.model.vision.Load() == 2 })
	close(b.model.hold)
	for _, o := range b.results(append(asked, waits...)) {
		if o.State != "SUCCESS" {
			t.Errorf("got %+v", o)
		}
	}
	if n := b.model.vision.Load(); n != 2 {
		t.Errorf("got %d vision calls, want 2: one died with its worker", n)
	}
}

// TestNearPictures answers from an entry that this fleet wrote, and from one that a
// Python service wrote, for pictures that only look the same.
func TestNearPictures(t *testing.T) {
	b := setup(t)
	hashOf := func(file string) string {
		t.Helper()
		out, err := exec.Command(program, "phash", filepath.Join("../internal/samples/pictures", file)).Output()
		if err != nil {
			t.Fatal(err)
		}
		hash, _, _ := strings.Cut(string(out), " ")
		return hash
	}
	python := `{"waste_type": "paper", "confidence": 0.8, "feedback": "\uc0c1\uc790", "category": "box", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`
	if err := b.db(1).Set(t.Context(), "cache:image:hash:"+hashOf("box.jpg"), python, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	w := b.worker()
	b.client("run", analyze("image_url", b.picture("bottle.jpg")))
	got := b.client("run", analyze("image_url", b.picture("bottle-quality-40.jpg")), analyze("image_url", b.picture("box.jpg")), analyze("image_url", b.picture("box-cropped.jpg")))
	if v := got[0].Value; v["waste_type"] != "plastic" || v["cached"] != "near" || v["usage"] != nil {
		t.Errorf("got %v, want a near answer", v)
	}
	if d, _ := got[0].Value["distance"].(float64); d < 2 || d > 14 || int(d)%2 != 0 {
		t.Errorf("got distance %v, want an even one of 2 to 14", got[0].Value["distance"])
	}
	// What Python wrote answers its own hash; with another picture it cannot be compared.
	if v := got[1].Value; v["waste_type"] != "paper" || v["cached"] != "exact" {
		t.Errorf("got %v, want the answer of Python", v)
	}
	if v := got[2].Value; v["cached"] != nil {
		t.Errorf("got %v, want the model asked", v)
	}
	if n := b.model.vision.Load(); n != 2 {
		t.Errorf("got %d vision calls, want 2", n)
	}
	if !strings.Contains(w.log.String(), `"cache":"near"`) {
		t.Error("no job's log line says that its answer was a near one")
	}
	w.signal(syscall.SIGTERM)
	if code := w.end(); code != 0 {
		t.Errorf("got exit code %d, want 0:\n%s", code, w.log.String())
	}
	b.checkKeys()
	if n := b.db(1).Exists(t.Context(), "cache:stats:"+time.Now().UTC().Format("2006-01-02T15")).Val(); n != 1 {
		t.Error("the statistics were not written when the worker stopped")
	}
}
