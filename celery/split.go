package celery

import (
	"bytes"
	"encoding/json"
)

// elements are the values of a JSON array, none of null. ok is false for anything
// else. doc has to be valid JSON, without white space around it. The values are parts of
// doc, and cannot be appended to without a copy.
func elements(doc []byte) (list []json.RawMessage, ok bool) {
	if string(doc) == "null" {
		return nil, true
	}
	if doc[0] != '[' {
		return nil, false
	}
	list = []json.RawMessage{}
	for s := (splitter{doc, 1}); s.next(']'); {
		list = append(list, s.value())
	}
	return list, true
}

// members are the values of a JSON object by their names, as [elements] has those of an
// array. Of two with one name the later one counts, as in Python.
func members(doc []byte) (dict map[string]json.RawMessage, ok bool) {
	if string(doc) == "null" {
		return nil, true
	}
	if doc[0] != '{' {
		return nil, false
	}
	dict = map[string]json.RawMessage{}
	for s := (splitter{doc, 1}); s.next('}'); {
		name := text(s.value())
		s.skip()
		dict[name] = s.value()
	}
	return dict, true
}

// text is a JSON string.
func text(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return string(quoted) // not of valid JSON
	}
	return s
}

// splitter finds where values end in JSON that is known to be valid, so that nothing has
// to be looked at but quotes and brackets.
type splitter struct {
	doc []byte
	at  int
}

// next goes to the next value. It returns false at end, the bracket that closes.
func (s *splitter) next(end byte) bool {
	s.skip()
	return s.doc[s.at] != end
}

// skip goes over what stands between two values.
func (s *splitter) skip() {
	for {
		switch s.doc[s.at] {
		case ' ', '\t', '\r', '\n', ',', ':':
			s.at++
		default:
			return
		}
	}
}

// value reads the value that begins here.
func (s *splitter) value() json.RawMessage {
	start := s.at
	switch s.doc[s.at] {
	case '"':
		s.quoted()
	case '[', '{':
		s.nested()
	default:
		s.scalar()
	}
	return s.doc[start:s.at:s.at]
}

// quoted goes behind a string: to the first quote with an even number of backslashes
// before it.
func (s *splitter) quoted() {
	for s.at++; ; {
		s.at += bytes.IndexByte(s.doc[s.at:], '"') + 1
		before := s.at - 2
		for s.doc[before] == '\\' {
			before--
		}
		if (s.at-before)%2 == 0 {
			return
		}
	}
}

// nested goes behind an array or an object.
func (s *splitter) nested() {
	for depth := 0; ; {
		switch s.doc[s.at] {
		case '"':
			s.quoted()
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		}
		if s.at++; depth == 0 {
			return
		}
	}
}

// scalar goes behind a number, true, false or null.
func (s *splitter) scalar() {
	for s.at < len(s.doc) {
		switch s.doc[s.at] {
		case ' ', '\t', '\r', '\n', ',', ']', '}':
			return
		}
		s.at++
	}
}
