package failed

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"onceover/internal/redisretry"
)

// quiet is asynq's logger, of all its servers in this process. Asynq writes several lines a
// second while Redis is away, which others tell of once, and warns of everyday matters: both are
// for debugging. Another fault of Redis is told once, and again when it has been away for
// [forgotten].
type quiet struct {
	log *zap.Logger

	mu   sync.Mutex
	told map[string]time.Time // by fault, when asynq met with it last
}

// forgotten is longer than the pauses between the looks of asynq's slowest part.
const forgotten = 5 * time.Minute

func newQuiet(log *zap.Logger) *quiet { return &quiet{log: log, told: map[string]time.Time{}} }

func (q *quiet) Debug(args ...any) {}
func (q *quiet) Info(args ...any)  {}
func (q *quiet) Warn(args ...any)  { q.write(q.log.Debug, fmt.Sprint(args...)) }
func (q *quiet) Error(args ...any) { q.write(q.log.Warn, fmt.Sprint(args...)) }
func (q *quiet) Fatal(args ...any) { q.log.Error(fmt.Sprint(args...)) }

// write logs a line of asynq's, by usual unless it tells of a fault of Redis.
func (q *quiet) write(usual func(string, ...zap.Field), line string) {
	if away(line) {
		q.log.Debug(line)
		return
	}
	reply := replyIn(line)
	if reply == "" {
		usual(line)
		return
	}
	switch kind, remedy := redisretry.Diagnose(reply); {
	case kind == redisretry.Outage || !q.isNews(reply):
		q.log.Debug(line)
	case kind == redisretry.Rights:
		q.log.Error("redis refuses commands of asynq", zap.String("remedy", remedy), zap.String("error", line))
	default:
		q.log.Warn("redis refuses commands of asynq", zap.String("error", line))
	}
}

// isNews reports whether a fault was not there in the last minutes.
func (q *quiet) isNews(reply string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for old, seen := range q.told {
		if now.Sub(seen) > forgotten {
			delete(q.told, old)
		}
	}
	_, known := q.told[reply]
	q.told[reply] = now
	return !known
}

// errorReply is an error reply of Redis at the end of a line, such as "Dequeue error: UNKNOWN:
// redis eval error: NOPERM this user has no permissions". Its code is in capitals.
var errorReply = regexp.MustCompile(`(?:^|: )([A-Z]{3,} .+)$`)

// scriptOf is what Redis and Valkey add to the error of a command that a script has called.
var scriptOf = regexp.MustCompile(` script: (?:\S+, )?on @user_script:\d+\.?$`)

// replyIn returns the error reply of Redis in a line of asynq's, which has made text of it; "" if
// there is none. The digest of the script, which differs between commands, is cut off.
func replyIn(line string) string {
	m := errorReply.FindStringSubmatch(trimRetry(line))
	if m == nil {
		return ""
	}
	return scriptOf.ReplaceAllString(m[1], "")
}

// networkErrors are the ends of Go's errors of a connection, and of the client's.
var networkErrors = []string{
	"EOF", "connection refused", "connection reset by peer", "broken pipe", "i/o timeout", "deadline exceeded",
	"use of closed network connection", "no such host", "server misbehaving", "no route to host",
	"network is unreachable", "connection pool timeout", "client is closed",
}

// away reports whether a line of asynq's tells of nothing but a lost connection.
func away(line string) bool {
	line = trimRetry(line)
	return slices.ContainsFunc(networkErrors, func(end string) bool { return strings.HasSuffix(line, end) })
}

func trimRetry(line string) string { return strings.TrimSuffix(line, "; Will retry syncing") }
