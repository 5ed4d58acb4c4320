package prompt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Fitted is an answer that satisfies its schema.
type Fitted struct {
	Fields  json.RawMessage // an object, its members in the order of the schema
	OffList []string        // the fields whose values are on no list and were taken as they are
	Dropped []string        // the fields that the schema does not have
}

// Fit brings an answer into the form of the schema where what is meant is unmistakable, and checks it. Names and listed
// values may differ in case and white space, a listed value by one edit; a number, true or false may be a text; null
// stands for a field that need not be there; fields that the schema does not have are dropped. doc is JSON. The
// error says all that is wrong, with what came and what was expected.
func (s *Schema) Fit(doc []byte) (Fitted, error) {
	object, err := readObject(doc)
	if err != nil {
		return Fitted{}, err
	}
	fitted, err := s.fit(object, s.whole)
	if err == nil {
		return fitted, nil
	}
	for range maxWraps { // {"analysis": {…}}
		var ok bool
		if object, ok = unwrapped(object); !ok {
			break
		}
		if f, err := s.fit(object, s.whole); err == nil {
			return f, nil
		}
	}
	return Fitted{}, err
}

// maxWraps is how deep an answer may be wrapped.
const maxWraps = 2

// FitSome is Fit for what a person says of some fields. A field that the schema does not have, and a value off a list, are
// errors here: a person can be asked.
func (s *Schema) FitSome(doc []byte) (Fitted, error) {
	object, err := readObject(doc)
	if err != nil {
		return Fitted{}, err
	}
	maps.DeleteFunc(object, func(_ string, v any) bool { return v == nil }) // says nothing
	all, _ := s.Names()
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(all, name) {
			faults = append(faults, fmt.Sprintf("there is no field %q: expected some of %s", name, strings.Join(all, ", ")))
		}
	}
	fitted, err := s.fit(object, s.partial)
	if err != nil {
		faults = append(faults, err.Error())
	}
	for _, path := range fitted.OffList {
		faults = append(faults, s.root.offList(path, object[path]))
	}
	if len(faults) > 0 {
		return Fitted{}, errors.New(strings.Join(faults, "; "))
	}
	return fitted, nil
}

// offList says that a field of the answer is off its list; path leads to it.
func (f *field) offList(path string, v any) string {
	for _, p := range f.fields {
		if p.name == path {
			return offList(p, path, v)
		}
	}
	return fmt.Sprintf("%s is none of its list in the schema", path)
}

func offList(f *field, path string, v any) string {
	return fmt.Sprintf("%s is %q: expected one of %s", path, shorten(fmt.Sprint(v)), strings.Join(f.enum, ", "))
}

// readObject decodes an object, or a list of one.
func readObject(doc []byte) (map[string]any, error) {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if list, ok := v.([]any); ok && len(list) == 1 {
		v = list[0]
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("it is %s: expected an object", jsonKind(v))
	}
	if name := doubled(doc); name != "" {
		return nil, fmt.Errorf("%q is there twice", name)
	}
	return object, finite(v)
}

// doubled returns a name that an object of a JSON document has twice, "" if there is none.
func doubled(doc []byte) string {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var open []map[string]bool // the names of each object around; nil for a list
	name := false              // the next text is a name
	for {
		token, err := dec.Token()
		if err != nil {
			return ""
		}
		switch t := token.(type) {
		case json.Delim:
			switch t {
			case '{':
				open = append(open, map[string]bool{})
			case '[':
				open = append(open, nil)
			default:
				open = open[:len(open)-1]
			}
		case string:
			if names := open[max(len(open)-1, 0):]; name && len(names) > 0 {
				if names[0][t] {
					return t
				}
				names[0][t], name = true, false
				continue
			}
		}
		name = len(open) > 0 && open[len(open)-1] != nil
	}
}

