package cache

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/phash/verify"
)

// storeScript writes an entry unless a person's correction is there, which stays, or, if it is a copy, anything that was not there
// when it was made: what a model is asked about meanwhile stays too.
//
//	KEYS[1]  the entry
//	ARGV[1]  its JSON
//	ARGV[2]  TTL in seconds
//	ARGV[3]  of a copy: '=' and what was there; of a correction that says more now: '+' and what it was; else ''
//	returns  what is there, or false if the entry was written
const storeScript = `
local old = redis.pcall('GET', KEYS[1])
local mode = string.sub(ARGV[3], 1, 1)
if mode ~= '' and type(old) == 'string' and old ~= string.sub(ARGV[3], 2) then
  return old
end
local ok, entry = pcall(cjson.decode, old)
if mode ~= '+' and ok and type(entry) == 'table' and type(entry.corrected_at) == 'string' and entry.corrected_at ~= '' then
  return old
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return false`

// Store keeps e as the analysis of a picture. It returns what is there now: e,
// or an older entry that a person has corrected.
func (c *Cache) Store(ctx context.Context, p Picture, v Variant, e Entry) (Entry, error) {
	signature, err := p.signature(ctx)
	if err != nil {
		return e, err
	}
	own, err := c.own(ctx, v, p)
	if err != nil {
		return e, err
	}
	if own[0].key == "" {
		return e, fmt.Errorf("store %s: %w", p.Hash, errNoKey)
	}
	return c.store(ctx, own[0], &p, v, e, signature)
}

// store keeps e as the analysis of a picture at its place.
func (c *Cache) store(ctx context.Context, at item, p *Picture, v Variant, e Entry, s *verify.Signature) (Entry, error) {
	key, was := at.key, ""
	if e.DerivedFrom != "" {
		was = "=" + string(at.doc)
	}
	if p.hasColour() {
		e.Colour = p.Colour.String()
	}
	if s != nil {
		e.File = p.Digest.String()
	}
	old, err := c.writeIf(ctx, key, e, s, was)
	if err != nil || old == "" {
		return e, err
	}
	if there, err := decode([]byte(old)); err == nil {
		is, _, err := c.shows(ctx, p, there)
		switch file := p.fileKey(v); {
		case err != nil:
			return e, err
		case is != shown && p.mayHaveFileKey() && key != file: // it came meanwhile
			return c.store(ctx, item{key: file}, p, v, e, s)
		}
		if e.DerivedFrom == "" {
			return c.complete(ctx, key, old, there, &e)
		}
		return *there, nil
	}
	if e.DerivedFrom != "" {
		return e, nil // a copy replaces nothing
	}
	return e, c.replace(ctx, key, e, s) // a damaged correction is none
}

// complete has a person's entry say what e does and it does not, as answers may have other fields by now than when it was made. It
// returns the entry.
func (c *Cache) complete(ctx context.Context, key, old string, there, e *Entry) (Entry, error) {
	whole, err := there.with(e)
	if err != nil {
		return *there, err
	}
	if whole == *there {
		return whole, c.keep(ctx, key, whole)
	}
	_, err = c.writeIf(ctx, key, whole, nil, "+"+old) // what a person says meanwhile stays
	return whole, err
}

// writeIf writes an entry by storeScript. It returns what is there if that is not the entry.
func (c *Cache) writeIf(ctx context.Context, key string, e Entry, s *verify.Signature, was string) (there string, err error) {
	kept, err := c.write(ctx, key, e, s, func(p redis.Pipeliner, doc []byte) redis.Cmder {
		return p.Eval(ctx, storeScript, []string{key}, doc, int(TTL/time.Second), was)
	})
	if err != nil {
		return "", err
	}
	there, _ = kept.(*redis.Cmd).Text() // an error says that it was written
	return there, nil
}

// replace writes an entry, whatever was there.
func (c *Cache) replace(ctx context.Context, key string, e Entry, s *verify.Signature) error {
	_, err := c.write(ctx, key, e, s, func(p redis.Pipeliner, doc []byte) redis.Cmder { return p.Set(ctx, key, doc, TTL) })
	return err
}

// write writes an entry with all that goes with it, in one round trip: its tags,
// its picture's signature, its place in the log that feeds the indexes, and the
// message to those who wait for it. Without a signature the one that is kept
// begins its life anew. It returns the command that set made of the entry's JSON.
func (c *Cache) write(ctx context.Context, key string, e Entry, s *verify.Signature, set func(p redis.Pipeliner, doc []byte) redis.Cmder) (redis.Cmder, error) {
	doc, err := celery.MarshalJSON(e)
	if err != nil {
		return nil, fmt.Errorf("encode entry of %s: %w", key, err)
	}
	var cmd redis.Cmder
	err = c.pipeline(ctx, func(p redis.Pipeliner) {
		cmd = set(p, doc)
		c.tag(ctx, p, key, e)
		c.keepSignature(ctx, p, e, s)
		if h, ok := hashOfKey(key); ok && e.DerivedFrom == "" && (s != nil || e.File == "") {
			r := Record{Key: h}
			if s != nil {
				r.Hashes = s.Hashes
			}
			c.appendLog(ctx, p, r)
		}
		p.Publish(ctx, channel(key), "")
	})
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", key, err)
	}
	return cmd, nil
}

// keep begins the life of an entry anew.
func (c *Cache) keep(ctx context.Context, key string, e Entry) error {
	err := c.pipeline(ctx, func(p redis.Pipeliner) {
		p.Expire(ctx, key, TTL)
		c.keepSignature(ctx, p, e, nil)
	})
	if err != nil {
		return fmt.Errorf("prolong %s: %w", key, err)
	}
	return nil
}

// RefusalTTL is how long a file that is no picture is remembered.
const RefusalTTL = 10 * time.Minute

// Refusal says why a file cannot be analysed, as a Python exception.
type Refusal struct {
	Type    string `json:"exc_type"` // a built-in class
	Message string `json:"exc_message"`
	By      string `json:"by,omitempty"` // who refused, if it was not the decoder: it may be asked of another one
}

// Remember keeps what is known of a file's picture, so that the same file need not be
// decoded again.
func (c *Cache) Remember(ctx context.Context, p Picture) error {
	known := p.Hash.String() + " " + p.Colour.String()
	if p.Like != (Digest{}) {
		known += " " + p.Like.String()
	}
	err := c.pipeline(ctx, func(pipe redis.Pipeliner) { pipe.Set(ctx, digestPrefix+p.Digest.String(), known, TTL) })
	if err != nil {
		return fmt.Errorf("store hash of file %s: %w", p.Digest, err)
	}
	return nil
}

// Refuse remembers for RefusalTTL that a file cannot be analysed.
func (c *Cache) Refuse(ctx context.Context, d Digest, r Refusal) error {
	doc, err := celery.MarshalJSON(r)
	if err != nil {
		return fmt.Errorf("encode refusal of file %s: %w", d, err)
	}
	err = c.pipeline(ctx, func(p redis.Pipeliner) { p.Set(ctx, refusedPrefix+d.String(), doc, RefusalTTL) })
	if err != nil {
		return fmt.Errorf("store refusal of file %s: %w", d, err)
	}
	return nil
}
