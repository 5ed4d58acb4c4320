package vision

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/kaptinlin/jsonrepair"

	"onceover/vision/prompt"
)

// errNoObject says that there is no answer in what a model wrote.
var errNoObject = errors.New("there is no JSON object in it")

// rescue finds the answer in a message. A model's JSON may stand behind its thinking, in a code fence, between words, or
// be JSON as Python or JavaScript has it. The fields for thinking are looked at only where there is nothing else: what
// stands in them beside an answer is a draft.
func rescue(s *prompt.Schema, m chatAnswer, cutOff bool) (prompt.Fitted, string, error) {
	why := errNoObject
	said := false
	for _, src := range m.sources() {
		if src.thinking && said {
			break
		}
		said = said || strings.TrimSpace(src.text) != ""
		f, err := rescueText(s, src.text, cutOff)
		if err == nil {
			return f, src.name, nil
		}
		if errors.Is(why, errNoObject) {
			why = err
		}
	}
	return prompt.Fitted{}, "", why
}

func rescueText(s *prompt.Schema, text string, cutOff bool) (prompt.Fitted, error) {
	text = withoutThinking(text)
	if inner := ""; json.Unmarshal([]byte(text), &inner) == nil { // encoded twice
		text = inner
	}
	if f, err := s.Fit([]byte(text)); err == nil {
		return f, nil
	}
	return search(s, text, cutOff)
}

var (
	thinkingBegin = regexp.MustCompile(`(?i)<(think|thinking|thought|reasoning)>`)
	thinkingEnd   = regexp.MustCompile(`(?i)</(think|thinking|thought|reasoning)>`)
)

// withoutThinking returns what comes after a model's thinking, which may have begun in the prompt; nothing comes after one
// that does not end.
func withoutThinking(text string) string {
	if all := thinkingEnd.FindAllStringIndex(text, -1); all != nil {
		text = text[all[len(all)-1][1]:]
	}
	if at := thinkingBegin.FindStringIndex(text); at != nil {
		text = text[:at[0]]
	}
	return strings.TrimSpace(text)
}

// search finds the last object of a text. It is the answer if nothing before it says that it is none, an example for want
// of a picture, and nothing comes after it but a polite word. An object that the text ends within is no answer: what is
// missing cannot be known.
func search(s *prompt.Schema, text string, cutOff bool) (prompt.Fitted, error) {
	spans := objects(text)
	if len(spans) == 0 {
		if !strings.Contains(text, "{") && !cutOff {
			if f, err := fitLines(s, text); err == nil {
				return f, nil
			}
		}
		return prompt.Fitted{}, errNoObject
	}
	last := spans[len(spans)-1]
	f, err := fitLoosely(s, text[last[0]:last[1]])
	if err != nil {
		return f, err
	}
	if unseen.MatchString(text[:last[0]]) {
		return prompt.Fitted{}, errors.New("the text before the JSON object says that it is no answer about the picture")
	}
	if !polite(text[last[1]:]) {
		return prompt.Fitted{}, errors.New("there is more after the JSON object: expected nothing")
	}
	return f, nil
}

// unseen finds that a model has not seen the picture, and that what follows is an example.
var unseen = regexp.MustCompile(`(?i)\b(can ?not|can['’]?t|unable to|could ?n['’]?t|could not|do ?n['’]?t|do not)\s+(\w+\s+)?(see|view|access|open|load|receive|process|analy[sz]e)\s+(\w+\s+){0,2}(image|picture|photo|attachment)s?\b` +
	`|(^|[.!?:]\s+|\b(is|was|see|have|received|with) )no (image|picture|photo)\b` +
	`|\b(image|picture|photo) (is|was|seems|appears) (to be )?(missing|blank|not (attached|provided|included|visible|available|there))\b` +
	`|\bfor (example|instance)\b|\bexample (of |an |the |a )*(answer|response|output|json)\b|\ban example\b|\bwould look like\b|\bplaceholder\b|\bhypothetical` +
	`|\bplease (\w+ )?(re-?)?(upload|provide|share|attach|send)\b` +
	`|예시|예를 들|(이미지|사진)[을를]?\s*(볼|확인할|분석할|열)\s*수 없|(이미지|사진)[가이]?\s*(제공되지|첨부되지|없습니다|없어|보이지 않)|(업로드|첨부)해\s*(주세요|주시기|주십)`)

var (
	// courtesy is how a text goes on after an answer without taking any of it back.
	courtesy = regexp.MustCompile(`(?i)^(please )?(let me know|i hope|hope (this|that)|feel free|thank|is there anything|if you (need|have|want|would)|anything else|done|end of|note\b|tip\b|remember|도움이|더 필요|추가로|궁금|감사|이상입니다|참고)`)
	doubt    = regexp.MustCompile(`(?i)\b(but|wait|wrong|however|actually|instead|correction|cannot|can't|not|unsure|or|could|might|may|maybe|perhaps|sorry|alternatively)\b|아니|다시|잠깐|하지만|그러나|틀|정정|수도`)
	// marks are what a model's own format, or Markdown, leaves behind an answer.
	marks = regexp.MustCompile(`<[|/]?[^<>]{0,40}>|[}\]]|-{3,}|\*{2,}|#`)
)

// maxAfter is how many characters of a text after an answer may be a polite word.
const maxAfter = 80

// polite reports whether the text after an answer is nothing, or a polite word.
func polite(rest string) bool {
	rest = strings.Trim(marks.ReplaceAllString(rest, " "), " \t\r\n`\"'.;")
	return rest == "" || courtesy.MatchString(rest) && utf8.RuneCountInString(rest) <= maxAfter && !strings.ContainsRune(rest, '{') && !doubt.MatchString(rest)
}

// fitLoosely fits an object that may be written as another language has it.
func fitLoosely(s *prompt.Schema, object string) (prompt.Fitted, error) {
	f, err := s.Fit([]byte(object))
	if err == nil || json.Valid([]byte(object)) {
		return f, err
	}
	if missing.MatchString(object) {
		return f, errors.New("a value is missing in it")
	}
	repaired, rerr := jsonrepair.Repair(object)
	if rerr != nil {
		return f, errors.New("it is not JSON")
	}
	if f, err = s.Fit([]byte(repaired)); err == nil && len(f.Dropped) > 0 {
		return prompt.Fitted{}, errors.New("it is not JSON") // a text was cut in two
	}
	return f, err
}

// missing finds a name without a value.
var missing = regexp.MustCompile(`["'\w]\s*:\s*[-+.]*\s*[,}\]]`)

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
		if json.Unmarshal([]byte(value), &v) != nil || v == nil {
			v = value
		} else if _, isNumber := v.(float64); isNumber {
			v = json.Number(value)
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
