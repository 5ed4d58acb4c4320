package celery

import (
	"encoding/json"
	"slices"
)

func (p *Plan) applyChain(s *Signature, args []json.RawMessage, kwargs map[string]json.RawMessage, over Options, trail bool) (*Result, error) {
	o := s.Options.merged(over)
	if !s.Immutable {
		args = slices.Concat(args, s.Args)
	} else {
		args = s.Args
	}
	results := p.prepareChain(s, completion{
		id: o.TaskID, group: o.GroupID, index: o.GroupIndex, chord: o.Chord, root: o.RootID,
	})
	if len(s.Tasks) == 0 {
		return nil, nil // an empty chain does nothing
	}
	for _, errback := range o.LinkError {
		for _, step := range s.Tasks {
			step.failWith(errback)
		}
	}
	last := s.Tasks[len(s.Tasks)-1]
	last.Options.Link = append(last.Options.Link, o.Link...)
	first, rest := s.Tasks[0], slices.Clone(s.Tasks[1:])
	slices.Reverse(rest)
	// What the steps' last one needs it has got; the first takes the rest.
	o.TaskID, o.GroupID, o.GroupIndex, o.Chord, o.Link, o.LinkError = "", "", nil, nil, nil, nil
	o.Chain = slices.Concat(o.Chain, rest)
	result, err := p.apply(first, args, kwargs, o, trail)
	if err != nil || len(rest) == 0 {
		return result, err
	}
	return results, nil
}

// failWith adds an errback to a step, and to the body of a step that is a chord.
func (s *Signature) failWith(errback *Signature) {
	switch s.Kind {
	case KindGroup:
		s.LinkFailure(errback)
	case KindChord:
		s.Body.failWith(errback)
	default:
		s.Options.LinkError = appendOnce(s.Options.LinkError, errback)
	}
}

// prepareChain flattens a chain in place into steps of which only the last may
// be a group, freezes them, and returns the result of the last one, with its
// parents (celery/canvas.py, _chain.prepare_steps).
func (p *Plan) prepareChain(s *Signature, in completion) *Result {
	if in.id == "" {
		in.id = s.Options.TaskID
	}
	var steps []*Signature // backwards
	var results []*Result
	flat := flattenChain(s.Tasks)
	for i := len(flat) - 1; i >= 0; i-- {
		step := flat[i]
		n := len(steps)
		var result *Result
		if step.Kind == KindGroup && n > 0 {
			// group | step is a chord.
			step = &Signature{Task: "celery.chord", Kind: KindChord, Header: step, Body: steps[n-1]}
			step.Options.TaskID = step.Body.Options.TaskID
			steps, results = steps[:n-1], results[:n-1]
			n--
		}
		if n == 0 {
			result = p.freeze(step, in)
		} else {
			result = p.freeze(step, completion{root: in.root})
			// The origin of what follows comes after this step.
			results[n-1].origin().Parent = result
		}
		steps, results = append(steps, step), append(results, result)
	}
	slices.Reverse(steps)
	s.Tasks = steps
	if len(results) == 0 {
		return nil
	}
	s.Options.TaskID = results[0].ID
	return results[0]
}

// flattenChain splices the chains among the steps, takes the member of a group
// of one for the group, drops empty groups, and lets the steps of a chord's body
// after the first follow the chord.
func flattenChain(tasks []*Signature) []*Signature {
	var out []*Signature
	for _, t := range tasks {
		for t.Kind == KindGroup && len(t.Tasks) == 1 {
			t = t.Tasks[0]
		}
		switch {
		case t.Kind == KindChain:
			out = append(out, flattenChain(unchain(t))...)
		case t.Kind == KindGroup && len(t.Tasks) == 0:
		case t.Kind == KindChord && ledByTask(t.Body):
			rest := unchain(t.Body)
			t.Body = rest[0]
			out = append(out, t)
			out = append(out, flattenChain(rest[1:])...)
		default:
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		// Nothing but empty groups: one is kept, so that there is a result.
		for _, t := range tasks {
			if t.Kind == KindGroup && len(t.Tasks) == 0 {
				return []*Signature{t}
			}
		}
	}
	return out
}

// ledByTask tells a chain whose first step runs once.
func ledByTask(body *Signature) bool {
	return body.Kind == KindChain && len(body.Tasks) > 0 && body.Tasks[0].Kind != KindGroup
}

// unchain returns the steps of a chain with the chain's links on them.
func unchain(chain *Signature) []*Signature {
	steps := chain.Tasks
	if len(steps) == 0 {
		return nil
	}
	for _, callback := range chain.Options.Link {
		steps[len(steps)-1].LinkSuccess(callback)
	}
	for _, errback := range chain.Options.LinkError {
		for _, step := range steps {
			step.LinkFailure(errback)
		}
	}
	if len(chain.Args) > 0 && !steps[0].Immutable {
		steps[0].Args = slices.Concat(chain.Args, steps[0].Args)
	}
	// What completes the chain is its last step.
	last := &steps[len(steps)-1].Options
	if last.TaskID == "" {
		last.TaskID = chain.Options.TaskID
	}
	if last.GroupID == "" {
		last.GroupID = chain.Options.GroupID
	}
	if last.GroupIndex == nil {
		last.GroupIndex = chain.Options.GroupIndex
	}
	if last.Chord == nil {
		last.Chord = chain.Options.Chord
	}
	return steps
}
