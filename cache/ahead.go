package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/phash"
)

// An Ahead is what was read of a picture's entry before it is looked up, in a round trip that is made anyway or beside another one.
type Ahead struct {
	at   time.Time
	keys []string
	wait func(ctx context.Context) ([]item, error) // what there was, in their order
}

// aheadFor is how long what was read stands for what is there: a job may wait for another one with its id.
const aheadFor = time.Second

// read returns what is stored under keys, which a may have. It may be nil.
func (a *Ahead) read(ctx context.Context, c *Cache, keys []string) ([]item, error) {
	if a != nil && slices.Equal(a.keys, keys) && time.Since(a.at) < aheadFor {
		if found, err := a.wait(ctx); err == nil {
			return found, nil
		}
	}
	return c.get(ctx, keys...)
}

// Ahead begins to read the entry of a picture of which only the hash is known, for Query.Ahead. It does not wait. It returns nil if
// the hash can have none.
func (c *Cache) Ahead(h phash.Hash, v Variant) *Ahead {
	key := Key(h, v)
	if key == "" {
		return nil
	}
	ctx := context.Background()
	doc := redis.NewStringCmd(ctx, "getrange", key, 0, maxEntry)
	ttl := redis.NewDurationCmd(ctx, time.Millisecond, "pttl", key)
	asked := c.guard.Ask(doc, ttl)
	return &Ahead{time.Now(), []string{key}, func(ctx context.Context) ([]item, error) {
		if err := asked.Wait(ctx); err != nil {
			return nil, err
		}
		return []item{itemOf(key, doc.Val(), ttl.Val())}, nil
	}}
}

func itemOf(key, doc string, ttl time.Duration) item {
	i := item{key: key}
	if doc != "" {
		i.doc, i.ttl = []byte(doc), ttl
		i.entry, _ = decode(i.doc) // whoever minds looks at doc
	}
	return i
}

// seenScript returns what is known of a file, and the entries at the places that its picture's may have.
//
//	KEYS  what is known of the file, why it is refused, the entry of the file
//	ARGV  how the key of a hash begins, how it ends, how much is read of an entry
//	returns the first two, or false, and the entry of the hash and that of the file, each with its TTL in milliseconds
var seenScript = redis.NewScript(`
local function text(reply) return type(reply) == 'string' and reply end
local known, refused = text(redis.pcall('GET', KEYS[1])), text(redis.pcall('GET', KEYS[2]))
local function entry(key) return text(redis.pcall('GETRANGE', key, 0, ARGV[3])) or '', redis.call('PTTL', key) end
local doc, ttl, own, ownTTL = '', 0, '', 0
if known then
	doc, ttl = entry(ARGV[1] .. string.sub(known, 1, 64) .. ARGV[2])
	own, ownTTL = entry(KEYS[3])
end
return {known, refused, doc, ttl, own, ownTTL}
`)

// Seen tells what is known of a file: the picture, without a View (colours of zeros
// where an earlier version wrote it), or why it has none; nil and nil if neither. With
// the picture comes what was read of its entry in the same round trip, for Query.Ahead; nil on a cluster.
func (c *Cache) Seen(ctx context.Context, d Digest, v Variant) (*Picture, *Refusal, *Ahead, error) {
	p := Picture{Digest: d}
	keys := []string{digestPrefix + d.String(), refusedPrefix + d.String(), p.fileKey(v)}
	if _, cluster := c.client.(*redis.ClusterClient); cluster {
		var known, refused *redis.StringCmd
		err := c.pipeline(ctx, func(p redis.Pipeliner) { known, refused = p.Get(ctx, keys[0]), p.Get(ctx, keys[1]) })
		if err != nil {
			return nil, nil, nil, fmt.Errorf("look up file %s: %w", d, err)
		}
		picture, refusal := seen(d, known.Val(), refused.Val())
		return picture, refusal, nil, nil
	}
	answer, err := c.guard.Run(ctx, seenScript, keys, hashPrefix, v.suffix(), maxEntry)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("look up file %s: %w", d, err)
	}
	reply, err := answer.Slice()
	if err != nil || len(reply) != 6 {
		return nil, nil, nil, fmt.Errorf("look up file %s: got %d values of the script, want 6 (%w)", d, len(reply), err)
	}
	text := func(i int) string { s, _ := reply[i].(string); return s }
	ttl := func(i int) time.Duration {
		n, _ := reply[i].(int64)
		if n < 0 {
			return time.Duration(n) // as go-redis says it
		}
		return time.Duration(n) * time.Millisecond
	}
	picture, refusal := seen(d, text(0), text(1))
	if picture == nil {
		return nil, refusal, nil, nil
	}
	found := []item{itemOf(picture.fileKey(v), text(4), ttl(5))}
	if !picture.Hash.Degenerate() {
		found = append([]item{itemOf(Key(picture.Hash, v), text(2), ttl(3))}, found...)
	}
	a := &Ahead{at: time.Now(), wait: func(context.Context) ([]item, error) { return found, nil }}
	for _, f := range found {
		a.keys = append(a.keys, f.key)
	}
	return picture, nil, a, nil
}

// seen reads what is kept of a file.
func seen(d Digest, known, refused string) (*Picture, *Refusal) {
	if refused != "" {
		var r Refusal
		if err := json.Unmarshal([]byte(refused), &r); err == nil && r.Type != "" {
			return nil, &r
		}
	}
	p := &Picture{Digest: d}
	hash, rest, more := strings.Cut(known, " ")
	colour, like, _ := strings.Cut(rest, " ")
	var err error
	if p.Hash, err = phash.Parse(hash); err == nil && more {
		p.Colour, err = phash.ParseColour(colour)
	}
	if err != nil {
		return nil, nil
	}
	p.Like = parseDigest(like)
	return p, nil
}
