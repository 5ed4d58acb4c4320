package vision

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxFeedbackRunes is the longest feedback, in characters; it keeps cache entries and results small.
const MaxFeedbackRunes = 2000

// schema is the part of analysisSchema that answers are checked against, read from it so that what is asked for and
// what is checked cannot drift apart.
type schema struct {
	Properties map[string]struct {
		Enum []string `json:"enum"`
	} `json:"properties"`
	Required []string `json:"required"`
}

func parseSchema(text string) (schema, error) {
	var s schema
	err := json.Unmarshal([]byte(text), &s)
	return s, err
}

// parseReply reads a model's answer strictly: one JSON object and nothing around it, exactly the fields of the schema,
// none of them null, confidence from 0 to 1, the enumerated fields from their lists. Servers that are said to enforce
// the schema do not all do it. An error is meant for the model: it names everything that is wrong.
func (s schema) parseReply(text string) (Analysis, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &fields); err != nil || fields == nil {
		// The decoder's own words may quote the answer, so they are not passed on.
		return Analysis{}, errors.New("it is not one JSON object without anything before or after it, such as a code fence")
	}

	var a Analysis
	var faults []string
	decode := func(name, want string, into any) {
		raw, present := fields[name]
		switch {
		case !present:
			faults = append(faults, name+" is missing")
		case string(raw) == "null" || json.Unmarshal(raw, into) != nil:
			faults = append(faults, name+" is not "+want)
		}
	}
	decode("waste_type", "a string", &a.WasteType)
	decode("category", "a string", &a.Category)
	decode("recyclable", "true or false", &a.Recyclable)
	decode("confidence", "a number", &a.Confidence)
	decode("feedback", "a string", &a.Feedback)
	for name := range fields {
		if !slices.Contains(s.Required, name) {
			faults = append(faults, "it has a field that the schema does not have")
			break
		}
	}
	if len(faults) > 0 {
		return Analysis{}, errors.New(strings.Join(faults, "; "))
	}

	a.Feedback = strings.TrimSpace(a.Feedback)
	if !slices.Contains(s.Properties["waste_type"].Enum, a.WasteType) {
		faults = append(faults, "waste_type is not one of the listed values")
	}
	if !slices.Contains(s.Properties["category"].Enum, a.Category) {
		faults = append(faults, "category is not one of the listed values")
	}
	if a.Confidence < 0 || a.Confidence > 1 {
		faults = append(faults, "confidence is not between 0 and 1")
	}
	if n := utf8.RuneCountInString(a.Feedback); n == 0 {
		faults = append(faults, "feedback is empty")
	} else if n > MaxFeedbackRunes {
		faults = append(faults, fmt.Sprintf("feedback has %d characters, more than %d", n, MaxFeedbackRunes))
	}
	if len(faults) > 0 {
		return Analysis{}, errors.New(strings.Join(faults, "; "))
	}
	return a, nil
}
