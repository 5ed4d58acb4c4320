package loadtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// Keys of a database that a test has for itself.
const (
	markKey  = "onceover:bench"       // whose it is: what is in it may go
	leaseKey = "onceover:bench:lease" // the test is at work
)

// leaseTime is how long a test that was killed keeps its databases from others.
const leaseTime = time.Minute

// claim takes a database that is empty or, with ARGV[3], that a test has left behind. It empties it in any case, so that a user who may not
// learns it before the test.
var claim = redis.NewScript(`if redis.call('EXISTS', KEYS[2]) == 1 then return 'busy' end
if redis.call('DBSIZE') > 0 then
	if redis.call('EXISTS', KEYS[1]) == 0 then return 'used' end
	if ARGV[3] == '0' then return 'left' end
end
redis.call('FLUSHDB', 'ASYNC')
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 'ours'`)

// keep renews both keys, also if Redis has lost them, unless the database is another one's now.
var keep = redis.NewScript(`local mark = redis.call('GET', KEYS[1])
if mark and mark ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1`)

// leave empties a database that is still ours.
var leave = redis.NewScript(`if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('FLUSHDB', 'ASYNC')
return 1`)

// Space is databases of Redis that a test has for itself.
type Space struct {
	id      string
	clients []*redis.Client
}

// Databases that Claim does not take.
var (
	ErrUsed = errors.New("it is not empty: expected one that nobody uses")
	ErrLeft = errors.New("it has what a test left that was killed")
	ErrBusy = errors.New("it is another test's, which is at work: wait until that has ended")
)

// Claim takes the databases of some clients, which have to be empty; with leftovers, what a killed test left in them is thrown away. What it took
// is given back if it cannot have one. The error wraps one of those above, or is that of Redis.
func Claim(ctx context.Context, leftovers bool, clients ...*redis.Client) (*Space, error) {
	s := &Space{id: uuid.NewString()}
	for _, c := range clients {
		s.clients = append(s.clients, c) // it may be ours although the answer is lost
		opt := c.Options()
		got, err := claim.Run(ctx, c, []string{markKey, leaseKey}, append(s.args(), leftovers)...).Text()
		switch got {
		case "busy":
			err = ErrBusy
		case "used":
			err = ErrUsed
		case "left":
			err = ErrLeft
		}
		if err != nil {
			_ = s.Leave(context.WithoutCancel(ctx)) // what is not ours stays as it is
			return nil, fmt.Errorf("take database %d of redis at %s for the test: %w", opt.DB, opt.Addr, err)
		}
	}
	return s, nil
}

func (s *Space) args() []any {
	return []any{s.id, leaseTime.Milliseconds()}
}

// Keep renews the claim until ctx ends.
func (s *Space) Keep(ctx context.Context) {
	for pause(ctx, leaseTime/4) == nil {
		for _, c := range s.clients {
			_ = keep.Run(ctx, c, []string{markKey, leaseKey}, s.args()...).Err() // the next one may be in time
		}
	}
}

// Leave empties the databases.
func (s *Space) Leave(ctx context.Context) error {
	var faults []error
	for _, c := range s.clients {
		left, err := leave.Run(ctx, c, []string{markKey}, s.id).Bool()
		if err == nil && !left {
			err = errors.New("its mark is gone: Redis has lost it, or somebody else has the database now; look what is in it")
		}
		if err != nil {
			opt := c.Options()
			faults = append(faults, fmt.Errorf("empty database %d of redis at %s, where the test was: %w", opt.DB, opt.Addr, err))
		}
	}
	return errors.Join(faults...)
}
