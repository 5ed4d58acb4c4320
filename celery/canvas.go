package celery

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Plan is what has to be done to start signatures on behalf of a task: the
// messages to publish, in order, once the chord sizes and groups are stored. It
// is made by [Plan.Apply], which does no I/O.
//
// Tasks without an id of their own get one that derives from the parent's id and
// from their place in the plan: a plan made again, after a crash, has the same
// ids.
type Plan struct {
	Parent *Request // on whose behalf; nil: the signatures are roots
	Salt   string   // tells plans of one parent apart
	Now    time.Time
	Origin string // header origin of the messages

	Messages   []Message
	ChordSizes []ChordSize
	Groups     []*Result // headers whose results are nested, to be stored by their id
	Children   []*Result // what was started, in the form of Celery's children

	ids int
}

// Message is a task message to be published. An empty Exchange with a Queue
// means the default exchange with the queue's name as routing key; all three
// empty mean the default queue.
type Message struct {
	Request    *Request
	Queue      string
	Exchange   string
	RoutingKey string
}

// ChordSize is how many completions a chord waits for.
type ChordSize struct {
	Group string // id of the header
	Size  int
}

// newID returns the next derived id, or a random one for a plan without parent.
func (p *Plan) newID() string {
	if p.Parent == nil {
		return uuid.NewString()
	}
	p.ids++
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "onceover/%s/%s/%d", p.Parent.ID, p.Salt, p.ids)).String()
}

// Apply plans to start s with args before its own arguments and returns what
// will hold the result. s is not changed. The rules are those of
// celery/canvas.py: a chain is flattened, a group followed by a step becomes a
// chord, what follows a chord follows its body.
func (p *Plan) Apply(s *Signature, args []json.RawMessage, over Options) (*Result, error) {
	return p.apply(s.Clone(), args, nil, over, true)
}

// apply is Apply on a signature that may be changed. trail tells whether what
// starts counts as a child of the parent.
func (p *Plan) apply(s *Signature, args []json.RawMessage, kwargs map[string]json.RawMessage, over Options, trail bool) (*Result, error) {
	switch s.Kind {
	case KindChain:
		return p.applyChain(s, args, kwargs, over, trail)
	case KindGroup:
		return p.applyGroup(s, args, kwargs, over, trail)
	case KindChord:
		return p.applyChord(s, args, kwargs, over, trail)
	default:
		return p.applyTask(s, args, kwargs, over, trail)
	}
}

// prepend puts the arguments that s is applied to before its own.
func (s *Signature) prepend(args []json.RawMessage, kwargs map[string]json.RawMessage) {
	if s.Immutable {
		return
	}
	s.Args = slices.Concat(args, s.Args)
	for k, v := range kwargs {
		if s.Kwargs == nil {
			s.Kwargs = map[string]json.RawMessage{}
		}
		s.Kwargs[k] = v
	}
}

func (p *Plan) applyTask(s *Signature, args []json.RawMessage, kwargs map[string]json.RawMessage, over Options, trail bool) (*Result, error) {
	s.prepend(args, kwargs)
	o := s.Options.merged(over)
	if o.TaskID == "" {
		o.TaskID = p.newID()
	}
	r := &Request{
		Task: s.Task, ID: o.TaskID, RootID: o.RootID, ParentID: o.ParentID,
		Group: o.GroupID, GroupIndex: o.GroupIndex,
		Shadow: o.Shadow, Origin: p.Origin, ReplyTo: o.ReplyTo,
		Args: s.Args, Kwargs: s.Kwargs,
		Retries:   o.Retries,
		Callbacks: o.Link, Errbacks: o.LinkError, Chain: o.Chain, Chord: o.Chord,
		ReplacedTaskNesting: o.ReplacedTaskNesting,
		StampedHeaders:      o.StampedHeaders, Stamps: o.stamps(),
	}
	if p.Parent != nil {
		if r.RootID == "" {
			r.RootID = p.Parent.RootID
		}
		if r.ParentID == "" {
			r.ParentID = p.Parent.ID
		}
		if r.ReplyTo == "" {
			r.ReplyTo = p.Parent.ReplyTo
		}
	}
	if r.RootID == "" {
		r.RootID = r.ID
	}
	if o.IgnoreResult != nil {
		r.IgnoreResult = *o.IgnoreResult
	}
	if o.TimeLimit != nil {
		r.TimeLimit = time.Duration(*o.TimeLimit * float64(time.Second))
	}
	if o.SoftTimeLimit != nil {
		r.SoftTimeLimit = time.Duration(*o.SoftTimeLimit * float64(time.Second))
	}
	if len(o.Headers) > 0 {
		r.Headers = map[string]any{}
		for k, raw := range o.Headers {
			r.Headers[k] = tableValue(raw)
		}
	}
	if o.Priority != nil {
		priority := uint8(min(max(*o.Priority, 0), 255))
		r.Properties.Priority = &priority
	}
	if err := p.times(r, o); err != nil {
		return nil, fmt.Errorf("signature of %s: %w", clip(s.Task, 64), err)
	}
	p.Messages = append(p.Messages, Message{Request: r, Queue: o.Queue, Exchange: o.Exchange, RoutingKey: o.RoutingKey})
	result := &Result{ID: o.TaskID}
	if trail {
		p.Children = append(p.Children, result)
	}
	return result, nil
}

