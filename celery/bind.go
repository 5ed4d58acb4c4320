package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Bind maps the request's positional and keyword arguments onto the fields of
// the struct that dst points to, as Python maps them onto parameters. A field
// takes part if it has a tag:
//
//	JobID  string            `celery:"job_id,optional"`         // positional or by keyword
//	Image  string            `celery:"image_url"`               // required
//	Lang   string            `celery:"lang" default:"ko"`       // optional, with a default
//	UserID string            `celery:"user_id,keyword"`         // by keyword only, optional
//	Rest   []json.RawMessage `celery:"*args"`                   // the other positional arguments
//	More   map[string]any    `celery:"**kwargs"`                // the other keyword arguments
//
// Positional parameters are those without "keyword", in the order of the
// fields. A default is a JSON value, or the text itself for a string; it is set
// before the arguments are. An argument that is null leaves an optional field as
// it is, and is nil for a field that can be (a pointer, any, json.RawMessage). A missing,
// surplus or mistyped argument is reported as the TypeError that Python would
// raise, as an [*Exception]; the fields whose arguments are sound are set all
// the same.
//
// A text parameter also accepts what Celery 5.3 and later make of a UUID, a
// date, a time, a decimal or bytes: {"__type__": ..., "__value__": ...}.
func (r *Request) Bind(dst any) error {
	params, rest, more := parametersOf(reflect.ValueOf(dst).Elem())
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
	for _, p := range params {
		p.setDefault()
	}
	if len(r.Args) > positional && rest.IsValid() {
		if err := setAll(rest, r.Args[positional:]); err != nil {
			report("%s", err)
		}
	} else if len(r.Args) > positional {
		report("takes %s but %d %s given", takes(required, positional), len(r.Args), was(len(r.Args)))
	}
	for _, name := range sortedKeys(r.Kwargs) {
		i, ok := find(params, name)
		switch {
		case !ok && more.IsValid():
			if err := setKey(more, name, r.Kwargs[name]); err != nil {
				report("argument '%s' %s", clip(name, 64), err)
			}
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
	preset   string // JSON, or a string's text; "" when there is none
}

// parametersOf lists the tagged fields, positional ones first as in Python, and
// the fields that take the other arguments, if there are any.
func parametersOf(v reflect.Value) (params []parameter, rest, more reflect.Value) {
	var keyword []parameter
	for i := range v.NumField() {
		field := v.Type().Field(i)
		tag, ok := field.Tag.Lookup("celery")
		if !ok {
			continue
		}
		switch {
		case strings.HasPrefix(tag, "**"):
			more = v.Field(i)
			continue
		case strings.HasPrefix(tag, "*"):
			rest = v.Field(i)
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		preset, hasPreset := field.Tag.Lookup("default")
		p := parameter{
			name: name, optional: option != "" || hasPreset, keyword: option == "keyword",
			field: v.Field(i), preset: preset,
		}
		if p.keyword {
			keyword = append(keyword, p)
		} else {
			params = append(params, p)
		}
	}
	return append(params, keyword...), rest, more
}

func (p parameter) setDefault() {
	if p.preset == "" {
		return
	}
	if p.field.Kind() == reflect.String {
		p.field.SetString(p.preset)
		return
	}
	if err := json.Unmarshal([]byte(p.preset), p.field.Addr().Interface()); err != nil {
		panic(fmt.Sprintf("celery: the default of parameter %s does not fit: %v", p.name, err))
	}
}

// setAll fills a slice field.
func setAll(field reflect.Value, args []json.RawMessage) error {
	list := reflect.MakeSlice(field.Type(), len(args), len(args))
	for i, raw := range args {
		if err := (parameter{field: list.Index(i)}).set(raw); err != nil {
			return fmt.Errorf("argument %d %w", i+1, err)
		}
	}
	field.Set(list)
	return nil
}

// setKey adds to a map field.
func setKey(field reflect.Value, name string, raw json.RawMessage) error {
	if field.IsNil() {
		field.Set(reflect.MakeMap(field.Type()))
	}
	value := reflect.New(field.Type().Elem()).Elem()
	if err := (parameter{field: value}).set(raw); err != nil {
		return err
	}
	field.SetMapIndex(reflect.ValueOf(name), value)
	return nil
}

// nullable tells a field that has a value for null.
func (p parameter) nullable() bool {
	return p.field.Kind() == reflect.Pointer || p.field.Kind() == reflect.Interface ||
		p.field.Type() == reflect.TypeFor[json.RawMessage]()
}

func find(params []parameter, name string) (int, bool) {
	for i, p := range params {
		if p.name == name {
			return i, true
		}
	}
	return 0, false
}

// simple returns the text of a JSON string without escapes.
func simple(raw json.RawMessage) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	raw = raw[1 : len(raw)-1]
	for _, c := range raw {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return "", false
		}
	}
	return string(raw), true
}

func (p parameter) set(raw json.RawMessage) error {
	if p.field.Type() == reflect.TypeFor[string]() {
		if text, ok := simple(raw); ok {
			p.field.SetString(text)
			return nil
		}
	}
	null := string(bytes.TrimSpace(raw)) == "null"
	if p.optional && null && !p.nullable() {
		return nil
	}
	if p.field.Kind() == reflect.String || p.field.Kind() == reflect.Struct {
		raw = richText(raw)
	}
	if (!null || p.nullable()) && json.Unmarshal(raw, p.field.Addr().Interface()) == nil {
		return nil
	}
	return fmt.Errorf("must be %s, not %s", pythonTypeOf(p.field), pythonType(raw))
}

// Text is the text of an argument: of a string, and of what Celery 5.3 and later
// make of a UUID, a date, a time, a decimal or bytes. ok is false for any other
// value.
func Text(arg json.RawMessage) (text string, ok bool) {
	err := json.Unmarshal(richText(arg), &text)
	return text, err == nil && string(bytes.TrimSpace(arg)) != "null"
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
