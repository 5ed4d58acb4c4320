package failed

import (
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
)

// TestAudit notes changes and lists them, the last one first.
func TestAudit(t *testing.T) {
	b := setup(t)
	if all, err := b.store.Changes(t.Context(), 10); err != nil || len(all) != 0 {
		t.Errorf("got %+v, %v, want no changes yet", all, err)
	}
	began := b.client.Time(t.Context()).Val().Truncate(time.Millisecond)
	for i := range 5 {
		if err := b.store.Audit(t.Context(), Change{By: "kim", Action: "replay", Target: "job " + strconv.Itoa(i), Outcome: "replayed"}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.store.Changes(t.Context(), 3)
	if err != nil || len(all) != 3 {
		t.Fatalf("got %d changes, %v, want the latest 3", len(all), err)
	}
	ended := b.client.Time(t.Context()).Val()
	for i, c := range all {
		if c.By != "kim" || c.Action != "replay" || c.Target != "job "+strconv.Itoa(4-i) || c.Outcome != "replayed" {
			t.Errorf("got %+v as change %d from the end", c, i)
		}
		if c.At.Before(began) || c.At.After(ended) {
			t.Errorf("got the time %v, want one from %v to %v", c.At, began, ended)
		}
	}
}

// TestAuditLength has more changes than are kept.
func TestAuditLength(t *testing.T) {
	b := setup(t)
	_, err := b.client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range auditLength + 500 {
			p.XAdd(t.Context(), &redis.XAddArgs{Stream: auditKey, Values: []string{"by", "lee", "target", strconv.Itoa(i)}})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.Audit(t.Context(), Change{By: "kim", Action: "pause"}); err != nil {
		t.Fatal(err)
	}
	// Redis keeps whole nodes of the stream, of 100 entries each.
	if n := b.client.XLen(t.Context(), auditKey).Val(); n < auditLength || n > auditLength+200 {
		t.Errorf("got %d changes kept, want about %d", n, auditLength)
	}
	if all, err := b.store.Changes(t.Context(), 1); err != nil || len(all) != 1 || all[0].By != "kim" || all[0].Action != "pause" {
		t.Errorf("got %+v, %v, want the last change", all, err)
	}
}

// TestAuditLongTexts notes long texts, and some that are no text.
func TestAuditLongTexts(t *testing.T) {
	b := setup(t)
	long := strings.Repeat("김", 5000)
	if err := b.store.Audit(t.Context(), Change{By: long, Action: "replay", Target: long, Outcome: long}); err != nil {
		t.Fatal(err)
	}
	all, err := b.store.Changes(t.Context(), 1)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	for what, text := range map[string]string{"by": all[0].By, "target": all[0].Target, "outcome": all[0].Outcome} {
		most := 1000
		if what == "by" {
			most = 200
		}
		if len(text) > most+40 || !strings.HasPrefix(text, "김김") || !strings.Contains(text, "bytes more") || !utf8.ValidString(text) {
			t.Errorf("got %s of %d bytes, want it cut to %d: %.60q", what, len(text), most, text)
		}
	}
}

// TestAuditRedisAway says what was not noted.
func TestAuditRedisAway(t *testing.T) {
	b := setup(t)
	b.server.Kill()
	err := b.store.Audit(t.Context(), Change{By: "kim", Action: "pause"})
	if err == nil || !strings.Contains(err.Error(), "note that kim has asked for pause") {
		t.Errorf("got %v, want an error that says what was not noted", err)
	}
}
