package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Bind maps the request's positional and keyword arguments onto the fields of
// the struct that dst points to, as Python maps them onto parameters. A field
// takes part if it has a tag:
//
//	JobID  string `celery:"job_id,optional"` // positional or by keyword
//	Image  string `celery:"image_url"`       // required
//	UserID string `celery:"user_id,keyword"` // by keyword only, optional
//
// Positional parameters are those without "keyword", in the order of the
// fields. An argument that is null leaves an optional field as it is. A missing,
// surplus or mistyped argument is reported as the TypeError that Python would
// raise, as an [*Exception]; the fields whose arguments are sound are set all
// the same.
//
// A text parameter also accepts what Celery 5.3 and later make of a UUID, a
// date, a time, a decimal or bytes: {"__type__": ..., "__value__": ...}.
func (r *Request) Bind(dst any) error {
	params := parametersOf(reflect.ValueOf(dst).Elem())
	positional := 0
	required := 0
	for _, p := range params {
		if !p.keyword {
			positional++
			if !p.optional {
				required++
			}
		}
	}
	var fault error // the first one is reported
	report := func(format string, args ...any) {
		if fault == nil {
			fault = NewException("TypeError", r.Task+"() "+fmt.Sprintf(format, args...), nil)
		}
	}
	if len(r.Args) > positional {
		report("takes %s but %d %s given", takes(required, positional), len(r.Args), was(len(r.Args)))
	}
	for _, name := range sortedKeys(r.Kwargs) {
		i, ok := find(params, name)
		switch {
		case !ok:
			report("got an unexpected keyword argument '%s'", clip(name, 64))
		case i < len(r.Args) && !params[i].keyword:
			report("got multiple values for argument '%s'", name)
		}
	}
	var missing []string
	next := 0 // index of the next positional argument
	for _, p := range params {
		raw, given := r.Kwargs[p.name]
		if !p.keyword && next < len(r.Args) {
			raw, given = r.Args[next], true
			next++
		}
		switch {
		case !given && p.optional:
		case !given:
			missing = append(missing, "'"+p.name+"'")
		default:
			if err := p.set(raw); err != nil {
				report("argument '%s' %s", p.name, err)
			}
		}
	}
	if len(missing) > 0 {
		report("missing %d required positional %s: %s", len(missing), plural("argument", len(missing)), and(missing))
	}
	return fault
}

type parameter struct {
	name     string
	optional bool
	keyword  bool
	field    reflect.Value
}

// parametersOf lists the tagged fields, positional ones first as in Python.
func parametersOf(v reflect.Value) []parameter {
	var positional, keyword []parameter
	for i := range v.NumField() {
		tag, ok := v.Type().Field(i).Tag.Lookup("celery")
		if !ok {
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		p := parameter{name: name, optional: option != "", keyword: option == "keyword", field: v.Field(i)}
		if p.keyword {
			keyword = append(keyword, p)
		} else {
			positional = append(positional, p)
		}
	}
	return append(positional, keyword...)
}

func find(params []parameter, name string) (int, bool) {
	for i, p := range params {
		if p.name == name {
			return i, true
		}
	}
	return 0, false
}

func (p parameter) set(raw json.RawMessage) error {
	if p.optional && string(bytes.TrimSpace(raw)) == "null" {
		return nil
	}
	if p.field.Kind() == reflect.String || p.field.Kind() == reflect.Struct {
		raw = richText(raw)
	}
	if string(bytes.TrimSpace(raw)) != "null" && json.Unmarshal(raw, p.field.Addr().Interface()) == nil {
		return nil
	}
	return fmt.Errorf("must be %s, not %s", pythonTypeOf(p.field), pythonType(raw))
}

// richText turns kombu's form of a non-JSON type that is text in nature into
// the JSON string of that text; anything else is returned as it is. See
// kombu/utils/json.py, register_type.
func richText(raw json.RawMessage) json.RawMessage {
	var doc struct {
		Type  string          `json:"__type__"`
		Value json.RawMessage `json:"__value__"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return raw
	}
	switch doc.Type {
	case "datetime", "date", "time", "decimal", "bytes":
		return doc.Value
	case "uuid":
		var u struct {
			Hex string `json:"hex"`
		}
		if json.Unmarshal(doc.Value, &u) != nil || len(u.Hex) != 32 {
			return raw
		}
		h := u.Hex
		quoted, err := json.Marshal(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
		if err != nil {
			return raw
		}
		return quoted
	}
	return raw
}

// pythonTypeOf names the Python type that a field expects.
func pythonTypeOf(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "int"
	case reflect.Float64:
		return "float"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "dict"
	default:
		return "str"
	}
}

// pythonType names the Python type of a JSON value.
func pythonType(raw json.RawMessage) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return "NoneType"
	}
	switch c := raw[0]; {
	case c == '"':
		return "str"
	case c == '[':
		return "list"
	case c == '{':
		return "dict"
	case c == 't' || c == 'f':
		return "bool"
	case c == 'n':
		return "NoneType"
	case bytes.ContainsAny(raw, ".eE"):
		return "float"
	default:
		return "int"
	}
}

func takes(required, positional int) string {
	if required == positional {
		return fmt.Sprintf("%d positional %s", positional, plural("argument", positional))
	}
	return fmt.Sprintf("from %d to %d positional arguments", required, positional)
}

func plural(noun string, n int) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

func was(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

// and joins names as Python does: 'a', 'a' and 'b', 'a', 'b', and 'c'.
func and(names []string) string {
	switch n := len(names); n {
	case 1:
		return names[0]
	case 2:
		return names[0] + " and " + names[1]
	default:
		return strings.Join(names[:n-1], ", ") + ", and " + names[n-1]
	}
}
