package results

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// claimTime is how long the body of a complete chord is one task's to dispatch.
const claimTime = time.Minute

// doneTime is how long a finished chord is remembered, so that a part that comes
// again does not begin it anew. It is Celery's, as is the mark.
const doneTime = 5 * time.Minute

// Part is the outcome of one task in the header of a chord.
type Part struct {
	TaskID string
	Group  string // id of the header
	Index  *int   // place in the header; nil: after the others
	State  celery.State
	Result json.RawMessage // the value, or an encoded exception
}

// countPart counts a part once, whoever counted it before: Python of any version
// (by the member in .j) and newer Python and we (by the task in .d).
//
// KEYS: .j .t .s .d .c and the group's document
// ARGV: task, score, member, TTL in seconds, claim time in seconds
// Returns 1 if this task is to dispatch the body, 2 if another one is at it, 0 if
// parts are missing, nothing is known of the chord, or it is done.
//
// See celery/backends/redis.py, on_chord_part_return, for what Python does with
// the same keys.
var countPart = redis.NewScript(`
local j, t, s, d, c, g = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local task, score, member = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', c) == 'done' then return 0 end
local counted = task .. ':' .. score
if redis.call('SADD', d, counted) == 1 then
	redis.call('ZADD', j, score, member)
end
for _, key in ipairs({j, t, s, d, g}) do redis.call('EXPIRE', key, ARGV[4]) end
local size = redis.call('GET', s)
if not size then return 0 end
if redis.call('ZCARD', j) ~= tonumber(size) + tonumber(redis.call('GET', t) or 0) then return 0 end
if redis.call('SET', c, task, 'NX', 'EX', ARGV[5]) or redis.call('GET', c) == task then return 1 end
return 2
`)

// CountPart counts p and reports whether the chord is complete and p's task is
// the one to dispatch its body. That stays so, for the same task, until
// [Store.ChordDone]: what a crash interrupted goes on when the task is delivered
// again.
func (s *Store) CountPart(ctx context.Context, p Part) (complete bool, err error) {
	score := "+inf"
	if p.Index != nil {
		score = strconv.Itoa(*p.Index)
	}
	// The text that Python makes of the same part.
	member, err := pythonJSON([]any{1, p.TaskID, p.State, p.Result})
	if err != nil {
		return false, fmt.Errorf("encode chord part of task %s: %w", p.TaskID, err)
	}
	key := GroupKey(p.Group)
	keys := []string{key + ".j", key + ".t", key + ".s", key + ".d", key + ".c", key}
	answer, err := s.guard.Run(ctx, countPart, keys, p.TaskID, score, member, int(TTL.Seconds()), int(claimTime.Seconds()))
	var outcome int
	if err == nil {
		outcome, err = answer.Int()
	}
	if err != nil {
		return false, fmt.Errorf("count chord part of task %s in group %s: %w", p.TaskID, p.Group, err)
	}
	return outcome == 1, nil
}

// Header returns the outcomes of a complete chord's header in order, nested as
// the header was.
//
// A *celery.Exception is the ChordError of the first part that failed.
func (s *Store) Header(ctx context.Context, groupID string) (json.RawMessage, error) {
	var members []string
	var doc []byte
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		pipe := s.client.Pipeline()
		parts, saved := pipe.ZRange(ctx, GroupKey(groupID)+".j", 0, -1), pipe.Get(ctx, GroupKey(groupID))
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		members = parts.Val()
		doc = []byte(saved.Val())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load header of chord %s: %w", groupID, err)
	}
	values := map[string]json.RawMessage{}
	list := make([]json.RawMessage, len(members))
	for i, m := range members {
		var part []json.RawMessage
		var id string
		var state celery.State
		if json.Unmarshal([]byte(m), &part) != nil || len(part) != 4 ||
			json.Unmarshal(part[1], &id) != nil || json.Unmarshal(part[2], &state) != nil {
			return nil, &celery.Exception{Type: "ChordError", Module: celery.ModuleCelery,
				Args: []any{"a part of chord " + groupID + " is not in Celery's form"}}
		}
		if state == celery.Failure || state == celery.Revoked {
			var exc celery.Exception
			if json.Unmarshal(part[3], &exc) != nil {
				exc = celery.Exception{Type: "Exception", Module: celery.ModuleBuiltins}
			}
			return nil, celery.ChordError(id, &exc)
		}
		list[i], values[id] = part[3], part[3]
	}
	if len(doc) > 0 {
		var saved struct{ Result *celery.Result }
		if json.Unmarshal(doc, &saved) == nil && saved.Result != nil && saved.Result.IsGroup() {
			if nested, err := s.nest(ctx, saved.Result, values); err == nil {
				return nested, nil
			} else if ctx.Err() != nil {
				return nil, err
			}
		}
	}
	return celery.MarshalJSON(list)
}

