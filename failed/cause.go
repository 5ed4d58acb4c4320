package failed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// Cause is what many jobs have failed of: a task, a reason, a class of exception and its message
// without what differs from job to job.
type Cause struct {
	ID     string        `json:"id"`
	Task   string        `json:"task"`
	Reason celery.Reason `json:"reason"`
	Error  string        `json:"error"` // class of the exception
	Text   string        `json:"text"`  // its message, see normalise
	First  time.Time     `json:"first"` // when it was met with for the first time,
	Last   time.Time     `json:"last"`  // and for the last time

	Kept   int `json:"kept"`             // failed jobs of it
	Hour   int `json:"hour"`             // failures in the last hour, to five minutes, with those of jobs that were replayed or discarded since,
	Day    int `json:"day"`              // and in the last 24 hours
	Newest Key `json:"newest,omitempty"` // the latest of the jobs, "" if none is kept
}

// causeOf returns the cause of a failure.
func causeOf(r *Record) Cause {
	c := Cause{Task: shorten(strings.ToValidUTF8(r.Task, "\uFFFD"), 200), Reason: r.Reason, Error: shorten(strings.ToValidUTF8(r.Error, "\uFFFD"), 200), Text: normalise(r.Text)}
	sum := sha256.Sum256([]byte(strings.Join([]string{c.Task, string(c.Reason), c.Error, c.Text}, "\x00")))
	c.ID = hex.EncodeToString(sum[:8])
	return c
}

// otherCauses stands for all causes beyond maxCauses.
var otherCauses = Cause{ID: "other", Text: "other causes"}

// maxCauseText is how long the message of a cause is at most, in bytes.
const maxCauseText = 200

// differing finds what differs between messages that say the same. Kept are a status of HTTP, and
// quoted words without a digit, such as the name of a key. The others are URLs, paths, quoted values that are no names, addresses, and words with a digit in them.
var differing = regexp.MustCompile(`(?i)` + strings.Join([]string{
	`(?P<kept>\b(?:http|status|code|answered)(?:/\d(?:\.\d)?)?[\s:=]+(?:code[\s:=]+)?[1-5]\d\d\b|\b[45]\d\d(?: [a-z]+)? error\b|'[\pL_]+'|"[\pL_ ]*")`,
	`\b(?:data:|[a-z][a-z0-9+.-]*:(?://|\\/\\/))[^\s'"<>]+`,
	`(?:\.{0,2}/[^\s'"<>:,;]+){2,}`,
	`'[^'\s]*[^'\w\s][^'\s]*'|"[^"\s]*[^"\w\s][^"\s]*"`,
	`[^\s'"<>@]+@[^\s'"<>@]+`,
	`[\pL\d_.:+/-]*\d[\pL\d_.:+/-]*`,
}, "|"))

// normalise takes out of a message what differs from job to job, such as ids, numbers and URLs.
// What is left is the first line, in at most maxCauseText bytes.
func normalise(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.ToValidUTF8(line, "\uFFFD")
	if len(line) > 4*maxCauseText {
		line = strings.ToValidUTF8(line[:4*maxCauseText], "")
	}
	kept := differing.SubexpIndex("kept")
	var out strings.Builder
	at := 0
	for _, m := range differing.FindAllStringSubmatchIndex(line, -1) {
		if m[2*kept] >= 0 {
			continue
		}
		out.WriteString(line[at:m[0]])
		found := line[m[0]:m[1]]
		out.WriteByte('#')
		out.WriteString(found[len(strings.TrimRight(found, ".:")):])
		at = m[1]
	}
	out.WriteString(line[at:])
	short := strings.Join(strings.Fields(out.String()), " ")
	if len(short) > maxCauseText {
		short = strings.ToValidUTF8(short[:maxCauseText], "") + "…"
	}
	return short
}

// metTTL is how long the counts of an hour are kept: as long as a look back over a day may need them.
const metTTL = 26 * time.Hour

// metSlot is what the counts tell apart.
const metSlot = 5 * time.Minute

// metField is the field of a cause in the counts of the hour of a moment.
func metField(at time.Time, cause string) string {
	return fmt.Sprintf("%02d:%s", at.UTC().Minute()/int(metSlot.Minutes()), cause)
}

