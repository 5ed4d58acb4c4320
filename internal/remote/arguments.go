package remote

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"onceover/celery"
)

// arguments are those of a request, by name.
type arguments struct {
	command command
	values  map[string]json.RawMessage
}

// check refuses arguments that Python's function would not take, in its words.
func (a arguments) check() error {
	if a.command.closed {
		names := []string{}
		for name := range a.values {
			if !slices.Contains(a.command.required, name) && !slices.Contains(a.command.optional, name) {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			return a.typeError("%s() got an unexpected keyword argument '%s'", a.command.name, slices.Min(names))
		}
	}
	var missing []string
	for _, name := range a.command.required {
		if _, given := a.values[name]; !given {
			missing = append(missing, "'"+name+"'")
		}
	}
	switch n := len(missing); n {
	case 0:
		return nil
	case 1:
		return a.typeError("%s() missing 1 required positional argument: %s", a.command.name, missing[0])
	default:
		return a.typeError("%s() missing %d required positional arguments: %s and %s", a.command.name, n,
			strings.Join(missing[:n-1], ", "), missing[n-1])
	}
}

func (a arguments) typeError(format string, values ...any) error {
	return celery.NewException("TypeError", fmt.Sprintf(format, values...), nil)
}

// null reports whether an argument was not given, or is null.
func (a arguments) null(name string) bool {
	raw, given := a.values[name]
	return !given || string(raw) == "null"
}

// get decodes an argument into dst, which it leaves alone if the argument was not
// given, or is null.
func (a arguments) get(name string, dst any) error {
	if a.null(name) {
		return nil
	}
	if err := json.Unmarshal(a.values[name], dst); err != nil {
		return a.typeError("argument '%s' of %s() has the wrong type", name, a.command.name)
	}
	return nil
}

// texts reads a string or a list of them, each once.
func (a arguments) texts(name string) ([]string, error) {
	var one string
	if !a.null(name) && json.Unmarshal(a.values[name], &one) == nil {
		return []string{one}, nil
	}
	var many []string
	if err := a.get(name, &many); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(many, func(text string) bool {
		again := seen[text]
		seen[text] = true
		return again
	}), nil
}

// integer reads an integer, which clients may send as text; otherwise is for an
// argument that was not given, or is null.
func (a arguments) integer(name string, otherwise int) (int, error) {
	if a.null(name) {
		return otherwise, nil
	}
	raw := a.values[name]
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(strings.TrimSpace(text))
	}
	var n int
	if err := json.Unmarshal(raw, &n); err != nil {
		return 0, celery.NewException("ValueError", fmt.Sprintf("argument '%s' of %s() is not an integer", name, a.command.name), err)
	}
	return n, nil
}
