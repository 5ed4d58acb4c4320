// Package cache keeps the analyses of pictures (DB1) in a form that Python
// services read and write too, so that a model is asked about a picture once.
//
// Start with [Cache]: [Cache.Lookup] finds the analysis of a picture or of one
// that looks the same, [Cache.Fill] has it made once however many jobs and
// processes ask for it. An analysis is kept under the picture's perceptual
// hash; where that says too little (see phash.Hash.Degenerate), or another picture
// of an equal hash came first, under the SHA-256 of the file. Whether two pictures
// show the same is for package verify to say.
//
// What it promises: a lost key of any kind costs a vision call and nothing else;
// every key expires; the search for near pictures makes no round trip unless there is a
// candidate. docs/near-duplicates.md says what counts as near, and
// docs/decisions/0006-near-duplicates.md why it is found as it is.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/phash"
	"onceover/phash/verify"
)

// TTL is how long an entry is kept.
const TTL = 7 * 24 * time.Hour

// timeLayout is that of analyzed_at: UTC without offset, whole seconds.
const timeLayout = "2006-01-02T15:04:05"

// Entry is a cached analysis. The first six fields are the contract with
// Python services, in this order, and are always there: "", 0 and false where the
// schema of the answers has no field of that name. An entry with only these is
// complete. It is comparable.
type Entry struct {
	WasteType  string  `json:"waste_type"`
	Confidence float64 `json:"confidence"` // 0 to 1
	Feedback   string  `json:"feedback"`
	Category   string  `json:"category"`
	Recyclable bool    `json:"recyclable"`
	AnalyzedAt string  `json:"analyzed_at"` // UTC without offset, whole seconds

	More More `json:"-"` // the answer's further fields, which stand beside these in JSON

	Model         string `json:"model,omitempty"`          // who answered; "" when Python wrote the entry
	PromptVersion string `json:"prompt_version,omitempty"` // "" when Python wrote the entry, or a person

	Origin
}

// Origin is what the cache itself wants to know about an entry. It is no part
// of a job's result.
type Origin struct {
	Colour       string `json:"colour,omitempty"`        // phash.Colour of the picture; "" when Python wrote the entry
	CostMicroUSD int64  `json:"cost_microusd,omitempty"` // of the call, in millionths of a US dollar; 0 where no price is known
	// The hash of the picture whose analysis this copy is, and how far the
	// two are apart in bits (see Answer.Near; of what a person has corrected, the
	// distance of the hashes): a near hit wrote it. Such an entry is never taken
	// for other pictures, so that no chain leads away from what was looked at.
	DerivedFrom string `json:"derived_from,omitempty"`
	Distance    int    `json:"derived_distance,omitempty"`
	// The SHA-256 of the file that was looked at, under which the picture's signature is kept, and that of the one whose
	// analysis this copy is; "" when Python wrote the entry, or a person who had no file.
	File        string `json:"picture_sha256,omitempty"`
	DerivedFile string `json:"derived_sha256,omitempty"`
	CorrectedAt string `json:"corrected_at,omitempty"` // as analyzed_at: when a person corrected it, see Correct
}

// Variant tells analyses of one picture apart. The zero value is the default
// language and model, the one that Python services share.
type Variant struct {
	Lang, Model string
}

func (v Variant) suffix() string {
	s := ""
	if v.Lang != "" {
		s += ":lang=" + v.Lang
	}
	if v.Model != "" {
		s += ":model=" + v.Model
	}
	return s
}

// has reports whether a key is that of an entry of this variant.
func (v Variant) has(key string) bool {
	if h, ok := hashOfKey(key); ok {
		return key == Key(h, v)
	}
	file, suffix, ok := strings.Cut(strings.TrimPrefix(key, digestPrefix), analysis)
	return ok && len(file) == hex.EncodedLen(len(Digest{})) && suffix == v.suffix()
}

// Digest is the SHA-256 of a file.
type Digest [sha256.Size]byte

// String returns 64 hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Picture is what is known of a picture: all of it where its file is, its hash at
// least elsewhere. A Digest or Colour of zeros is one that is not known.
type Picture struct {
	Digest Digest
	phash.Fingerprint
	// Like names what this picture was found to show: see Answer.Like. Zeros: nothing is known.
	Like Digest
	// View returns the picture for comparisons; nil where its file is not at hand. It may take as long as decoding does.
	View func(context.Context) (*verify.View, error)
}

func (p *Picture) hasColour() bool { return p.Colour != phash.Colour{} }

// signature returns what is to be kept of the picture, nil where its file is not at hand.
func (p *Picture) signature(ctx context.Context) (*verify.Signature, error) {
	if p.View == nil || p.Digest == (Digest{}) {
		return nil, nil
	}
	view, err := p.View(ctx)
	if err != nil {
		return nil, err
	}
	return view.Signature(), nil
}

