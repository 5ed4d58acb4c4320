package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kinds of signatures that are not a task themselves, Signature.Kind.
const (
	KindTask  = ""
	KindChain = "chain"
	KindGroup = "group"
	KindChord = "chord"
)

// Signature is a call that is still to be made: of one task, or of a canvas of
// them. Its JSON is Celery's (celery/canvas.py, Signature).
//
// A chain has its steps and a group its members in Tasks; a chord has a group as
// Header and any signature as Body.
type Signature struct {
	Task      string
	Args      []json.RawMessage // positional arguments; what it is applied to comes before them
	Kwargs    map[string]json.RawMessage
	Options   Options
	Kind      string // KindTask, KindChain, …; Celery has more, which are tasks to us
	Immutable bool   // what it is applied to is dropped

	Tasks  []*Signature
	Header *Signature
	Body   *Signature
}

// Signatures is a list of signatures; on the wire a single one may stand for a
// list of one.
type Signatures []*Signature

// UnmarshalJSON reads a signature, a list of them, or null.
func (l *Signatures) UnmarshalJSON(data []byte) error {
	switch data = bytes.TrimSpace(data); {
	case len(data) > 0 && data[0] == '{':
		var one Signature
		if err := json.Unmarshal(data, &one); err != nil {
			return err
		}
		*l = Signatures{&one}
		return nil
	default:
		var many []*Signature
		if err := json.Unmarshal(data, &many); err != nil {
			return err
		}
		if slices.Contains(many, nil) {
			return fmt.Errorf("null in a list of signatures")
		}
		*l = many
		return nil
	}
}

func (l Signatures) clone() Signatures {
	if l == nil {
		return nil
	}
	out := make(Signatures, len(l))
	for i, s := range l {
		out[i] = s.Clone()
	}
	return out
}

// wireSignature is the dict that Celery sends.
type wireSignature struct {
	Task        string            `json:"task"`
	Args        []json.RawMessage `json:"args"`
	Kwargs      json.RawMessage   `json:"kwargs"`
	Options     Options           `json:"options"`
	SubtaskType *string           `json:"subtask_type"`
	Immutable   bool              `json:"immutable"`
}

// UnmarshalJSON reads a signature in any of the forms that Celery sends.
func (s *Signature) UnmarshalJSON(data []byte) error {
	var w wireSignature
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("not a signature: %w", err)
	}
	*s = Signature{Task: w.Task, Args: w.Args, Options: w.Options, Immutable: w.Immutable}
	if w.Task == "" {
		return fmt.Errorf("not a signature: it has no task name")
	}
	if w.SubtaskType != nil {
		s.Kind = *w.SubtaskType
	}
	kwargs := w.Kwargs
	if len(kwargs) == 0 {
		kwargs = json.RawMessage("{}")
	}
	var err error
	switch s.Kind {
	case KindChain, KindGroup:
		var k struct {
			Tasks Signatures `json:"tasks"`
		}
		err = json.Unmarshal(kwargs, &k)
		s.Tasks = k.Tasks
	case KindChord:
		var k struct {
			Header Signatures                 `json:"header"`
			Body   *Signature                 `json:"body"`
			Kwargs map[string]json.RawMessage `json:"kwargs"`
		}
		err = json.Unmarshal(kwargs, &k)
		s.Header, s.Body, s.Kwargs = groupOf(k.Header), k.Body, k.Kwargs
		if err == nil && s.Body == nil {
			err = fmt.Errorf("a chord without a body")
		}
	default:
		err = json.Unmarshal(kwargs, &s.Kwargs)
	}
	if err != nil {
		return fmt.Errorf("signature of %s: %w", clip(s.Task, 64), err)
	}
	return nil
}

// groupOf is a chord's header: a group as it is, a chain or a list of signatures
// as the group of its parts.
func groupOf(l Signatures) *Signature {
	if len(l) == 1 {
		switch l[0].Kind {
		case KindGroup:
			return l[0]
		case KindChain:
			return Group(l[0].Tasks...)
		}
	}
	return Group(l...)
}

// MarshalJSON writes the signature as Celery does.
func (s *Signature) MarshalJSON() ([]byte, error) {
	w := wireSignature{Task: s.Task, Args: s.Args, Options: s.Options, Immutable: s.Immutable}
	if w.Args == nil {
		w.Args = []json.RawMessage{}
	}
	if s.Kind != KindTask {
		w.SubtaskType = &s.Kind
	}
	kwargs := s.Kwargs
	if kwargs == nil {
		kwargs = map[string]json.RawMessage{}
	}
	var err error
	switch s.Kind {
	case KindChain, KindGroup:
		w.Kwargs, err = MarshalJSON(map[string]any{"tasks": nonNil(s.Tasks)})
	case KindChord:
		var header any = s.Header
		if s.Header.Options.TaskID == "" { // not frozen yet: Celery has a plain list
			header = nonNil(s.Header.Tasks)
		}
		w.Kwargs, err = MarshalJSON(map[string]any{"header": header, "body": s.Body, "kwargs": kwargs})
	default:
		w.Kwargs, err = MarshalJSON(kwargs)
	}
	if err != nil {
		return nil, err
	}
	return MarshalJSON(w)
}

func nonNil(l []*Signature) []*Signature {
	if l == nil {
		return []*Signature{}
	}
	return l
}