// nest puts values in the shape of r. What is not among them is loaded.
func (s *Store) nest(ctx context.Context, r *celery.Result, values map[string]json.RawMessage) (json.RawMessage, error) {
	if !r.IsGroup() {
		if v, ok := values[r.ID]; ok {
			return v, nil
		}
		m, err := s.Load(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		if m == nil {
			return json.RawMessage("null"), nil
		}
		return m.Result, nil
	}
	list := make([]json.RawMessage, len(r.Members))
	for i, member := range r.Members {
		v, err := s.nest(ctx, member, values)
		if err != nil {
			return nil, err
		}
		list[i] = v
	}
	return celery.MarshalJSON(list)
}

// ChordDone forgets a chord whose body was dispatched.
func (s *Store) ChordDone(ctx context.Context, groupID string) error {
	key := GroupKey(groupID)
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Del(ctx, key+".j", key+".t", key+".s", key+".d")
			p.Set(ctx, key+".c", "done", doneTime)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("forget chord %s: %w", groupID, err)
	}
	return nil
}

// ChordFailed keeps the parts of a chord whose body was failed, as Celery does,
// and lets no further part fail it again.
func (s *Store) ChordFailed(ctx context.Context, groupID string) error {
	key := GroupKey(groupID)
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Del(ctx, key+".s")
			p.Set(ctx, key+".c", "done", doneTime)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("close chord %s: %w", groupID, err)
	}
	return nil
}

// BeginChord stores how many parts the chord waits for. It must be done before
// the last task of its header is published.
//
// It also forgets that a chord of the same id was done, as Celery does since 5.7, because a
// frozen chord that is applied once more keeps its id (celery/backends/redis.py, set_chord_size), and
// the parts of one that has failed, which are kept. With again, for a run that is redelivered, it does not: it would open a chord that the first run
// began and that has ended.
func (s *Store) BeginChord(ctx context.Context, c celery.ChordSize, again bool) error {
	key := GroupKey(c.Group)
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		// As Celery does, these are not one step: both may be repeated.
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			if !again { // parts of an earlier chord of this id, which has failed, are none of this one's
				for _, k := range []string{key + ".c", key + ".j", key + ".d", key + ".t", grownKey(c.Group)} { // on a cluster each is elsewhere
					p.Del(ctx, k)
				}
			}
			p.Set(ctx, key+".s", c.Size, TTL)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("store size of chord %s: %w", c.Group, err)
	}
	return nil
}

// growChord counts a member that is added to a chord, once.
//
// KEYS: .t, the members that were counted
// ARGV: member, TTL in seconds
//
// The members are of an earlier chord of this id if .t is not there: it is deleted when a chord
// is done, by Python too.
var growChord = redis.NewScript(`
local t, grown = KEYS[1], KEYS[2]
if redis.call('EXISTS', t) == 0 then redis.call('DEL', grown) end
if redis.call('SADD', grown, ARGV[1]) == 1 then redis.call('INCR', t) end
redis.call('EXPIRE', t, ARGV[2])
redis.call('EXPIRE', grown, ARGV[2])
return 1
`)

// GrowChord makes the chord wait for the task memberID too. A second call for the same member
// changes nothing: a run that is redelivered adds the members that its first run added.
func (s *Store) GrowChord(ctx context.Context, groupID, memberID string) error {
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		return growChord.Run(ctx, s.client, []string{GroupKey(groupID) + ".t", grownKey(groupID)},
			memberID, int(TTL.Seconds())).Err()
	})
	if err != nil {
		return fmt.Errorf("grow chord %s by task %s: %w", groupID, memberID, err)
	}
	return nil
}

// SaveGroup stores of which results a group consists, as GroupResult.save() does.
func (s *Store) SaveGroup(ctx context.Context, g *celery.Result) error {
	doc, err := celery.MarshalJSON(map[string]any{"result": g})
	if err != nil {
		return fmt.Errorf("encode group %s: %w", g.ID, err)
	}
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, GroupKey(g.ID), doc, TTL)
			p.Publish(ctx, GroupKey(g.ID), doc)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("store group %s: %w", g.ID, err)
	}
	return nil
}
