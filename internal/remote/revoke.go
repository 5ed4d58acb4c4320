package remote

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"onceover/celery"
)

func revoke(r *Remote, a arguments) (any, error) {
	var kill bool
	if err := a.get("terminate", &kill); err != nil {
		return nil, err
	}
	return revokeTasks(r, a, kill)
}

func terminate(r *Remote, a arguments) (any, error) { return revokeTasks(r, a, true) }

// revokeTasks revokes at once what the worker holds and what will come, and in its
// lane what is parked.
func revokeTasks(r *Remote, a arguments, kill bool) (any, error) {
	ids, err := a.texts("task_id")
	if err != nil {
		return nil, err
	}
	r.Revoked.Add(ids...)
	answer, err := revokeHeld(r, a, ids, kill)
	return later{r.parked, func() (any, error) {
		r.node.RevokeParked(ids)
		return answer, err
	}}, nil
}

func revokeHeld(r *Remote, a arguments, ids []string, kill bool) (answer any, err error) {
	signal := int(syscall.SIGTERM)
	if kill {
		if signal, err = signalOf(a); err != nil {
			return nil, err
		}
	}
	named := make(map[string]bool, len(ids))
	for _, id := range ids {
		named[id] = true
	}
	ran := r.node.Revoke(func(req *celery.Request) bool { return named[req.ID] }, kill, signal)
	switch {
	case !kill:
		return ok("tasks " + pythonSet(ids) + " flagged as revoked"), nil
	case len(ran) == 0:
		return ok("terminate: tasks unknown"), nil
	default:
		return ok("terminate: " + strings.Join(ran, ", ")), nil
	}
}

// pythonSet is the repr of a set, whose order is any.
func pythonSet[T any](values []T) string {
	if len(values) == 0 {
		return "set()"
	}
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = celery.Repr(v)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// signalOf is the number of the signal that is asked for, SIGTERM by default.
// There is no process to get it: it is told in the event.
func signalOf(a arguments) (int, error) {
	var number int
	if a.null("signal") {
		return int(syscall.SIGTERM), nil
	}
	if json.Unmarshal(a.values["signal"], &number) == nil {
		return cmp.Or(number, int(syscall.SIGTERM)), nil
	}
	var name string
	if err := a.get("signal", &name); err != nil {
		return 0, err
	}
	if name == "" {
		return int(syscall.SIGTERM), nil
	}
	if name != strings.ToUpper(name) {
		return 0, a.typeError("signal name must be uppercase string.")
	}
	signals := map[string]syscall.Signal{ // those that make sense for ending a task
		"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT,
		"SIGHUP": syscall.SIGHUP, "SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2, "SIGABRT": syscall.SIGABRT,
	}
	name = "SIG" + strings.TrimPrefix(name, "SIG")
	if number, known := signals[name]; known {
		return int(number), nil
	}
	return 0, celery.NewException("AttributeError", fmt.Sprintf("module 'signal' has no attribute '%s'", name), nil)
}

func revokeByStamps(r *Remote, a arguments) (any, error) {
	signal, err := signalOf(a)
	if err != nil {
		return nil, err
	}
	var kill bool
	if err := a.get("terminate", &kill); err != nil {
		return nil, err
	}
	shown, stamps, err := stampsOf(a)
	if err != nil {
		return nil, err
	}
	r.Revoked.AddStamps(stamps)
	these := newRevoked()
	these.AddStamps(stamps)
	found := map[string][]stamp{} // by id of the task
	ran := r.node.Revoke(func(req *celery.Request) bool {
		in := stampsIn(&these.stamps, req.StampedHeaders, req.Stamps)
		if len(in) > 0 {
			found[req.ID] = in
		}
		return len(in) > 0
	}, kill, signal)
	switch {
	case !kill:
		return ok("headers " + celery.Repr(shown) + " flagged as revoked, but not terminated"), nil
	case len(ran) == 0:
		return ok("headers " + celery.Repr(shown) + " were not terminated"), nil
	}
	byName := map[string][]any{}
	for _, id := range ran {
		for _, s := range found[id] {
			seen := func(v any) bool { return stampKey(s.name, v) == stampKey(s.name, s.value) }
			if !slices.ContainsFunc(byName[s.name], seen) {
				byName[s.name] = append(byName[s.name], s.value)
			}
		}
	}
	return ok("headers " + pythonSets(byName) + " revoked"), nil
}

// pythonSets is the repr of a defaultdict of sets.
func pythonSets(m map[string][]any) string {
	var parts []string
	for _, name := range sortedKeys(m) {
		parts = append(parts, celery.Repr(name)+": "+pythonSet(m[name]))
	}
	return "defaultdict(<class 'set'>, {" + strings.Join(parts, ", ") + "})"
}

// stampsOf reads the argument headers, {name: value or values} or a list of
// name=value; shown is the dict that Celery's answer has.
func stampsOf(a arguments) (shown map[string]any, stamps map[string][]any, err error) {
	value, err := decode(a.values["headers"])
	if err != nil {
		return nil, nil, err
	}
	stamps = map[string][]any{}
	switch headers := value.(type) {
	case map[string]any:
		for name, v := range headers {
			if list, isList := v.([]any); isList {
				stamps[name] = list
			} else {
				stamps[name] = []any{v}
			}
		}
		return headers, stamps, nil
	case []any:
		shown = map[string]any{}
		for _, h := range headers {
			text, _ := h.(string)
			parts := strings.Split(text, "=")
			if len(parts) < 2 {
				return nil, nil, celery.NewException("IndexError", "list index out of range", nil)
			}
			stamps[parts[0]], shown[parts[0]] = append(stamps[parts[0]], parts[1]), parts[1]
		}
		return shown, stamps, nil
	}
	return nil, nil, a.typeError("headers is neither a mapping nor a list of name=value")
}