// finite returns an error if a value has a number that a float64 cannot hold: nobody could read the entry.
func finite(v any) error {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Float64(); err != nil || math.IsInf(n, 0) {
			return errors.New("a number in it is too large")
		}
	case []any:
		for _, m := range v {
			if err := finite(m); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, m := range v {
			if err := finite(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Schema) fit(object map[string]any, by *jsonschema.Schema) (Fitted, error) {
	fitter := fitter{}
	fitted := fitter.object(s.root, object, "")
	if len(fitted) == 0 {
		all, _ := s.Names()
		return Fitted{}, fmt.Errorf("it has none of the fields %s", strings.Join(all, ", "))
	}
	if faults := append(fitter.faults, check(by, fitted)...); len(faults) > 0 {
		return Fitted{}, errors.New(strings.Join(faults, "; "))
	}
	var out bytes.Buffer
	err := encode(&out, s.root, fitted)
	return Fitted{out.Bytes(), fitter.offList, fitter.dropped}, err
}

// wrappers are names under which models put an answer.
var wrappers = []string{"analysis", "answer", "arguments", "data", "json", "output", "parameters", "response", "result"}

// unwrapped returns the only member of an object if that is an object under one of these names.
func unwrapped(v map[string]any) (map[string]any, bool) {
	for name, m := range v {
		inner, ok := m.(map[string]any)
		return inner, ok && len(v) == 1 && slices.Contains(wrappers, strings.ToLower(name))
	}
	return nil, false
}

// check returns what is wrong with a value by a schema.
func check(s *jsonschema.Schema, v any) []string {
	err := s.Validate(v)
	if err == nil {
		return nil
	}
	invalid, ok := err.(*jsonschema.ValidationError)
	if !ok {
		return []string{err.Error()}
	}
	var out []string
	for _, u := range invalid.BasicOutput().Errors {
		if u.Error == nil {
			continue
		}
		at := strings.ReplaceAll(strings.TrimPrefix(u.InstanceLocation, "/"), "/", ".")
		if at != "" {
			at += ": "
		}
		if line := at + u.Error.String(); !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

// fitter brings a value into the form of its schema.
type fitter struct {
	faults, offList, dropped []string
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (t *fitter) object(f *field, v map[string]any, path string) map[string]any {
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		m, p := v[name], f.member(name)
		if p == nil { // no server was asked for it
			if len(f.fields) == 0 {
				out[name] = m
			} else {
				t.dropped = append(t.dropped, join(path, name))
			}
			continue
		}
		if m == nil && !p.required && !p.is("null") {
			continue
		}
		if _, twice := out[p.name]; twice {
			t.faults = append(t.faults, fmt.Sprintf("%s is there twice", join(path, p.name)))
		}
		out[p.name] = t.value(p, m, join(path, p.name))
	}
	return out
}

// member returns the field of a name, which may differ in case and separators from the schema's.
func (f *field) member(name string) *field {
	for _, p := range f.fields {
		if p.name == name {
			return p
		}
	}
	for _, p := range f.fields {
		if folded(p.name) == folded(name) {
			return p
		}
	}
	return nil
}

func (t *fitter) value(f *field, v any, path string) any {
	switch v := v.(type) {
	case map[string]any:
		return t.object(f, v, path)
	case []any:
		if f.items == nil {
			return v
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = t.value(f.items, v[i], join(path, strconv.Itoa(i)))
		}
		return out
	case string:
		return t.text(f, v, path)
	case json.Number:
		if f.takes("string") {
			return v.String()
		}
		return t.number(path, v)
	}
	return v
}

// number checks what all entries of the cache share.
func (t *fitter) number(path string, v json.Number) json.Number {
	if n, err := v.Float64(); path == "confidence" && (err != nil || n < 0 || n > 1) {
		t.faults = append(t.faults, fmt.Sprintf("confidence is %s: expected 0 to 1", v))
	}
	return v
}

var percent = regexp.MustCompile(`^(\d{1,3}(?:\.\d+)?)\s*%$`)

// text brings a text into the form of its field.
func (t *fitter) text(f *field, v, path string) any {
	v = strings.TrimSpace(v)
	var out any
	switch {
	case len(f.enum) > 0:
		return t.listed(f, v, path)
	case f.takes("number") || f.takes("integer"):
		if m := percent.FindStringSubmatch(v); m != nil && f.name == "confidence" {
			if n, err := strconv.ParseFloat(m[1], 64); err == nil {
				out = t.number(path, json.Number(strconv.FormatFloat(n/100, 'g', 12, 64)))
			}
		} else if json.Valid([]byte(v)) && json.Unmarshal([]byte(v), new(float64)) == nil {
			out = t.number(path, json.Number(v))
		}
	case f.takes("boolean") && strings.EqualFold(v, "true"):
		out = true
	case f.takes("boolean") && strings.EqualFold(v, "false"):
		out = false
	}
	if out == nil {
		return v
	}
	return out
}

// indices are those of lists in a path.
var indices = regexp.MustCompile(`\.\d+`)

// listed brings a text to the value of the list that it means.
func (t *fitter) listed(f *field, v, path string) string {
	meant, ok := f.meant(v)
	switch {
	case ok:
	case f.refuse, !says(v):
		t.faults = append(t.faults, offList(f, path, v))
	default:
		t.offList = append(t.offList, indices.ReplaceAllString(path, ""))
	}
	return meant
}

// encode writes a value, the members of an object in the order of its schema.
func encode(out *bytes.Buffer, f *field, v any) error {
	object, ok := v.(map[string]any)
	if !ok || f == nil || len(f.fields) == 0 {
		if list, ok := v.([]any); ok && f != nil && f.items != nil {
			out.WriteByte('[')
			for i, item := range list {
				if i > 0 {
					out.WriteByte(',')
				}
				if err := encode(out, f.items, item); err != nil {
					return err
				}
			}
			out.WriteByte(']')
			return nil
		}
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return err
		}
		out.Truncate(out.Len() - 1)
		return nil
	}
	out.WriteByte('{')
	first := true
	for _, p := range f.fields {
		m, there := object[p.name]
		if !there {
			continue
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		writeString(out, p.name)
		out.WriteByte(':')
		if err := encode(out, p, m); err != nil {
			return err
		}
	}
	out.WriteByte('}')
	return nil
}

func jsonKind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case []any:
		return "a list"
	case string:
		return "a text"
	case bool:
		return "true or false"
	case map[string]any:
		return "an object"
	}
	return "a number"
}
