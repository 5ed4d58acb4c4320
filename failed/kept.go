package failed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/crash"
	"onceover/internal/redisretry"
)

// Fields of the hash of a record. Lists read the first and the last only.
const (
	fieldRecord  = "record"  // Record in JSON, without the message
	fieldMessage = "message" // the message in JSON,
	fieldPieces  = "pieces"  // or in how many pieces it is at longKey,
	fieldSum     = "sum"     // and under which sum
	fieldCause   = "cause"   // the id of the Cause
	fieldNote    = "note"    // why a replay did not go
)

// maxCauses is how many causes are told apart; what is new then is one of otherCauses.
const maxCauses = 300

// keepScript keeps a record with all that finds it, unless there is one of its key.
//
// KEYS: the record, times, causes, the records of the cause, seen, the counts of the hour, the
// pieces of the message, names, first, and what says that it was forgotten. ARGV: the record's key, when it failed last in Unix milliseconds, the
// cause's id and what is known of it, its field of the counts or "", how long these live in
// seconds, maxCauses, in how many pieces the message is beside it, then the fields of the record and
// their values.
//
// It returns 1 if the record was kept, 0 if it was there, -1 if there are too many causes, -2 if
// pieces are missing. What finds the record comes before it: should a command be refused, the next
// attempt does the rest.
var keepScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local pieces = tonumber(ARGV[8])
if pieces > 0 then
  if redis.call('HLEN', KEYS[7]) ~= pieces then return -2 end
  redis.call('PERSIST', KEYS[7])
end
if redis.call('HEXISTS', KEYS[3], ARGV[3]) == 0 then
  if redis.call('HLEN', KEYS[3]) - redis.call('HEXISTS', KEYS[3], 'other') >= tonumber(ARGV[7]) then return -1 end
  redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[5], 'GT', ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[8], 0, ARGV[1])
redis.call('ZADD', KEYS[9], 'LT', ARGV[2], ARGV[3])
for i = 9, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i+1]) end
redis.call('UNLINK', KEYS[10])
if ARGV[5] ~= '' then
  redis.call('HINCRBY', KEYS[6], ARGV[5], 1)
  redis.call('EXPIRE', KEYS[6], ARGV[6])
end
return 1
`)

// unusedScript has pieces expire until their record is there. Those of a record that is there stay:
// a redelivery writes them again.
//
// KEYS: the record, the pieces. ARGV: their sum, in how many seconds they expire.
var unusedScript = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'sum') == ARGV[1] then return 0 end
return redis.call('EXPIRE', KEYS[2], ARGV[2])
`)

// add keeps a record under a key, unless there is one: then it reports false. met has the failure
// counted.
func (s *Store) add(ctx context.Context, k Key, r *Record, message []byte, met bool) (isNew bool, err error) {
	shown := *r
	doc, err := json.Marshal(struct {
		*Record
		Message *struct{} `json:"message,omitempty"` // hides that of the record
	}{Record: &shown})
	if err != nil {
		return false, redisretry.Final(err)
	}
	var fields []any
	long, parts := longKey(k, ""), 0
	if len(message) > pieceSize {
		pieces, sum := cut(message)
		long, parts = longKey(k, sum), len(pieces)
		// Together: nothing else would remove pieces that never expire and have no record.
		_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, long, pieces)
			unusedScript.Eval(ctx, p, []string{recordKey(k), long}, sum, int(unusedPieces.Seconds()))
			return nil
		})
		if err != nil {
			return false, err
		}
		fields = []any{fieldPieces, len(pieces), fieldSum, sum, fieldRecord, doc}
	} else {
		fields = []any{fieldMessage, message, fieldRecord, doc}
	}
	for _, c := range []Cause{causeOf(r), otherCauses} {
		about, err := json.Marshal(c)
		if err != nil {
			return false, redisretry.Final(err)
		}
		count := ""
		if met {
			count = metField(r.Last, c.ID)
		}
		most := maxCauses
		if c.ID == otherCauses.ID {
			most++
		}
		keys := []string{recordKey(k), timesKey, causesKey, causeKey(c.ID), seenKey, metKey(r.Last), long, namesKey, firstKey, goneKey(k)}
		args := append([]any{string(k), r.Last.UnixMilli(), c.ID, about, count, int(metTTL.Seconds()), most, parts, fieldCause, c.ID}, fields...)
		n, err := keepScript.Run(ctx, s.client, keys, args...).Int()
		if err != nil {
			return false, err
		}
		if n == -2 {
			return false, fmt.Errorf("keep failed job %s: parts of its message have gone from Redis before the rest was there", k) // tried again
		}
		if n >= 0 {
			crash.Point("after-enqueue")
			return n == 1, nil
		}
	}
	return false, fmt.Errorf("keep failed job %s: causes were forgotten and met with meanwhile", k) // tried again
}

// dropScript forgets a record, if it is of the cause and has the pieces that it was seen with; else it returns -1. It returns -2 if
// somebody is replaying it, and that is to be heeded.
//
// KEYS: the record, the pieces of its message, the lock of replays, what says that it was forgotten, and sorted
// sets that it is in. ARGV: its key, its cause and the sum of its pieces, "" for none, whether the lock is
// heeded, and for how many seconds it is said that it was forgotten.
var dropScript = redis.NewScript(`
if ARGV[4] == '1' and redis.call('EXISTS', KEYS[3]) == 1 then return -2 end
local seen = redis.call('HMGET', KEYS[1], 'cause', 'sum')
if (seen[1] or '') ~= ARGV[2] or (seen[2] or '') ~= ARGV[3] then return -1 end
local was = redis.call('DEL', KEYS[1])
for i = 5, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('UNLINK', KEYS[2])
if was == 1 and ARGV[5] ~= '0' then redis.call('SET', KEYS[4], '', 'EX', ARGV[5]) end
return was
`)

