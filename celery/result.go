package celery

import (
	"encoding/json"
	"errors"
)

// Result names a task or group that was sent, as Celery's AsyncResult and
// GroupResult: by it a client finds the outcome. Its JSON is the result tuple of
// Celery, [[id, parent], null] or [[group id, parent], [members]]
// (celery/result.py, as_tuple).
type Result struct {
	ID      string
	Parent  *Result   // what ran before it in a chain; nil when none
	Members []*Result // of a group; nil for a task
}

// IsGroup tells a group, even an empty one, from a task.
func (r *Result) IsGroup() bool { return r.Members != nil }

// MarshalJSON writes the result tuple.
func (r *Result) MarshalJSON() ([]byte, error) {
	var parent, members any
	if r.Parent != nil {
		parent = r.Parent
	}
	if r.IsGroup() {
		members = r.Members
	}
	return MarshalJSON([]any{[]any{r.ID, parent}, members})
}

// UnmarshalJSON reads a result tuple. A bare id is accepted as well, as Celery
// does.
func (r *Result) UnmarshalJSON(data []byte) error {
	*r = Result{}
	if json.Unmarshal(data, &r.ID) == nil {
		return nil
	}
	var pair []json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil || len(pair) != 2 {
		return errors.New("not a result tuple [[id, parent], members]")
	}
	if json.Unmarshal(pair[0], &r.ID) != nil {
		var own []json.RawMessage
		if err := json.Unmarshal(pair[0], &own); err != nil || len(own) != 2 {
			return errors.New("not a result tuple: expected [id, parent] in it")
		}
		if err := json.Unmarshal(own[0], &r.ID); err != nil {
			return errors.New("not a result tuple: its id is not a string")
		}
		if err := json.Unmarshal(own[1], &r.Parent); err != nil {
			return err
		}
	}
	return json.Unmarshal(pair[1], &r.Members)
}

// origin is the first result of the chain that r ends.
func (r *Result) origin() *Result {
	for r.Parent != nil {
		r = r.Parent
	}
	return r
}
