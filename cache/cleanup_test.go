package cache

import (
	"strings"
	"testing"
	"time"

	"onceover/phash"
)

// TestCleanup finds entries that have no TTL and values that are no analyses.
func TestCleanup(t *testing.T) {
	c, client := setup(t)
	ctx := t.Context()
	r := random()
	kept, undated, damaged := hashPrefix+good, Key(randomHash(r), Variant{}), Key(randomHash(r), Variant{Lang: "en"})
	store(t, c, picture(hash(t, good)), bottle)
	flat := picture(phash.Hash{}).Key(Variant{})
	for key, value := range map[string]string{undated: `{"waste_type":"can"}`, damaged: `"text"`, flat: canByPython} {
		check(t, client.Set(ctx, key, value, 0).Err())
	}
	others := []string{"other", "cache:image:hash:of-somebody-else", "cache:image:hash:" + strings.ToUpper(good), "cache:image:digest:" + good, "cache:image:refused:" + good}
	for _, key := range others {
		check(t, client.Set(ctx, key, "of somebody else", time.Hour).Err())
	}
	check(t, client.LPush(ctx, "cache:image:hash:list", 1).Err())
	client.Expire(ctx, "cache:image:hash:list", time.Hour)
	for range 1200 { // more than a step of the scan
		check(t, client.Set(ctx, Key(randomHash(r), Variant{}), canByPython, time.Hour).Err())
	}
	dead := randomHash(r)
	check(t, client.Set(ctx, logKey(hourOf(time.Now())-5), logOf(dead), logTTL).Err())
	got, err := c.Cleanup(ctx)
	if want := (Cleaned{Scanned: 1204, Dated: 2, Removed: 1, Records: 1}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	lives(t, client, undated, TTL)
	lives(t, client, flat, TTL)
	lives(t, client, kept, TTL)
	if n := client.Exists(ctx, append(others, kept, undated, flat, damaged)...).Val(); n != 8 {
		t.Errorf("got %d of the nine keys, want all but the damaged one", n)
	}
	if e, err := c.Get(ctx, undated); err != nil || e == nil {
		t.Errorf("got %v, %v, want the entry", e, err)
	}
	if got, err := c.Cleanup(ctx); err != nil || got.Dated+got.Removed+got.Records != 0 || got.Scanned != 1203 {
		t.Errorf("got %+v, %v, want nothing left to do", got, err)
	}
}
