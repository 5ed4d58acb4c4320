package failed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// pieceSize is the largest value written, in bytes; a longer message is written in
// pieces of this size, as the fields "0", "1", … of a hash.
const pieceSize = 48 << 10

// unusedPieces is how long the pieces of a message are kept that has no record or task: before it
// is there, and for the case that a task comes back after a crash.
const unusedPieces = 24 * time.Hour

// cut returns a message in pieces, and what tells it from others.
func cut(message []byte) (fields map[string]any, sum string) {
	digest := sha256.Sum256(message)
	fields = map[string]any{}
	for piece := range slices.Chunk(message, pieceSize) {
		fields[strconv.Itoa(len(fields))] = piece
	}
	return fields, hex.EncodeToString(digest[:8])
}

// join reads the pieces of a message.
func (s *Store) join(ctx context.Context, key string, pieces int) ([]byte, error) {
	fields := make([]string, pieces)
	for i := range fields {
		fields[i] = strconv.Itoa(i)
	}
	all, err := s.client.HMGet(ctx, key, fields...).Result()
	if err != nil {
		return nil, err
	}
	var message []byte
	for _, piece := range all {
		text, ok := piece.(string)
		if !ok {
			return nil, errMessageGone
		}
		message = append(message, text...)
	}
	return message, nil
}

// errUnreadable says that the message of a job is damaged.
var errUnreadable = errors.New("the message cannot be read: it can only be discarded")

// Unreadable reports whether an error says that a record is there and damaged: it can only be discarded.
func Unreadable(err error) bool { return errors.Is(err, errUnreadable) }

// errMessageGone says that the pieces of a message are not in Redis any more.
var errMessageGone = fmt.Errorf("%w: parts of it have gone from Redis", errUnreadable)

// piecesKey is the hash in which the message of a task is kept beside it. The keys of the tasks of
// failed jobs, which versions before this one kept in asynq, are of the same form.
func piecesKey(queue, key, sum string) string {
	return "onceover:message:" + queue + ":" + key + ":" + sum
}

func (s *Store) putPieces(ctx context.Context, key string, message []byte) (n int, sum string, err error) {
	fields, sum := cut(message)
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, piecesKey(QueueDelay, key, sum), fields)
		p.Persist(ctx, piecesKey(QueueDelay, key, sum))
		return nil
	})
	return len(fields), sum, err
}

// dropPieces lets the pieces of a parked job's message run out, if it has any.
func (s *Store) dropPieces(ctx context.Context, key string, j *job) error {
	if j.Pieces == 0 {
		return nil
	}
	return s.client.Expire(ctx, piecesKey(QueueDelay, key, j.Sum), unusedPieces).Err()
}

// read returns the record that a task holds, with its message.
func (s *Store) read(ctx context.Context, queue, key string, payload []byte) (*job, error) {
	j, err := decodeJob(payload)
	if err != nil {
		return nil, fmt.Errorf("task %s of queue %s: %w", key, queue, err)
	}
	if j.Pieces > 0 {
		if j.Message, err = s.join(ctx, piecesKey(queue, key, j.Sum), j.Pieces); err != nil {
			return nil, fmt.Errorf("job %s: %w", j.ID, err)
		}
	}
	if err := json.Unmarshal(j.Message, &j.Record.Message); err != nil {
		return nil, fmt.Errorf("%w: job %s: %w", errUnreadable, j.ID, err)
	}
	return j, nil
}

// sweepPieces has the pieces expire of messages whose task was deleted by somebody
// who does not know of them, such as asynq's own tools.
func (s *Store) sweepPieces(ctx context.Context) error {
	prefix := strings.TrimRight(piecesKey("", "", ""), ":") + ":"
	scan := s.client.Scan(ctx, 0, prefix+"*", 500).Iterator()
	for scan.Next(ctx) {
		queue, rest, _ := strings.Cut(strings.TrimPrefix(scan.Val(), prefix), ":")
		cut := max(strings.LastIndexByte(rest, ':'), 0)
		key, sum := rest[:cut], strings.TrimPrefix(rest[cut:], ":")
		info, err := s.inspector.GetTaskInfo(queue, key)
		if err != nil && !gone(err) {
			return fmt.Errorf("look whether the message pieces of %s are needed: %w", key, err)
		}
		if err == nil {
			if j, err := decodeJob(info.Payload); err == nil && j.Sum == sum {
				// It may have been about to be deleted, and come back after a crash.
				if err := s.client.Persist(ctx, scan.Val()).Err(); err != nil {
					return fmt.Errorf("keep the message pieces of %s: %w", key, err)
				}
				continue
			}
		}
		// Not at once: the task may be about to be enqueued. If it is, the pieces are
		// written before it, without expiry.
		if err := s.client.ExpireNX(ctx, scan.Val(), unusedPieces).Err(); err != nil {
			return fmt.Errorf("let the message pieces of %s expire: %w", key, err)
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("look for left message pieces: %w", err)
	}
	return nil
}