// drop forgets a record, whether or not it is locked: the caller has the lock, or had it. It is no error if there is none.
func (s *Store) drop(ctx context.Context, k Key) error { return s.dropUnless(ctx, k, false) }

// dropUnless is drop, unless somebody is replaying the record and locked is set: that is a *SkippedError.
func (s *Store) dropUnless(ctx context.Context, k Key, locked bool) error {
	said := 0
	if s.cfg.Replicas > 0 {
		said = int(goneTTL.Seconds())
	}
	for range 10 { // it may be kept anew meanwhile
		about, err := s.client.HMGet(ctx, recordKey(k), fieldCause, fieldSum).Result()
		if err != nil {
			return err
		}
		cause, known := about[0].(string)
		sum, _ := about[1].(string)
		keys := []string{recordKey(k), longKey(k, sum), lockKey(k), goneKey(k), timesKey, namesKey, causeKey(cause)}
		if !known { // the server has lost the hash, or somebody has deleted it
			causes, err := s.client.HKeys(ctx, causesKey).Result()
			if err != nil {
				return err
			}
			for _, id := range causes {
				keys = append(keys, causeKey(id))
			}
		}
		n, err := dropScript.Run(ctx, s.client, keys, string(k), cause, sum, locked, said).Int()
		if err != nil || n >= 0 {
			return err
		}
		if n == -2 {
			return &SkippedError{busy: true, Why: locking}
		}
	}
	return fmt.Errorf("forget failed job %s: it is kept anew again and again", k)
}

// lostScript takes a key out of what finds records, unless its record is there.
//
// KEYS: the record, and sorted sets. ARGV: its key.
var lostScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 2, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
return 1
`)

// forgetLost has a record found no more whose hash the server has lost. One that is there, by now, stays.
func (s *Store) forgetLost(ctx context.Context, k Key) error {
	causes, err := s.client.HKeys(ctx, causesKey).Result()
	if err != nil {
		return err
	}
	keys := []string{recordKey(k), timesKey, namesKey}
	for _, id := range causes {
		keys = append(keys, causeKey(id))
	}
	return lostScript.Run(ctx, s.client, keys, string(k)).Err()
}

// noteScript notes why a record was not replayed, unless it has gone.
//
// KEYS: the record. ARGV: the field, the note.
var noteScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 0
`)

func (s *Store) note(ctx context.Context, k Key, why string) error {
	return noteScript.Run(ctx, s.client, []string{recordKey(k)}, fieldNote, why).Err()
}

// Get returns a whole record, nil if it is not there.
func (s *Store) Get(ctx context.Context, k Key) (*Record, error) {
	fields, err := s.client.HGetAll(ctx, recordKey(k)).Result()
	if err != nil {
		return nil, fmt.Errorf("look up failed job %s: %w", k, err)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	var r Record
	if err := json.Unmarshal([]byte(fields[fieldRecord]), &r); err != nil {
		return nil, fmt.Errorf("%w: failed job %s: %w", errUnreadable, k, err)
	}
	message := []byte(fields[fieldMessage])
	if n, _ := strconv.Atoi(fields[fieldPieces]); n > 0 {
		message, err = s.join(ctx, longKey(k, fields[fieldSum]), n)
		if errors.Is(err, errMessageGone) && s.client.Exists(ctx, recordKey(k)).Val() == 0 {
			return nil, nil // all of it
		}
		if err != nil {
			return nil, fmt.Errorf("look up failed job %s: %w", k, err)
		}
	}
	if err := json.Unmarshal(message, &r.Message); err != nil {
		return nil, fmt.Errorf("%w: failed job %s: %w", errUnreadable, k, err)
	}
	return &r, nil
}

// Discard throws a record away. It is no error if it is not there. One that is being replayed stays: its job may run in a moment. The
// error wraps a *[SkippedError] then.
func (s *Store) Discard(ctx context.Context, k Key) error {
	if err := s.dropUnless(ctx, k, true); err != nil {
		return fmt.Errorf("discard failed job %s: %w", k, err)
	}
	return nil
}

// expire discards the records whose jobs failed last before a time, but not those of which it is
// not known when.
func (s *Store) expire(ctx context.Context, before time.Time) (n int, err error) {
	unknown := "(" + strconv.FormatInt(time.Time{}.UnixMilli(), 10)
	locked := 0 // are being replayed, and stay
	for {
		old, err := s.client.ZRangeArgs(ctx, redis.ZRangeArgs{
			Key: timesKey, Start: unknown, Stop: "(" + strconv.FormatInt(before.UnixMilli(), 10), ByScore: true, Offset: int64(locked), Count: pageSize,
		}).Result()
		if err != nil {
			return n, fmt.Errorf("look for old failed jobs: %w", err)
		}
		if len(old) == 0 {
			return n, nil
		}
		for _, k := range old {
			var busy *SkippedError
			switch err := s.Discard(ctx, Key(k)); {
			case errors.As(err, &busy):
				locked++
			case err != nil:
				return n, err
			default:
				n++
			}
		}
	}
}
