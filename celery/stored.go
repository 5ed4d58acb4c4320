package celery

import (
	"crypto/sha256"
	"fmt"
)

// Stored is what is on record of a task: its document as it stands, and what that says.
// The zero value: nothing is on record.
type Stored struct {
	Raw  string
	Meta *Meta // nil: nothing is on record, or it is not readable as Celery's
}

// Ended reports whether the task has a final state on record: SUCCESS, FAILURE or REVOKED.
func (s Stored) Ended() bool { return s.Meta != nil && s.Meta.Status.Final() }

// Digest identifies an end that is on record; "" if there is none.
func (s Stored) Digest() string {
	if !s.Ended() {
		return ""
	}
	sum := sha256.Sum256([]byte(s.Raw))
	return fmt.Sprintf("%x", sum[:16])
}
