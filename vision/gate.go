package vision

import (
	"context"
	"errors"
	"time"
)

// Gate decides when a call of a model may begin, for all processes together: fleet.Gate. Without one calls begin at
// once, and nobody keeps count of their money.
type Gate interface {
	// Enter waits until the call may begin. The error is an *Error of class RateLimited, Spent, or the class of the fault
	// for which the endpoint is not asked at the moment, or says that Redis is away, or wraps context.Cause(ctx).
	Enter(ctx context.Context, c Call) (Pass, error)
}

// Pass is the right to make one call.
type Pass interface {
	// Leave says how the call ended and returns what is charged for it, in millionths of a US dollar. It is called once.
	Leave(End) (cost int64)
}

// Call is one that is about to begin.
type Call struct {
	Endpoint string // its name
	Model    string
	Prompt   string // version
	Kind     string // analysis, analysis/repair or feedback
	Size     string // class of the picture's size, "" without one: pictures of a class count as equally many tokens
	Last     bool   // no other call is paid for in its job
	// Unanswered says that an earlier attempt of its job has paid for a call, or may have, and has no answer.
	Unanswered bool
	Named      bool // the model is the job's own choice: that it is missing is the job's fault

	Prices
	Most    Tokens        // of which no call has more; holds until others were seen
	Timeout time.Duration // of the call
	Wait    time.Duration // how long it may wait at most; 0: as long as the gate lets it
	Bytes   int           // of the request, held while it waits

	Priority uint8     // of the job, 0 to 9: the higher goes first
	User     string    // whose job it is, "" if nobody's
	Expires  time.Time // of the job: nothing is paid for after that; zero: never
}

// wait is how long a call may wait for its turn; 0 if that does not matter.
func (o Options) wait(now time.Time) time.Duration {
	if o.Until.IsZero() {
		return 0
	}
	return max(o.Until.Sub(now), time.Millisecond)
}

// Prices are millionths of a US dollar per million tokens, so that 150_000 is $0.15. Both are 0 where the price is
// not known.
type Prices struct {
	In, Out int64
}

// Known reports whether there are prices.
func (p Prices) Known() bool { return p.In > 0 || p.Out > 0 }

// Cost is the price of tokens in millionths of a US dollar, rounded.
func (p Prices) Cost(t Tokens) int64 {
	return (int64(t.Prompt)*p.In + int64(t.Completion)*p.Out + 500_000) / 1_000_000
}

// Tokens count those of a call.
type Tokens struct {
	Prompt, Completion int
}

// End is how a call ended.
type End struct {
	Err  error // nil, an *Error, or that its context ended
	Paid bool  // a provider may ask money for it
	Tokens
}

// Class is the class of the fault; "" if the call has given an answer, and neither if it was given up.
func (e End) Class() (c Class, known bool) {
	var fault *Error
	switch {
	case e.Err == nil:
		return "", true
	case errors.As(e.Err, &fault):
		return fault.Class, true
	}
	return "", false
}
