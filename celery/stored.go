package celery

import (
	"crypto/sha1"
	"fmt"
)

// Stored is what is on record of a task: its document as it stands, and what that says.
// The zero value: nothing is on record.
type Stored struct {
	Raw  string
	Meta *Meta // nil: nothing is on record, or it is not readable as Celery's
}

// AnyEnd stands for the [Stored.Digest] of whatever end is on record.
const AnyEnd = "any"

// Ended reports whether the task has a final state on record: SUCCESS, FAILURE or REVOKED.
func (s Stored) Ended() bool { return s.Meta != nil && s.Meta.Status.Final() }

// Digest identifies an end that is on record; "" if there is none. It is the SHA-1 of the document
// in hexadecimal, which a Redis script can compute too. Nothing is kept from anybody by it.
func (s Stored) Digest() string {
	if !s.Ended() {
		return ""
	}
	return fmt.Sprintf("%x", sha1.Sum([]byte(s.Raw)))
}
