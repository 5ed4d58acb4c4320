package prompt

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Schema is what an answer has to satisfy: JSON Schema (draft 2020-12) of an object, without the keywords that strict
// structured outputs leave nothing of (oneOf, allOf, not, if, patternProperties and their like).
//
// Two keywords are ours, for a text with an enum: x-synonyms, a mapping from words that a model uses to values of the
// list, and x-offlist, which says what becomes of a value that is none: take (the default) or refuse.
type Schema struct {
	sent    json.RawMessage
	root    *field
	whole   *jsonschema.Schema // what an answer satisfies
	partial *jsonschema.Schema // the same if any field may be missing

	once          sync.Once // sets what follows
	all, required []string  // see Names
}

// Sent is the schema as strict structured outputs take it: every field required, those that need not be there may be
// null, nothing additional, and none of the keywords that servers refuse. The others are checked by Fit.
func (s *Schema) Sent() json.RawMessage { return s.sent }

// Names are the fields of the answer in their order; those that must be there are required.
func (s *Schema) Names() (all, required []string) {
	s.once.Do(func() { s.all, s.required = s.names() })
	return s.all, s.required
}

func (s *Schema) names() (all, required []string) {
	for _, p := range s.root.fields {
		all = append(all, p.name)
		if p.required {
			required = append(required, p.name)
		}
	}
	return all, required
}

// Closed are the fields of which two answers are the same or not: those with a list of values, and those that are true
// or false. Others are words, which differ from one answer to the next.
func (s *Schema) Closed() []string {
	var out []string
	for _, p := range s.root.fields {
		if len(p.enum) > 0 || p.takes("boolean") {
			out = append(out, p.name)
		}
	}
	return out
}

// field is the schema of a value.
type field struct {
	name     string
	required bool
	types    []string // of JSON; empty: any
	fields   []*field // of an object
	items    *field   // of a list
	enum     []string // of a text; empty: any
	synonyms map[string]string
	refuse   bool // a value off the list
	fixed    bool // by const
}

func (f *field) is(t string) bool { return slices.Contains(f.types, t) }

// takes reports whether nothing but one type is expected.
func (f *field) takes(t string) bool { return len(f.types) == 1 && f.types[0] == t }

