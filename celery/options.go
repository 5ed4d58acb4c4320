package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Options are the execution options of a signature. The zero value of each
// means that it is not given.
type Options struct {
	TaskID     string `json:"task_id,omitempty"`
	RootID     string `json:"root_id,omitempty"`
	ParentID   string `json:"parent_id,omitempty"`
	GroupID    string `json:"group_id,omitempty"`
	GroupIndex *int   `json:"group_index,omitempty"`
	ReplyTo    string `json:"reply_to,omitempty"`

	Link      Signatures `json:"link,omitempty"`       // called with the result
	LinkError Signatures `json:"link_error,omitempty"` // called with the id of the failed task
	Chain     Signatures `json:"chain,omitempty"`      // what follows, the next one last
	Chord     *Signature `json:"chord,omitempty"`      // the body, in every task of a header

	Queue      string   `json:"queue,omitempty"`
	Exchange   string   `json:"exchange,omitempty"`
	RoutingKey string   `json:"routing_key,omitempty"`
	Priority   *float64 `json:"priority,omitempty"`

	Countdown     *float64        `json:"countdown,omitempty"` // seconds
	ETA           json.RawMessage `json:"eta,omitempty"`       // ISO 8601
	Expires       json.RawMessage `json:"expires,omitempty"`   // ISO 8601, or seconds
	Retries       int             `json:"retries,omitempty"`
	TimeLimit     *float64        `json:"time_limit,omitempty"`      // seconds
	SoftTimeLimit *float64        `json:"soft_time_limit,omitempty"` // seconds
	IgnoreResult  *bool           `json:"ignore_result,omitempty"`
	Shadow        string          `json:"shadow,omitempty"`

	Headers             map[string]json.RawMessage `json:"headers,omitempty"`
	ReplacedTaskNesting int                        `json:"replaced_task_nesting,omitempty"`
	StampedHeaders      []string                   `json:"stamped_headers,omitempty"`

	// Extra are the options of any other name, among them the values of the
	// stamps named in StampedHeaders.
	Extra map[string]json.RawMessage `json:"-"`
}

// plainOptions has the fields of Options without its methods.
type plainOptions Options

// looseOptions are the options that Celery passes on without looking at their type.
type looseOptions struct {
	*plainOptions
	GroupIndex          *looseInt  `json:"group_index"`
	Retries             looseInt   `json:"retries"`
	ReplacedTaskNesting looseInt   `json:"replaced_task_nesting"`
	IgnoreResult        *looseBool `json:"ignore_result"`
}

// UnmarshalJSON reads the options; unknown ones go to Extra.
func (o *Options) UnmarshalJSON(data []byte) error {
	*o = Options{}
	loose := looseOptions{plainOptions: (*plainOptions)(o)}
	if err := json.Unmarshal(data, &loose); err != nil {
		return err
	}
	o.GroupIndex, o.IgnoreResult = (*int)(loose.GroupIndex), (*bool)(loose.IgnoreResult)
	o.Retries, o.ReplacedTaskNesting = int(loose.Retries), int(loose.ReplacedTaskNesting)
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for key, raw := range all {
		if !knownOption(key) && string(raw) != "null" {
			if o.Extra == nil {
				o.Extra = map[string]json.RawMessage{}
			}
			o.Extra[key] = raw
		}
	}
	if string(o.ETA) == "null" {
		o.ETA = nil
	}
	if string(o.Expires) == "null" {
		o.Expires = nil
	}
	return nil
}

// looseInt is an integer that may be written as 1.0 or "1".
type looseInt int

func (n *looseInt) UnmarshalJSON(data []byte) error {
	v, err := anyOf(data)
	i, ok := whole(v)
	if err == nil && !ok {
		err = fmt.Errorf("%s is not an integer", clip(string(data), 64))
	}
	*n = looseInt(i)
	return err
}

// looseBool is true for what is true in Python, such as 1.
type looseBool bool

func (b *looseBool) UnmarshalJSON(data []byte) error {
	v, err := anyOf(data)
	*b = looseBool(truth(v))
	return err
}

