package prompt

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// The tasks of a model.
const (
	Analysis = "analysis" // a picture
	Feedback = "feedback" // a person's question about an analysed picture
)

// variables are those that each task has.
var variables = map[string][]string{
	Analysis: {"lang", pictureVariable},
	Feedback: {"lang", "analysis", "question"},
}

//go:embed default
var embedded embed.FS

// Default returns the folder that is built in: household waste, in Korean and in English.
func Default() fs.FS {
	sub, err := fs.Sub(embedded, "default")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Builtin is the folder that is built in, loaded once.
func Builtin() *Folder { return builtin() }

var builtin = sync.OnceValue(func() *Folder {
	f, err := Load(Default())
	if err != nil {
		panic(err) // the tests load it
	}
	return f
})

// Folder is what a folder holds. It does not change after Load.
type Folder struct {
	prompts  []*Prompt
	messages []*Messages
}

// Prompt is one prompt file.
type Prompt struct {
	File    string
	Name    string                     // the task: Analysis or Feedback
	Variant string                     // the language of the jobs it is for, as a BCP 47 tag in lower case; "" for all others
	Model   string                     // "" for the configured one
	Config  map[string]json.RawMessage // further fields of a request, such as temperature
	Schema  *Schema                    // of the answer; nil for plain text, which only Feedback has
	Version string                     // 8 hex digits: SHA-256 of the file, its line ends taken as LF
	nodes   []node
}

// Load reads a folder. The error is of type Faults if the folder can be read and is wrong.
func Load(fsys fs.FS) (*Folder, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read prompts: %w", err)
	}
	out, f := &Folder{}, &faults{}
	for _, e := range entries {
		f.file = e.Name()
		read := func() []byte {
			doc, err := fs.ReadFile(fsys, e.Name())
			if err != nil {
				f.add(0, "cannot be read: %v", errors.Unwrap(err))
			}
			return bytes.ReplaceAll(bytes.TrimPrefix(doc, []byte("\ufeff")), []byte("\r\n"), []byte("\n"))
		}
		switch ext := path.Ext(e.Name()); {
		case e.IsDir() || strings.HasPrefix(e.Name(), "."):
		case ext == ".prompt":
			if p := parsePrompt(e.Name(), read(), f); p != nil {
				out.prompts = append(out.prompts, p)
			}
		case strings.HasPrefix(e.Name(), "messages.") && (ext == ".yaml" || ext == ".yml"):
			if m := parseMessages(e.Name(), read(), f); m != nil {
				out.messages = append(out.messages, m)
			}
		}
	}
	f.file = Analysis + ".prompt"
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == f.file }) {
		f.add(0, "is not there: expected the prompt for jobs in any language")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// Find returns the prompt of a task for a language: the variant of the tag, or of its language, or the one without a
// variant; nil if there is none.
func (f *Folder) Find(task, lang string) *Prompt {
	return best(f.prompts, lang, func(p *Prompt) (string, bool) { return p.Variant, p.Name == task })
}

// Prompts are all, in the order of their files.
func (f *Folder) Prompts() []*Prompt { return f.prompts }

// Messages are all, in the order of their files.
func (f *Folder) Messages() []*Messages { return f.messages }

// best returns the element whose tag fits a language best: the tag itself, its first part, "".
func best[T any](list []*T, lang string, tagOf func(*T) (tag string, ok bool)) *T {
	lang = strings.ToLower(lang)
	base, _, _ := strings.Cut(lang, "-")
	for _, want := range []string{lang, base, ""} {
		for _, e := range list {
			if tag, ok := tagOf(e); ok && tag == want {
				return e
			}
		}
	}
	return nil
}

var promptFile = regexp.MustCompile(`^([a-z]+)(?:\.([A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*))?\.prompt$`)

// parsePrompt reads a prompt file, nil if it is wrong.
func parsePrompt(file string, doc []byte, f *faults) *Prompt {
	before := len(f.all)
	m := promptFile.FindStringSubmatch(file)
	if m == nil || variables[m[1]] == nil {
		f.add(0, "is not the name of a prompt: expected %s.prompt or %s.prompt, or with a language such as %[1]s.ko.prompt", Analysis, Feedback)
		return nil
	}
	sum := sha256.Sum256(doc)
	p := &Prompt{File: file, Name: m[1], Variant: strings.ToLower(m[2]), Version: hex.EncodeToString(sum[:4])}
	front, body, bodyLine := split(string(doc), f)
	for _, m := range parseYAML([]byte(front), 2, f) {
		p.frontMatter(m, f)
	}
	p.nodes = parseTemplate(body, bodyLine, variables[p.Name], f)
	checkTemplate(p.nodes, p.Name, bodyLine, f)
	switch {
	case p.Name == Analysis && p.Schema == nil && len(f.all) == before:
		f.add(0, "has no output schema: expected output.schema, which says what an answer is")
	case p.Name == Feedback && p.Schema != nil:
		f.add(0, "has an output schema: expected none, as the answer to a question is plain text")
	}
	if len(f.all) > before {
		return nil
	}
	return p
}

// split cuts the front matter off.
func split(doc string, f *faults) (front, body string, bodyLine int) {
	rest, ok := strings.CutPrefix(doc, "---\n")
	if !ok {
		return "", doc, 1
	}
	front, body, ok = strings.Cut(rest, "\n---\n")
	if !ok {
		f.add(1, "the front matter does not end: expected a line of three dashes after it")
		return "", "", 1
	}
	return front, body, strings.Count(front, "\n") + 4
}

// frontMatter takes one member of the front matter.
func (p *Prompt) frontMatter(m member, f *faults) {
	line := m.key.Line
	switch key := m.key.Value; key {
	case "name":
		if name := text(m.value, key, f); name != p.Name {
			f.add(line, "name is %q: expected %q, as in the file's name", name, p.Name)
		}
	case "variant":
		if v := text(m.value, key, f); !strings.EqualFold(v, p.Variant) {
			f.add(line, "variant is %q: expected %q, as in the file's name", v, p.Variant)
		}
	case "model":
		p.Model = text(m.value, key, f)
		if len(p.Model) > 200 || strings.ContainsFunc(p.Model, unicode.IsControl) {
			f.add(line, "model is longer than 200 bytes, or has control characters: expected a model's name")
		}
	case "config":
		p.Config = map[string]json.RawMessage{}
		for _, c := range members(m.value, key, f) {
			p.configure(c, f)
		}
	case "output":
		for _, o := range members(m.value, key, f) {
			switch o.key.Value {
			case "format":
				if v := text(o.value, "output.format", f); v != "json" && v != "text" {
					f.add(o.key.Line, "output.format is %q: expected json or text", v)
				}
			case "schema":
				p.Schema = parseSchema(o.value, f)
			default:
				f.add(o.key.Line, "output has no %s: expected format or schema", o.key.Value)
			}
		}
	case "input", "description", "metadata": // of use to other readers of the file
	default:
		if !strings.Contains(key, ".") { // dotprompt keeps names with a dot for extensions
			f.add(line, "the front matter has no %s: expected name, variant, model, config, input, output, description or metadata", key)
		}
	}
}

// ours are the fields of a request that config may not set.
var ours = []string{"model", "messages", "response_format", "stream", "n", "tools"}

func (p *Prompt) configure(m member, f *faults) {
	name := m.key.Value
	if slices.Contains(ours, name) {
		f.add(m.key.Line, "config may not set %s: expected another field of a request, such as temperature", name)
		return
	}
	raw, err := toJSON(m.value)
	if err != nil {
		f.add(m.key.Line, "config.%s: %v", name, err)
		return
	}
	p.Config[name] = raw
}

// Values are those of a prompt's variables.
type Values struct {
	Lang     string          // BCP 47 tag for what people read
	Analysis json.RawMessage // of Feedback
	Question string          // of Feedback
}

// Render returns what is said. The place of the picture is a Part of its own.
func (p *Prompt) Render(v Values) []Message {
	quoted := func(s string) string {
		var out bytes.Buffer
		writeString(&out, s)
		return out.String()
	}
	analysis := string(v.Analysis)
	return render(p.nodes, map[string]value{
		"lang":     {v.Lang, quoted(v.Lang)},
		"question": {v.Question, quoted(v.Question)},
		"analysis": {analysis, analysis},
	})
}

// Messages are what people see while a job goes on, in one language.
type Messages struct {
	File  string
	Lang  string // as a BCP 47 tag in lower case
	texts map[string]string
}

// Steps are the names of the messages: the stages of a job, and its ends.
var Steps = []string{"download", "hash", "cache", "preprocess", "ai_vision", "ai_vision_done", "feedback", "feedback_done", "store",
	"done", "retry", "queued", "failed"}

var messagesFile = regexp.MustCompile(`^messages\.([A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*)\.ya?ml$`)

func parseMessages(file string, doc []byte, f *faults) *Messages {
	before := len(f.all)
	m := messagesFile.FindStringSubmatch(file)
	if m == nil {
		f.add(0, "is not the name of messages: expected a language, as in messages.ko.yaml")
		return nil
	}
	out := &Messages{File: file, Lang: strings.ToLower(m[1]), texts: map[string]string{}}
	for _, m := range parseYAML(doc, 1, f) {
		if !slices.Contains(Steps, m.key.Value) {
			f.add(m.key.Line, "there is no step %s: expected one of %s", m.key.Value, strings.Join(Steps, ", "))
			continue
		}
		out.texts[m.key.Value] = text(m.value, m.key.Value, f)
	}
	var missing []string
	for _, s := range Steps {
		if strings.TrimSpace(out.texts[s]) == "" {
			missing = append(missing, s)
		}
	}
	if len(missing) > 0 {
		f.add(0, "has no text for %s", strings.Join(missing, ", "))
	}
	if len(f.all) > before {
		return nil
	}
	return out
}

// Text returns the message of a step for a language: of its tag, or of its first part, or in English; the step's name
// if there is none.
func (f *Folder) Text(step, lang string) string {
	tag := func(m *Messages) (string, bool) { return m.Lang, true }
	for _, l := range []string{lang, "en"} {
		if m := best(f.messages, l, tag); m != nil {
			return m.texts[step]
		}
	}
	return step
}