var (
	sentKeywords  = []string{"type", "description", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$defs", "$ref"}
	localKeywords = []string{"title", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
		"format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "examples", "$comment"}
	ourKeywords = []string{"x-synonyms", "x-offlist"}
	jsonTypes   = []string{"object", "array", "string", "number", "integer", "boolean", "null"}
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// shared are the fields that every entry of the cache has, and those that a result has besides, with the types that
// they must have where a schema names them; "" for one that it must not name.
var shared = map[string]string{
	"waste_type": "string", "category": "string", "feedback": "string", "confidence": "number", "recyclable": "boolean",
	"analyzed_at": "", "model": "", "prompt_version": "", "colour": "", "cost_microusd": "", "derived_from": "", "derived_sha256": "", "picture_sha256": "",
	"derived_distance": "", "corrected_at": "", "job_id": "", "phash": "", "cached": "", "distance": "", "usage": "",
}

const maxNesting = 5 // of objects: what strict structured outputs take

// parseSchema reads the schema of an answer.
func parseSchema(n *yaml.Node, f *faults) *Schema {
	before := len(f.all)
	b := builder{f}
	root := b.field(n, "the schema", 1)
	if root == nil {
		return nil
	}
	if !root.takes("object") || len(root.fields) == 0 {
		f.add(n.Line, "the schema is not that of an object with properties: expected JSON Schema with \"type: object\" and \"properties\" (Picoschema is not read)")
	}
	for _, p := range root.fields {
		name := strings.ToLower(p.name)
		switch want, ok := shared[name]; {
		case ok && want == "":
			f.add(n.Line, "%s is a field that every result has: expected another name", p.name)
		case ok && (!p.takes(want) || p.name != name):
			f.add(n.Line, "%s is a field that all entries of the cache share: expected the name %s and type %s", p.name, name, want)
		}
	}
	if len(f.all) > before {
		return nil
	}
	s := &Schema{root: root}
	var err error
	if s.sent, err = toJSON(b.sent(n, true)); err != nil {
		f.add(n.Line, "the schema cannot be sent: %v", err)
		return nil
	}
	local := b.local(n)
	doc, err := toJSON(local)
	if err == nil {
		s.whole, err = compile(doc)
	}
	if err == nil {
		doc, err = toJSON(b.walk(local, func(key string, v *yaml.Node) *yaml.Node {
			if key == "required" {
				return nil
			}
			return v
		}))
	}
	if err == nil {
		s.partial, err = compile(doc)
	}
	if err != nil {
		f.add(n.Line, "not a JSON Schema: %s", strings.Join(strings.Fields(err.Error()), " "))
		return nil
	}
	return s
}

// compile reads a schema that names no other document.
func compile(doc []byte) (*jsonschema.Schema, error) {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(jsonschema.SchemeURLLoader{})
	c.AssertFormat()
	const name = "answer:schema"
	if err := c.AddResource(name, v); err != nil {
		return nil, err
	}
	return c.Compile(name)
}

// builder reads a schema's nodes.
type builder struct{ f *faults }

// field reads the schema of one value, nil if it is none.
func (b builder) field(n *yaml.Node, what string, depth int) *field {
	if n = resolved(n); depth > maxDepth {
		b.f.add(n.Line, "%s is deeper than %d levels", what, maxDepth)
		return nil
	}
	out := &field{}
	var required *yaml.Node
	keywords := members(n, what, b.f)
	for _, m := range keywords {
		key, v := m.key.Value, m.value
		switch {
		case key == "type":
			out.types = b.texts(v, "type of "+what)
			for _, t := range out.types {
				if !slices.Contains(jsonTypes, t) {
					b.f.add(v.Line, "%s is of type %q: expected one of %s", what, t, strings.Join(jsonTypes, ", "))
				}
			}
		case key == "properties":
			if depth > maxNesting {
				b.f.add(v.Line, "%s is nested deeper than the %d levels that strict structured outputs take", what, maxNesting)
			}
			for _, p := range members(v, "properties of "+what, b.f) {
				name := p.key.Value
				if !nameForm.MatchString(name) {
					b.f.add(p.key.Line, "property %q: expected a name of at most 64 letters, digits, _ and -", name)
				}
				if child := b.field(p.value, name, depth+1); child != nil {
					child.name = name
					out.fields = append(out.fields, child)
				}
			}
		case key == "required":
			required = v
		case key == "items":
			out.items = b.field(v, "items of "+what, depth+1)
		case key == "enum":
			out.enum = b.enum(v)
		case key == "additionalProperties":
			if v.Tag != "!!bool" || v.Value != "false" {
				b.f.add(v.Line, "additionalProperties of %s: expected false, the only value that strict structured outputs take", what)
			}
		case key == "x-synonyms":
			out.synonyms = map[string]string{}
			for _, s := range members(v, "x-synonyms of "+what, b.f) {
				out.synonyms[folded(s.key.Value)] = text(s.value, "a synonym of "+what, b.f)
			}
		case key == "x-offlist":
			switch word := text(v, "x-offlist of "+what, b.f); word {
			case "refuse":
				out.refuse = true
			case "take", "":
			default:
				b.f.add(v.Line, "x-offlist of %s is %q: expected take or refuse", what, word)
			}
		case key == "const":
			out.fixed = true
		case key == "anyOf":
			for _, c := range v.Content {
				b.field(c, what, depth+1)
			}
		case key == "$defs":
			for _, d := range members(v, "$defs", b.f) {
				b.field(d.value, d.key.Value, depth+1)
			}
		case slices.Contains(sentKeywords, key), slices.Contains(localKeywords, key):
		default:
			b.f.add(m.key.Line, "%s has the keyword %s, which strict structured outputs do not take: expected some of %s", what, key,
				strings.Join(slices.Concat(sentKeywords, localKeywords, ourKeywords), ", "))
		}
	}
	b.require(out, required, what)
	b.checkSynonyms(out, n, what)
	b.checkForm(out, n, what, keywords)
	return out
}

// checkForm looks for what strict structured outputs ask of a value.
func (b builder) checkForm(out *field, n *yaml.Node, what string, keywords []member) {
	has := func(key string) bool {
		return slices.ContainsFunc(keywords, func(m member) bool { return m.key.Value == key })
	}
	switch {
	case len(out.types) == 0 && !has("anyOf") && !has("$ref"):
		b.f.add(n.Line, "%s has no type: expected one, or anyOf or $ref", what)
	case out.is("array") && out.items == nil:
		b.f.add(n.Line, "%s is a list of anything: expected items", what)
	case out.is("object") && len(out.fields) == 0:
		b.f.add(n.Line, "%s is an object of anything: expected properties", what)
	}
	for _, p := range out.fields {
		if !p.required && (len(p.types) == 0 || p.fixed) {
			b.f.add(n.Line, "%s need not be there, and cannot be null: expected it in required, or a type and no const", p.name)
		}
	}
}

// require marks the fields that must be there.
func (b builder) require(out *field, required *yaml.Node, what string) {
	if required == nil {
		return
	}
	for _, name := range b.texts(required, "required of "+what) {
		i := slices.IndexFunc(out.fields, func(p *field) bool { return p.name == name })
		if i < 0 {
			b.f.add(required.Line, "required of %s names %q, which is not one of its properties", what, name)
			continue
		}
		out.fields[i].required = true
	}
}

func (b builder) checkSynonyms(out *field, n *yaml.Node, what string) {
	if len(out.enum) == 0 && (out.synonyms != nil || out.refuse) {
		b.f.add(n.Line, "%s has x-synonyms or x-offlist and no list: expected an enum of texts", what)
		return
	}
	for from, to := range out.synonyms {
		if !slices.Contains(out.enum, to) {
			b.f.add(n.Line, "x-synonyms of %s takes %q for %q, which is not in its enum", what, from, to)
		}
	}
}

// enum returns the values of a list of texts; one of other values is checked and no more.
func (b builder) enum(n *yaml.Node) []string {
	if n.Kind != yaml.SequenceNode || slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return c.Tag != "!!str" }) {
		return nil
	}
	return b.texts(n, "enum")
}

// texts returns a text or a list of them.
func (b builder) texts(n *yaml.Node, what string) []string {
	if n.Kind != yaml.SequenceNode {
		return []string{text(n, what, b.f)}
	}
	var out []string
	for _, c := range n.Content {
		out = append(out, text(resolved(c), what, b.f))
	}
	return out
}

// sent returns the schema of a value without what servers refuse.
func (b builder) sent(n *yaml.Node, required bool) *yaml.Node {
	var names []*yaml.Node
	isObject := false
	out := b.walk(n, func(key string, v *yaml.Node) *yaml.Node {
		switch {
		case key == "type":
			isObject = v.Value == "object" || slices.ContainsFunc(v.Content, func(c *yaml.Node) bool { return c.Value == "object" })
			if !required {
				return withNull(v, "null", "!!str")
			}
		case key == "enum" && !required:
			return withNull(v, "null", "!!null")
		case key == "properties":
			must := b.requiredIn(n)
			for i := 0; i+1 < len(v.Content); i += 2 {
				names = append(names, v.Content[i])
			}
			return b.walk(v, func(name string, child *yaml.Node) *yaml.Node { return b.sent(child, slices.Contains(must, name)) })
		case key == "required" || key == "additionalProperties" || !slices.Contains(sentKeywords, key):
			return nil
		case key == "$defs":
			return b.walk(v, func(_ string, child *yaml.Node) *yaml.Node { return b.sent(child, true) })
		case key == "items":
			return b.sent(v, true)
		case key == "anyOf":
			return each(v, func(child *yaml.Node) *yaml.Node { return b.sent(child, true) })
		}
		return v
	})
	if isObject {
		out.Content = append(out.Content, scalar("required", "!!str"), &yaml.Node{Kind: yaml.SequenceNode, Content: names},
			scalar("additionalProperties", "!!str"), scalar("false", "!!bool"))
	}
	return out
}

// requiredIn is what a schema requires.
func (b builder) requiredIn(n *yaml.Node) []string {
	for _, m := range members(n, "", &faults{}) {
		if m.key.Value == "required" {
			return builder{&faults{}}.texts(m.value, "")
		}
	}
	return nil
}

// local returns the schema of a value as Fit checks it: without our own keywords, and without the lists off which
// values are taken.
func (b builder) local(n *yaml.Node) *yaml.Node {
	refuse := false
	for _, m := range members(n, "", &faults{}) {
		refuse = refuse || m.key.Value == "x-offlist" && m.value.Value == "refuse"
	}
	return b.walk(n, func(key string, v *yaml.Node) *yaml.Node {
		switch {
		case slices.Contains(ourKeywords, key), key == "enum" && !refuse && len(b.enum(v)) > 0:
			return nil
		case key == "properties" || key == "$defs":
			return b.walk(v, func(_ string, child *yaml.Node) *yaml.Node { return b.local(child) })
		case key == "items":
			return b.local(v)
		case key == "anyOf":
			return each(v, b.local)
		}
		return v
	})
}

// walk returns a copy of a mapping in which each value is what f makes of it, without those for which that is nil.
func (b builder) walk(n *yaml.Node, f func(key string, v *yaml.Node) *yaml.Node) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Line: n.Line}
	for _, m := range members(n, "", &faults{}) {
		if v := f(m.key.Value, m.value); v != nil {
			out.Content = append(out.Content, m.key, v)
		}
	}
	return out
}

// each returns a copy of a list in which each element is what f makes of it.
func each(n *yaml.Node, f func(*yaml.Node) *yaml.Node) *yaml.Node {
	out := &yaml.Node{Kind: yaml.SequenceNode, Line: n.Line}
	for _, c := range n.Content {
		out.Content = append(out.Content, f(resolved(c)))
	}
	return out
}

// withNull returns a list, or a value, with one more.
func withNull(n *yaml.Node, value, tag string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.SequenceNode, Line: n.Line}
	if n.Kind == yaml.SequenceNode {
		out.Content = slices.Clone(n.Content)
	} else {
		out.Content = []*yaml.Node{n}
	}
	if !slices.ContainsFunc(out.Content, func(c *yaml.Node) bool { return c.Value == value }) {
		out.Content = append(out.Content, scalar(value, tag))
	}
	return out
}

func scalar(value, tag string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
}