// anyOf is a JSON value with numbers as they are written.
func anyOf(data []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

func knownOption(key string) bool {
	switch key {
	case "task_id", "root_id", "parent_id", "group_id", "group_index", "reply_to", "link", "link_error", "chain", "chord",
		"queue", "exchange", "routing_key", "priority", "countdown", "eta", "expires", "retries", "time_limit",
		"soft_time_limit", "ignore_result", "shadow", "headers", "replaced_task_nesting", "stamped_headers":
		return true
	}
	return false
}

// MarshalJSON writes the options that are given.
func (o Options) MarshalJSON() ([]byte, error) {
	known, err := MarshalJSON(plainOptions(o))
	if err != nil || len(o.Extra) == 0 {
		return known, err
	}
	extra, err := MarshalJSON(o.Extra)
	if err != nil {
		return nil, err
	}
	if len(known) == len("{}") {
		return extra, nil
	}
	return append(append(known[:len(known)-1], ','), extra[1:]...), nil
}

// stamps are the values of the stamped headers.
func (o *Options) stamps() map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for _, name := range o.StampedHeaders {
		if v, ok := o.Extra[name]; ok {
			out[name] = v
		}
	}
	return out
}

// clone copies everything that is changed in place.
func (o Options) clone() Options {
	o.Link, o.LinkError, o.Chain, o.Chord = o.Link.clone(), o.LinkError.clone(), o.Chain.clone(), o.Chord.Clone()
	o.Extra = maps.Clone(o.Extra)
	o.Headers = maps.Clone(o.Headers)
	o.StampedHeaders = slices.Clone(o.StampedHeaders)
	return o
}

// merged returns o with what over gives in its place. What ties a task to its
// group, and its stamps, is kept (celery/canvas.py, Signature._merge).
func (o Options) merged(over Options) Options {
	out := o.clone()
	set := func(dst *string, v string) {
		if v != "" {
			*dst = v
		}
	}
	set(&out.TaskID, over.TaskID)
	set(&out.RootID, over.RootID)
	set(&out.ParentID, over.ParentID)
	set(&out.ReplyTo, over.ReplyTo)
	set(&out.Queue, over.Queue)
	set(&out.Exchange, over.Exchange)
	set(&out.RoutingKey, over.RoutingKey)
	set(&out.Shadow, over.Shadow)
	if out.GroupID == "" {
		out.GroupID = over.GroupID
	}
	if over.GroupIndex != nil {
		out.GroupIndex = over.GroupIndex
	}
	if over.Link != nil {
		out.Link = over.Link.clone()
	}
	if over.LinkError != nil {
		out.LinkError = over.LinkError.clone()
	}
	if over.Chain != nil {
		out.Chain = over.Chain.clone()
	}
	if over.Chord != nil {
		out.Chord = over.Chord.Clone()
	}
	if over.Priority != nil {
		out.Priority = over.Priority
	}
	if over.Countdown != nil {
		out.Countdown = over.Countdown
	}
	if over.ETA != nil {
		out.ETA = over.ETA
	}
	if over.Expires != nil {
		out.Expires = over.Expires
	}
	if over.Retries != 0 {
		out.Retries = over.Retries
	}
	if over.TimeLimit != nil {
		out.TimeLimit = over.TimeLimit
	}
	if over.SoftTimeLimit != nil {
		out.SoftTimeLimit = over.SoftTimeLimit
	}
	if over.IgnoreResult != nil {
		out.IgnoreResult = over.IgnoreResult
	}
	if over.Headers != nil {
		out.Headers = maps.Clone(over.Headers)
	}
	if over.ReplacedTaskNesting != 0 {
		out.ReplacedTaskNesting = over.ReplacedTaskNesting
	}
	if out.StampedHeaders == nil {
		out.StampedHeaders = slices.Clone(over.StampedHeaders)
	}
	for k, v := range over.Extra {
		if _, kept := out.Extra[k]; kept && slices.Contains(out.StampedHeaders, k) {
			continue
		}
		if out.Extra == nil {
			out.Extra = map[string]json.RawMessage{}
		}
		out.Extra[k] = v
	}
	return out
}