// Clone returns a copy that shares nothing that can be changed. A nil signature
// gives nil.
func (s *Signature) Clone() *Signature {
	if s == nil {
		return nil
	}
	out := *s
	out.Args = slices.Clone(s.Args)
	out.Kwargs = maps.Clone(s.Kwargs)
	out.Options = s.Options.clone()
	out.Tasks = Signatures(s.Tasks).clone()
	out.Header = s.Header.Clone()
	out.Body = s.Body.Clone()
	return &out
}

// NewSignature returns the signature of a call of task with positional
// arguments, which have to be JSON values: it panics on others (channels,
// functions), which is a mistake of the program.
func NewSignature(task string, args ...any) *Signature {
	s := &Signature{Task: task}
	for _, a := range args {
		s.Args = append(s.Args, mustJSON(a))
	}
	return s
}

// Chain returns the signature of a chain: each step is called with the result of
// the one before it.
func Chain(steps ...*Signature) *Signature {
	return &Signature{Task: "celery.chain", Kind: KindChain, Tasks: steps}
}

// Group returns the signature of a group: all members run at once.
func Group(members ...*Signature) *Signature {
	return &Signature{Task: "celery.group", Kind: KindGroup, Tasks: members}
}

// Chord returns the signature of a chord: body is called with the list of the
// results of header, once all are there.
func Chord(header []*Signature, body *Signature) *Signature {
	return &Signature{Task: "celery.chord", Kind: KindChord, Header: Group(header...), Body: body}
}

// SetKwarg sets a keyword argument, a JSON value as in NewSignature, and returns
// s.
func (s *Signature) SetKwarg(name string, value any) *Signature {
	if s.Kwargs == nil {
		s.Kwargs = map[string]json.RawMessage{}
	}
	s.Kwargs[name] = mustJSON(value)
	return s
}

// SetImmutable makes s drop what it is applied to, as Celery's si(), and returns
// s.
func (s *Signature) SetImmutable() *Signature {
	s.Immutable = true
	return s
}

// SetCountdown makes s run after d at the earliest, and returns s.
func (s *Signature) SetCountdown(d time.Duration) *Signature {
	seconds := d.Seconds()
	s.Options.Countdown = &seconds
	return s
}

func mustJSON(v any) json.RawMessage {
	raw, err := MarshalJSON(v)
	if err != nil {
		panic(fmt.Sprintf("celery: an argument of a signature is not a JSON value: %v", err))
	}
	return raw
}

// LinkSuccess adds a callback: to a chain's last step, a chord's body, a group's
// first member (celery/canvas.py, link).
func (s *Signature) LinkSuccess(callback *Signature) {
	switch {
	case s.Kind == KindChord:
		s.Body.LinkSuccess(callback)
	case s.Kind == KindGroup && len(s.Tasks) > 0:
		callback = callback.Clone()
		callback.Immutable = true
		s.Tasks[0].LinkSuccess(callback)
	default:
		s.Options.Link = appendOnce(s.Options.Link, callback)
	}
}

// LinkFailure adds an errback: to a chord's body, to every member of a group.
func (s *Signature) LinkFailure(errback *Signature) {
	switch s.Kind {
	case KindChord:
		for _, t := range s.Header.Tasks {
			if t.Kind == KindChord {
				t.LinkFailure(errback)
			}
		}
		s.Body.LinkFailure(errback)
	case KindGroup:
		for _, t := range s.Tasks {
			t.LinkFailure(errback.Clone())
		}
	default:
		s.Options.LinkError = appendOnce(s.Options.LinkError, errback)
	}
}

// appendOnce leaves out what is there already (append_to_list_option).
func appendOnce(l Signatures, s *Signature) Signatures {
	return append(l, Signatures{s}.Without(l)...)
}

// Without returns the signatures of l that are not in other.
func (l Signatures) Without(other Signatures) Signatures {
	var out Signatures
	for _, s := range l {
		if !slices.ContainsFunc(other, s.equal) {
			out = append(out, s)
		}
	}
	return out
}

func (s *Signature) equal(other *Signature) bool {
	a, errA := MarshalJSON(s)
	b, errB := MarshalJSON(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// Stamp puts a stamp on every task of s: a header that goes with it, by which it
// can be revoked.
func (s *Signature) Stamp(name string, value any) {
	raw := mustJSON(value)
	s.walk(func(t *Signature) {
		if !slices.Contains(t.Options.StampedHeaders, name) {
			t.Options.StampedHeaders = append(t.Options.StampedHeaders, name)
		}
		if t.Options.Extra == nil {
			t.Options.Extra = map[string]json.RawMessage{}
		}
		t.Options.Extra[name] = raw
	})
}

// walk calls f for s, the parts of the canvas and the links.
func (s *Signature) walk(f func(*Signature)) {
	f(s)
	for _, l := range []Signatures{s.Tasks, s.Options.Link, s.Options.LinkError} {
		for _, t := range l {
			t.walk(f)
		}
	}
	if s.Kind == KindChord {
		for _, t := range s.Header.Tasks {
			t.walk(f)
		}
		s.Body.walk(f)
	}
}

// FollowerIDs are the ids of all that fails if r does: the later steps of its chain,
// and of those the parts of a group or chain and the body of a chord.
func (r *Request) FollowerIDs() []string {
	var ids []string
	var add func(*Signature)
	add = func(s *Signature) {
		if s.Options.TaskID != "" {
			ids = append(ids, s.Options.TaskID)
		}
		for _, t := range s.Tasks {
			add(t)
		}
		if s.Body != nil {
			add(s.Body)
		}
	}
	for _, s := range r.Chain {
		add(s)
	}
	return ids
}