// differs reports whether e, found by p's hash, is of a picture whose colours are known to be others. Without
// colours, as Python writes it, an entry counts as one of the same.
func (p *Picture) differs(e *Entry) bool {
	if !p.hasColour() {
		return false
	}
	other, err := phash.ParseColour(e.Colour)
	return err == nil && !other.Same(p.Colour)
}

// The keys. Other names of this package's keys are beside what they are for.
const (
	hashPrefix    = "cache:image:hash:"
	digestPrefix  = "cache:image:digest:"
	analysis      = ":analysis"    // after a digest: the entry of a picture that is kept by its file
	signature     = ":signature:1" // after a digest: that of its picture, in the form of its number
	refusedPrefix = "cache:image:refused:"
)

// Key returns the key of the analysis under a hash, "" if the hash is degenerate.
func Key(h phash.Hash, v Variant) string {
	if h.Degenerate() {
		return ""
	}
	return hashPrefix + h.String() + v.suffix()
}

// Key returns the key under which the picture's analysis belongs: by its hash, or by its digest
// if the hash is degenerate; "" if the digest is not known then. Where another picture of an
// equal hash has that key, it is elsewhere: see Cache.Own.
func (p Picture) Key(v Variant) string {
	if key := Key(p.Hash, v); key != "" || p.Digest == (Digest{}) {
		return key
	}
	return p.fileKey(v)
}

// mayHaveFileKey reports whether the analysis may be kept by the digest although the hash can be a key.
func (p *Picture) mayHaveFileKey() bool { return p.Digest != (Digest{}) && !p.Hash.Degenerate() }

func (p *Picture) fileKey(v Variant) string {
	return digestPrefix + p.Digest.String() + analysis + v.suffix()
}

// Config is what an operator may set.
type Config struct {
	Radius       int  // in bits: pictures as near as this are compared; 0: only those of equal hashes
	Turned       bool // so are those that are turned or mirrored
	Corner       bool // one corner may differ, see verify.Options
	IndexEntries int  // most pictures in the index, of 128 bytes each; the newest are kept
	AnyPrompt    bool // entries of other prompt versions are answers too
}

// DefaultConfig returns the documented defaults.
func DefaultConfig() Config {
	return Config{Radius: DefaultRadius, Turned: true, IndexEntries: 1_000_000}
}

// Validate names every setting that is out of range.
func (c Config) Validate() error {
	var faults []error
	if c.Radius < 0 || c.Radius > MaxRadius {
		faults = append(faults, fmt.Errorf("cache-radius is %d: expected 0 (only equal hashes) to %d", c.Radius, MaxRadius))
	}
	if c.IndexEntries < 1 || c.IndexEntries > maxIndexEntries {
		faults = append(faults, fmt.Errorf("cache-index-entries is %d: expected 1 to %d", c.IndexEntries, maxIndexEntries))
	}
	return errors.Join(faults...)
}

// Cache reads and writes entries. Safe for concurrent use.
type Cache struct {
	cfg     Config
	client  redis.UniversalClient
	guard   *redisretry.Guard
	log     *zap.Logger
	index   *Index
	feed    feed
	flight  *flight
	locks   *redsync.Redsync
	metrics *metrics
	counts  counts
	took    average
	lease   time.Duration
	now     func() time.Time
}

// New returns a cache on the database that client has selected, whose metrics
// are registered with reg. The caller closes client, after Close.
func New(cfg Config, client redis.UniversalClient, reg prometheus.Registerer, log *zap.Logger) *Cache {
	c := &Cache{
		cfg: cfg, client: client, guard: redisretry.New("cache", log).On(client), log: log,
		index: NewIndex(cfg.IndexEntries), feed: feed{turn: make(chan struct{}, 1), read: map[int64]int64{}}, flight: newFlight(),
		locks: redsync.New(goredis.NewPool(client)), lease: lease, now: time.Now,
	}
	c.metrics = newMetrics(reg, c.index)
	return c
}

// Fault returns what is wrong with Redis, nil if nothing is known to be.
func (c *Cache) Fault() *redisretry.Fault { return c.guard.Fault() }

// Wait waits until what was sent to Redis was answered, after the client was closed.
func (c *Cache) Wait() { c.guard.Wait() }

// Close cancels the computations of Fill that are under way and waits for them.
func (c *Cache) Close() { c.flight.close() }

// Get returns the entry under key, nil if there is none. A value that is not an
// entry counts as none: the next fill replaces it.
func (c *Cache) Get(ctx context.Context, key string) (*Entry, error) {
	found, err := c.get(ctx, key)
	if err != nil {
		return nil, err
	}
	c.tellDamage(found[0])
	return found[0].entry, nil
}

