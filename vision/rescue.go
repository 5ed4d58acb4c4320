package vision

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"

	"github.com/kaptinlin/jsonrepair"
	"go.yaml.in/yaml/v3"

	"onceover/vision/prompt"
)

// errNoObject says that there is no answer in what a model wrote.
var errNoObject = errors.New("there is no JSON object in it")

// rescue finds the answer in what a model wrote. A model's JSON may stand behind its thinking, in a code fence, between
// words, or be JSON as Python or JavaScript has it. An object that the text ends within is no answer: what is missing
// cannot be known. Of several answers that differ only the last counts, if nothing but space or a fence comes after
// it: the others may be examples.
func rescue(s *prompt.Schema, texts ...string) (prompt.Fitted, error) {
	why := errNoObject
	for _, text := range texts {
		text = withoutThinking(text)
		if inner := ""; json.Unmarshal([]byte(text), &inner) == nil { // encoded twice
			text = inner
		}
		f, err := s.Fit([]byte(text))
		if err == nil {
			return f, nil
		}
		if f, err = search(s, text); err == nil {
			return f, nil
		}
		if errors.Is(why, errNoObject) {
			why = err
		}
	}
	return prompt.Fitted{}, why
}

var thinkingEnd = regexp.MustCompile(`(?i)</(think|thinking|thought|reasoning)>`)

// withoutThinking returns what comes after a model's thinking, which may have begun in the prompt.
func withoutThinking(text string) string {
	if all := thinkingEnd.FindAllStringIndex(text, -1); all != nil {
		if rest := text[all[len(all)-1][1]:]; strings.TrimSpace(rest) != "" {
			return strings.TrimSpace(rest)
		}
	}
	return strings.TrimSpace(text)
}

// search tries each object in a text.
func search(s *prompt.Schema, text string) (prompt.Fitted, error) {
	var (
		found prompt.Fitted
		ok    bool
		why   = errNoObject
	)
	spans := objects(text)
	for _, span := range spans {
		f, err := fitLoosely(s, text[span[0]:span[1]])
		if err != nil {
			why = err
			continue
		}
		rest := strings.Trim(text[span[1]:], " \t\r\n`\"'.;")
		if ok && string(f.Fields) != string(found.Fields) && rest != "" {
			return prompt.Fitted{}, errors.New("there is more than one answer in it")
		}
		found, ok = f, true
	}
	if ok {
		return found, nil
	}
	if len(spans) == 0 && !strings.Contains(text, "{") {
		if f, err := fitLines(s, text); err == nil {
			return f, nil
		}
	}
	return prompt.Fitted{}, why
}

// fitLoosely fits an object that may be written as another language has it.
func fitLoosely(s *prompt.Schema, object string) (prompt.Fitted, error) {
	f, err := s.Fit([]byte(object))
	if err == nil || json.Valid([]byte(object)) {
		return f, err
	}
	repaired, rerr := jsonrepair.Repair(object)
	if rerr != nil {
		return f, errors.New("it is not JSON")
	}
	return s.Fit([]byte(repaired))
}

// objects returns where the outermost objects of a text begin and end. One that does not end is none.
func objects(text string) (spans [][2]int) {
	depth, begin := 0, 0
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' && depth > 0:
			quote = c
		case c == '\'' && depth > 0 && opens(text[:i]):
			quote = c
		case c == '{':
			if depth == 0 {
				begin = i
			}
			depth++
		case c == '}' && depth > 0:
			if depth--; depth == 0 {
				spans = append(spans, [2]int{begin, i + 1})
			}
		}
	}
	return spans
}

// opens reports whether a single quote that comes after a text begins a string, as in Python, and is no apostrophe.
func opens(before string) bool {
	before = strings.TrimRight(before, " \t\r\n")
	return before != "" && strings.ContainsRune("{[,:(", rune(before[len(before)-1]))
}

// maxLines bounds what is read as lines.
const maxLines = 100

// fitLines fits an answer in lines of "name: value".
func fitLines(s *prompt.Schema, text string) (prompt.Fitted, error) {
	text = strings.Trim(strings.TrimSpace(text), "`")
	if strings.Count(text, "\n") > maxLines {
		return prompt.Fitted{}, errNoObject
	}
	fields := map[string]any{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.Trim(line, "-*• \t\r\n"), ":")
		if name = strings.Trim(name, "*`\" "); !ok || name == "" {
			continue
		}
		value = strings.Trim(value, "* \t\r\n")
		var v any
		if yaml.Unmarshal([]byte(value), &v) != nil || v == nil {
			v = value
		}
		if _, twice := fields[name]; twice {
			return prompt.Fitted{}, errNoObject
		}
		fields[name] = v
	}
	doc, err := json.Marshal(fields)
	if err != nil {
		return prompt.Fitted{}, errNoObject
	}
	return s.Fit(doc)
}
