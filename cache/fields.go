package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"onceover/celery"
)

// More are fields of an answer beyond those that all entries have: a JSON object
// whose members are in alphabetical order, "" if there are none.
type More string

// own are the names that have a place of their own in an Entry.
var own = []string{
	"waste_type", "confidence", "feedback", "category", "recyclable", "analyzed_at", "model", "prompt_version",
	"colour", "cost_microusd", "derived_from", "derived_distance", "picture_sha256", "derived_sha256", "corrected_at",
}

// answerFields are those of them that are a model's answer.
var answerFields = own[:5]

// EntryOf returns the entry of an answer, a JSON object. What the answer says of
// fields that are not a model's to say is left out.
func EntryOf(answer json.RawMessage) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(answer, &e); err != nil {
		return e, fmt.Errorf("answer: %w", err)
	}
	return Entry{WasteType: e.WasteType, Confidence: e.Confidence, Feedback: e.Feedback, Category: e.Category, Recyclable: e.Recyclable, More: e.More}, nil
}

// Answer is what the entry says of these fields, a JSON object.
func (e Entry) Answer(names []string) (json.RawMessage, error) {
	doc, err := celery.MarshalJSON(e)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(doc, &all); err != nil {
		return nil, err
	}
	maps.DeleteFunc(all, func(name string, _ json.RawMessage) bool { return !slices.Contains(names, name) })
	more, err := moreOf(all)
	return json.RawMessage(more), err
}

// Has reports whether the entry has all of these fields of an answer. An entry
// that names what it shows has the shared ones, as a Python service writes all.
func (e Entry) Has(names ...string) bool {
	more := e.More.fields()
	for _, name := range names {
		if slices.Contains(answerFields, name) {
			if e.WasteType == "" && e.Category == "" {
				return false
			}
		} else if _, there := more[name]; !there {
			return false
		}
	}
	return true
}

// with returns the entry with what it does not say and another answer does.
func (e Entry) with(by *Entry) (_ Entry, err error) {
	if e.WasteType == "" && e.Category == "" {
		e.WasteType, e.Category, e.Recyclable = by.WasteType, by.Category, by.Recyclable
	}
	more := by.More.fields()
	maps.Copy(more, e.More.fields())
	e.More, err = moreOf(more)
	return e, err
}

// plain is an Entry that encodes without its further fields.
type plain Entry

// MarshalJSON puts the further fields last.
func (e Entry) MarshalJSON() ([]byte, error) {
	doc, err := celery.MarshalJSON(plain(e))
	if err != nil || e.More == "" {
		return doc, err
	}
	return Join(doc, []byte(e.More)), nil
}

// Join returns a JSON object with the members of two.
func Join(a, b []byte) []byte {
	a, b = bytes.TrimSuffix(bytes.TrimSpace(a), []byte("}")), bytes.TrimPrefix(bytes.TrimSpace(b), []byte("{"))
	if len(a) == 1 || len(b) == 1 {
		return append(a, b...)
	}
	return append(append(a, ','), b...)
}

// UnmarshalJSON reads the further fields too.
func (e *Entry) UnmarshalJSON(doc []byte) error {
	var p plain
	known := json.NewDecoder(bytes.NewReader(doc))
	known.DisallowUnknownFields()
	if known.Decode(&p) == nil { // as most are: one pass will do
		*e = Entry(p)
		return nil
	}
	p = plain{}
	if err := json.Unmarshal(doc, &p); err != nil {
		return err
	}
	*e = Entry(p)
	var all map[string]json.RawMessage
	if err := json.Unmarshal(doc, &all); err != nil {
		return err
	}
	maps.DeleteFunc(all, func(name string, _ json.RawMessage) bool { return isOwn(name) })
	more, err := moreOf(all)
	e.More = more
	return err
}

// isOwn reports whether a name has a place of its own, in any case, as the decoder reads it.
func isOwn(name string) bool {
	return slices.ContainsFunc(own, func(o string) bool { return strings.EqualFold(o, name) })
}

// moreOf encodes further fields.
func moreOf(fields map[string]json.RawMessage) (More, error) {
	if len(fields) == 0 {
		return "", nil
	}
	var out bytes.Buffer
	out.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(fields)) {
		if i > 0 {
			out.WriteByte(',')
		}
		key, err := celery.MarshalJSON(name)
		if err != nil {
			return "", err
		}
		out.Write(key)
		out.WriteByte(':')
		if err := json.Compact(&out, fields[name]); err != nil {
			return "", fmt.Errorf("field %s: %w", name, err)
		}
	}
	out.WriteByte('}')
	return More(out.String()), nil
}

// fields returns them by name.
func (m More) fields() map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	if m != "" {
		_ = json.Unmarshal([]byte(m), &out) // it was made by moreOf, or says nothing
	}
	return out
}

// Only returns those of some names.
func (m More) Only(names []string) More {
	if m == "" {
		return ""
	}
	all := m.fields()
	maps.DeleteFunc(all, func(name string, _ json.RawMessage) bool { return !slices.Contains(names, name) })
	more, err := moreOf(all)
	if err != nil {
		return "" // what is left of them was valid
	}
	return more
}

// Each calls f with each further field in turn, and its JSON.
func (m More) Each(f func(name string, value json.RawMessage)) {
	all := m.fields()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f(name, all[name])
	}
}