// tellDamage logs that a value is no entry.
func (c *Cache) tellDamage(i item) {
	if len(i.doc) == 0 || i.entry != nil {
		return
	}
	if _, err := decode(i.doc); err != nil {
		c.log.Warn("cache entry is damaged, treated as a miss", zap.String("key", i.key), zap.Error(err))
	}
}

// item is what is stored under a key.
type item struct {
	key   string
	doc   []byte        // empty if there is nothing
	entry *Entry        // nil if doc is none
	ttl   time.Duration // -1 for ever

	compared bool // with a picture that was found to show the same
}

// maxEntry is how much is read of a value: no entry is larger.
const maxEntry = 100_000

// get reads entries in one round trip.
func (c *Cache) get(ctx context.Context, keys ...string) ([]item, error) {
	docs, ttls := make([]*redis.StringCmd, len(keys)), make([]*redis.DurationCmd, len(keys))
	err := c.pipeline(ctx, func(p redis.Pipeliner) {
		for i, key := range keys {
			docs[i], ttls[i] = p.GetRange(ctx, key, 0, maxEntry), p.PTTL(ctx, key)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look up %s (%d keys): %w", keys[0], len(keys), err)
	}
	out := make([]item, len(keys))
	for i, key := range keys {
		out[i] = itemOf(key, docs[i].Val(), ttls[i].Val())
	}
	return out, nil
}

// own returns the keys under which the entries of pictures are, or would be, and what is there: that of the file, if the file has
// an entry or another picture has the hash, else that of the hash. A file's entry stays its own even when the hash is
// free again, as a person may have corrected it. The key is "" where neither can be. It makes one round trip, and another one for a
// picture that has to be compared with the one that has its hash.
func (c *Cache) own(ctx context.Context, v Variant, pictures ...Picture) ([]item, error) {
	return c.ownAhead(ctx, v, nil, pictures...)
}

// ownAhead is own with what was read ahead, if it is not nil.
func (c *Cache) ownAhead(ctx context.Context, v Variant, ahead *Ahead, pictures ...Picture) ([]item, error) {
	var keys []string
	for _, p := range pictures {
		if keys = append(keys, p.Key(v)); p.mayHaveFileKey() {
			keys = append(keys, p.fileKey(v))
		}
	}
	found, err := ahead.read(ctx, c, keys)
	if err != nil {
		return nil, err
	}
	out := make([]item, len(pictures))
	for i := range pictures {
		p := &pictures[i]
		var file item
		out[i], found = found[0], found[1:]
		if p.mayHaveFileKey() {
			file, found = found[0], found[1:]
		}
		switch {
		case file.entry != nil:
			out[i] = file
			continue
		case out[i].entry == nil || p.Hash.Degenerate():
			continue
		}
		is, compared, err := c.shows(ctx, p, out[i].entry)
		if err != nil {
			return nil, err
		}
		switch is {
		case other:
			out[i] = file
		case lost: // whoever is looked at next has the hash
			out[i] = item{key: out[i].key, doc: out[i].doc}
		case shown:
			out[i].compared = compared
		}
	}
	return out, nil
}

// pipeline sends commands in one round trip. That a key is not there, or is of
// another type and so not ours, is no error here: the command itself says so.
func (c *Cache) pipeline(ctx context.Context, add func(redis.Pipeliner)) error {
	return c.guard.Do(ctx, func(ctx context.Context) error {
		p := c.client.Pipeline()
		add(p)
		cmds := p.Cmds()
		err := c.guard.Exec(ctx, cmds...)
		if err == nil || ctx.Err() != nil {
			return err
		}
		for _, cmd := range cmds {
			if err := cmd.Err(); err != nil && !noEntry(err) {
				return err
			}
		}
		if !noEntry(err) {
			return err
		}
		return nil
	})
}

// noEntry tells the answers about a key that has run out meanwhile, or holds another
// type of value, which is not ours.
func noEntry(err error) bool {
	return errors.Is(err, redis.Nil) || strings.HasPrefix(err.Error(), "WRONGTYPE ")
}

// decode reads an entry. What tells an analysis from other JSON is waste_type or
// category, or, in other domains, who made it and that it says something.
func decode(doc []byte) (*Entry, error) {
	var e Entry
	if err := json.Unmarshal(doc, &e); err != nil {
		return nil, err
	}
	ours := (e.PromptVersion != "" || e.CorrectedAt != "") && (e.More != "" || e.Feedback != "")
	if e.WasteType == "" && e.Category == "" && !ours {
		return nil, errors.New("it has neither waste_type nor category, nor prompt_version or corrected_at with other fields")
	}
	// Others may write what they like; sums and counters may not break over it.
	if e.CostMicroUSD < 0 || e.CostMicroUSD > maxCost {
		e.CostMicroUSD = 0
	}
	e.Distance = max(e.Distance, 0)
	return &e, nil
}

// maxCost of one call is $1,000, in millionths of a dollar.
const maxCost = 1_000_000_000