// times sets the ETA and the expiry of r. As in Celery an ETA is a time and a countdown
// a number of seconds, which wins; expires may be either (celery/app/amqp.py,
// as_task_v2).
func (p *Plan) times(r *Request, o Options) (err error) {
	if len(o.ETA) > 0 {
		if r.ETA, err = momentOf(o.ETA); err != nil {
			return fmt.Errorf("option eta: %w", err)
		}
	}
	if o.Countdown != nil {
		if r.ETA, err = p.in(*o.Countdown); err != nil {
			return fmt.Errorf("option countdown: %w", err)
		}
	}
	if len(o.Expires) > 0 {
		var seconds float64
		if json.Unmarshal(o.Expires, &seconds) == nil {
			r.Expires, err = p.in(seconds)
		} else {
			r.Expires, err = momentOf(o.Expires)
		}
		if err != nil {
			return fmt.Errorf("option expires: %w", err)
		}
	}
	return nil
}

// momentOf reads an option that is a time.
func momentOf(raw json.RawMessage) (time.Time, error) {
	var text string
	if err := json.Unmarshal(richText(raw), &text); err != nil {
		return time.Time{}, fmt.Errorf("%s is not a time: expected a text such as \"2030-01-02T12:04:05+09:00\"", clip(string(raw), 64))
	}
	return ParseTime(text)
}

// in is the time in so many seconds from now.
func (p *Plan) in(seconds float64) (time.Time, error) {
	const century = 100 * 365 * 24 * 60 * 60
	if !(math.Abs(seconds) <= century) {
		return time.Time{}, fmt.Errorf("%g seconds from now are more than a hundred years", seconds)
	}
	return p.Now.Add(time.Duration(seconds * float64(time.Second))), nil
}

// completion is what the part of a signature that completes it has to carry.
type completion struct {
	id    string
	group string
	index *int
	chord *Signature
	root  string
}

// freeze gives every part of s its id and the completing part what in says, in
// place. An id or a group that a part has already stays.
func (p *Plan) freeze(s *Signature, in completion) *Result {
	o := &s.Options
	switch s.Kind {
	case KindChain:
		return p.prepareChain(s, in)
	case KindGroup:
		if o.TaskID == "" {
			o.TaskID = p.newID()
		}
		if in.group != "" {
			o.GroupID = in.group
		}
		if in.chord != nil {
			o.Chord = in.chord
		}
		if in.index != nil {
			o.GroupIndex = in.index
		}
		if o.RootID == "" {
			o.RootID = in.root
		}
		s.Tasks = flattenGroup(s.Tasks)
		group := &Result{ID: o.TaskID, Members: []*Result{}}
		for i, t := range s.Tasks {
			group.Members = append(group.Members, p.freeze(t, completion{group: in.group, index: &i, chord: in.chord, root: in.root}))
		}
		return group
	case KindChord:
		if in.id == "" {
			in.id = o.TaskID
		}
		header := p.freeze(s.Header, completion{root: in.root})
		body := p.freeze(s.Body, in)
		if first := body.origin(); first != header {
			first.Parent = header
		}
		return body
	}
	if o.TaskID == "" {
		if o.TaskID = in.id; in.id == "" {
			o.TaskID = p.newID()
		}
	}
	if in.root != "" {
		o.RootID = in.root
	}
	if o.GroupID == "" {
		o.GroupID = in.group
	}
	if in.chord != nil {
		o.Chord = in.chord
	}
	if in.index != nil {
		o.GroupIndex = in.index
	}
	return &Result{ID: o.TaskID}
}

// flattenGroup puts the members of groups among the members in their place and
// drops empty chains.
func flattenGroup(tasks []*Signature) []*Signature {
	var out []*Signature
	for _, t := range tasks {
		switch {
		case t.Kind == KindGroup:
			out = append(out, flattenGroup(t.Tasks)...)
		case t.Kind == KindChain && len(t.Tasks) == 0:
		default:
			out = append(out, t)
		}
	}
	return out
}