// Causes returns what jobs have failed of that are kept, or that failed in the last day: that with the
// most failures in the last hour first, then in the last day, then kept. It asks Redis 28 commands, and two more
// for each cause.
func (s *Store) Causes(ctx context.Context) ([]Cause, error) {
	now := time.Now().UTC()
	var known *redis.MapStringStringCmd
	var first, last *redis.ZSliceCmd
	hours := make([]*redis.MapStringStringCmd, 25)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		known, first, last = p.HGetAll(ctx, causesKey), p.ZRangeWithScores(ctx, firstKey, 0, -1), p.ZRangeWithScores(ctx, seenKey, 0, -1)
		for i := range hours {
			hours[i] = p.HGetAll(ctx, metKey(now.Add(-time.Duration(i)*time.Hour)))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up the causes of failures: %w", err)
	}
	causes := map[string]*Cause{}
	for id, doc := range known.Val() {
		var c Cause
		if json.Unmarshal([]byte(doc), &c) == nil {
			c.ID = id
			causes[id] = &c
		}
	}
	for _, z := range first.Val() {
		if c := causes[z.Member.(string)]; c != nil {
			c.First = time.UnixMilli(int64(z.Score)).UTC()
		}
	}
	for _, z := range last.Val() {
		if c := causes[z.Member.(string)]; c != nil {
			c.Last = time.UnixMilli(int64(z.Score)).UTC()
		}
	}
	for back, fields := range hours {
		hour := now.Add(-time.Duration(back) * time.Hour).Truncate(time.Hour)
		for field, text := range fields.Val() {
			slot, id, _ := strings.Cut(field, ":")
			n, _ := strconv.Atoi(text)
			i, err := strconv.Atoi(slot)
			c := causes[id]
			if err != nil || c == nil {
				continue
			}
			age := now.Sub(hour.Add(time.Duration(i) * metSlot)) // since the slot began
			if age <= time.Hour {
				c.Hour += n
			}
			if age <= 24*time.Hour {
				c.Day += n
			}
		}
	}
	sizes, newest := map[string]*redis.IntCmd{}, map[string]*redis.StringSliceCmd{}
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for id := range causes {
			sizes[id] = p.ZCard(ctx, causeKey(id))
			newest[id] = p.ZRevRange(ctx, causeKey(id), 0, 0)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count failed jobs by their causes: %w", err)
	}
	out := make([]Cause, 0, len(causes))
	for id, c := range causes {
		c.Kept = int(sizes[id].Val())
		if keys := newest[id].Val(); len(keys) > 0 {
			c.Newest = Key(keys[0])
		}
		if c.Kept > 0 || c.Day > 0 {
			out = append(out, *c)
		}
	}
	slices.SortFunc(out, func(a, b Cause) int {
		for _, d := range []int{b.Hour - a.Hour, b.Day - a.Day, b.Kept - a.Kept} {
			if d != 0 {
				return d
			}
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// forgetScript forgets a cause that no record has, unless it was met with meanwhile.
//
// KEYS: causes, seen, the records of the cause, first. ARGV: its id, until when it is old, in Unix
// milliseconds.
var forgetScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local seen = redis.call('ZSCORE', KEYS[2], ARGV[1])
if seen and tonumber(seen) > tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
`)

// forgetCauses forgets the causes that no record has, and no failure of the last day.
func (s *Store) forgetCauses(ctx context.Context) error {
	until := strconv.FormatInt(time.Now().Add(-metTTL).UnixMilli(), 10)
	old, err := s.client.ZRangeArgs(ctx, redis.ZRangeArgs{Key: seenKey, Start: "-inf", Stop: until, ByScore: true}).Result()
	if err != nil {
		return fmt.Errorf("look for old causes of failures: %w", err)
	}
	for _, id := range old {
		if err := forgetScript.Run(ctx, s.client, []string{causesKey, seenKey, causeKey(id), firstKey}, id, until).Err(); err != nil {
			return fmt.Errorf("forget cause %s of failures: %w", id, err)
		}
	}
	return nil
}
