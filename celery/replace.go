package celery

import "slices"

// Replacement is the signature that takes the place of r: s with r's id, links,
// group, chord and stamps, followed by what follows r. s is not changed. The
// error is an *Exception (celery/app/task.py, Task.replace).
func (r *Request) Replacement(s *Signature) (*Signature, error) {
	refuse := func(message string) (*Signature, error) {
		return nil, &Exception{Type: "ImproperlyConfigured", Module: ModuleCelery, Args: []any{message}}
	}
	s = s.Clone()
	if s.Options.Chord != nil {
		return refuse("A signature replacing a task must not be part of a chord")
	}
	// A group has no single result: accumulate makes one of its results.
	accumulate := func() *Signature { return NewSignature("celery.accumulate").SetKwarg("index", 0) }
	switch n := len(s.Tasks); {
	case s.Kind == KindChain && n == 0:
		return refuse("Cannot replace with an empty chain")
	case s.Kind == KindGroup:
		s = &Signature{Task: "celery.chord", Kind: KindChord, Header: s, Body: accumulate()}
	case s.Kind == KindChain && s.Tasks[n-1].Kind == KindGroup:
		s.Tasks[n-1] = &Signature{Task: "celery.chord", Kind: KindChord, Header: s.Tasks[n-1], Body: accumulate()}
	}
	for _, callback := range r.Callbacks {
		s.LinkSuccess(callback.Clone())
	}
	for _, errback := range r.Errbacks {
		s.LinkFailure(errback.Clone())
	}
	nesting := r.ReplacedTaskNesting + 1
	s.Options.ReplacedTaskNesting = nesting
	if s.Kind == KindChain {
		for _, step := range s.Tasks {
			step.Options.ReplacedTaskNesting = nesting
		}
	}
	// What completes s carries r's id, and r's place in its group and chord; the
	// steps that follow have ids and places of their own.
	o := &s.Options
	o.TaskID, o.RootID = r.ID, r.RootID
	o.GroupID, o.GroupIndex, o.Chord = r.Group, r.GroupIndex, r.Chord
	if len(r.Chain) == 0 {
		return s, nil
	}
	steps := []*Signature{s}
	for _, step := range slices.Backward(r.Chain) {
		step = step.Clone()
		step.Options.ReplacedTaskNesting = nesting
		steps = append(steps, step)
	}
	return Chain(steps...), nil
}