func (p *Plan) applyGroup(s *Signature, args []json.RawMessage, kwargs map[string]json.RawMessage, over Options, trail bool) (*Result, error) {
	o := s.Options.merged(over)
	gid := o.TaskID
	if gid == "" {
		gid = p.newID()
	}
	group := &Result{ID: gid, Members: []*Result{}}
	tasks := flattenGroup(s.Tasks)
	if len(tasks) == 0 {
		return group, nil
	}
	for i, t := range tasks {
		group.Members = append(group.Members, p.freeze(t, completion{group: gid, index: &i, root: o.RootID}))
	}
	chord := o.Chord
	if chord == nil {
		chord = tasks[len(tasks)-1].Options.Chord
	}
	if chord != nil {
		size := 0
		for _, t := range tasks {
			size += completions(t)
		}
		p.ChordSizes = append(p.ChordSizes, ChordSize{Group: gid, Size: size})
	}
	each := o
	each.TaskID, each.GroupIndex, each.Link, each.LinkError = "", nil, nil, nil
	each.GroupID, each.Chord = gid, chord
	for _, t := range tasks {
		if _, err := p.apply(t, args, kwargs, each, false); err != nil {
			return nil, err
		}
	}
	// A group of one that ends in a group is that group.
	if len(group.Members) == 1 && group.Members[0].IsGroup() {
		group = group.Members[0]
	}
	if trail {
		p.Children = append(p.Children, group)
	}
	return group, nil
}

// completions counts what a signature reports to a chord: each task of a group,
// the last step of a chain that has any, a chord's body.
func completions(s *Signature) int {
	switch s.Kind {
	case KindGroup:
		n := 0
		for _, t := range s.Tasks {
			n += completions(t)
		}
		return n
	case KindChain:
		for i := len(s.Tasks) - 1; i >= 0; i-- {
			if n := completions(s.Tasks[i]); n > 0 {
				return n
			}
		}
		return 0
	case KindChord:
		return completions(s.Body)
	default:
		return 1
	}
}

func (p *Plan) applyChord(s *Signature, args []json.RawMessage, kwargs map[string]json.RawMessage, over Options, trail bool) (*Result, error) {
	o := s.Options.merged(over)
	if s.Immutable {
		args = s.Args
	} else {
		args = slices.Concat(args, s.Args)
		for k, v := range s.Kwargs {
			if _, given := kwargs[k]; !given {
				kwargs = setKwarg(kwargs, k, v)
			}
		}
	}
	header, body := s.Header, s.Body
	gid := header.Options.TaskID
	if gid == "" {
		gid = p.newID()
		header.Options.TaskID = gid
	}
	bodyID := o.TaskID

	// Links, and what completes the chord, belong to the body; a delay belongs to
	// the header.
	for _, callback := range o.Link {
		body.LinkSuccess(callback)
	}
	for _, errback := range o.LinkError {
		if body.Kind == KindGroup {
			body.LinkFailure(errback)
		} else {
			body.Options.LinkError = append(body.Options.LinkError, errback)
		}
	}
	forBody := o
	forBody.TaskID, forBody.ParentID, forBody.Link, forBody.LinkError, forBody.Countdown, forBody.ETA = "", "", nil, nil, nil, nil
	body.Options = overlay(body.Options, forBody)
	if bodyID == "" {
		bodyID = p.newID()
	}
	root := body.Options.RootID
	result := p.freeze(body, completion{id: bodyID, group: gid, root: root})

	headerResult := p.freeze(header, completion{root: root})
	for _, t := range header.Tasks {
		setGroup(t, gid)
	}
	if slices.ContainsFunc(headerResult.Members, (*Result).IsGroup) {
		p.Groups = append(p.Groups, headerResult)
	}
	if first := result.origin(); first != headerResult {
		first.Parent = headerResult
	}
	if len(header.Tasks) == 0 {
		_, err := p.apply(body, []json.RawMessage{json.RawMessage("[]")}, nil, Options{}, trail)
		return result, err
	}
	forHeader := o
	forHeader.TaskID, forHeader.Chain, forHeader.Link, forHeader.LinkError = gid, nil, nil, nil
	forHeader.Chord, forHeader.GroupID, forHeader.GroupIndex = body, "", nil
	_, err := p.applyGroup(header, args, kwargs, forHeader, trail)
	return result, err
}

// setGroup makes the completing part of a header's member belong to the header,
// even if it had been frozen for another place before.
func setGroup(s *Signature, gid string) {
	switch s.Kind {
	case KindChain:
		if n := len(s.Tasks); n > 0 {
			setGroup(s.Tasks[n-1], gid)
		}
	case KindChord:
		setGroup(s.Body, gid)
	case KindGroup:
		for _, t := range s.Tasks {
			setGroup(t, gid)
		}
	default:
		s.Options.GroupID = gid
	}
}

// overlay is merged without the exception for the group: a chord's body belongs
// to the group that the chord belongs to.
func overlay(o, over Options) Options {
	out := o.merged(over)
	if over.GroupID != "" {
		out.GroupID = over.GroupID
	}
	return out
}

func setKwarg(kwargs map[string]json.RawMessage, k string, v json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{k: v}
	for k, v := range kwargs {
		out[k] = v
	}
	return out
}
