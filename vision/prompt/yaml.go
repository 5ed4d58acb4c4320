package prompt

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// member is a key of a mapping with its value.
type member struct {
	key, value *yaml.Node
}

// parseYAML returns the mapping of a document whose first line is line from of its file, nil if there is none.
func parseYAML(doc []byte, from int, f *faults) []member {
	var root yaml.Node
	if err := yaml.Unmarshal(doc, &root); err != nil {
		f.add(from, "not YAML: %v", err)
		return nil
	}
	if root.Kind == 0 {
		return nil
	}
	shift(&root, from-1)
	return members(root.Content[0], "the document", f)
}

// shift moves the lines of a node and of all below it.
func shift(n *yaml.Node, by int) {
	n.Line += by
	for _, c := range n.Content {
		shift(c, by)
	}
}

// members returns those of a mapping; another node is a fault.
func members(n *yaml.Node, what string, f *faults) []member {
	n = resolved(n)
	if n.Kind != yaml.MappingNode {
		f.add(n.Line, "%s is %s: expected a mapping", what, kindOf(n))
		return nil
	}
	seen := map[string]bool{}
	var out []member
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode || key.Tag == "!!merge":
			f.add(key.Line, "a key of %s is %s: expected a name", what, kindOf(key))
		case seen[key.Value]:
			f.add(key.Line, "%s is there twice in %s", key.Value, what)
		default:
			seen[key.Value] = true
			out = append(out, member{key, resolved(n.Content[i+1])})
		}
	}
	return out
}

// resolved follows an alias.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "empty"
	case "!!merge":
		return "a merge key"
	case "!!str":
		return "a text"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	}
	return "a value of type " + n.Tag
}

// text returns a scalar that is a text; another node is a fault.
func text(n *yaml.Node, what string, f *faults) string {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		f.add(n.Line, "%s is %s: expected a text", what, kindOf(n))
		return ""
	}
	return n.Value
}

// toJSON returns a node as JSON, its members in their order. Depth bounds what an alias could repeat.
func toJSON(n *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	if err := writeJSON(&out, n, 0); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

const (
	maxDepth     = 40
	maxJSONBytes = 1 << 20
)

func writeJSON(out *bytes.Buffer, n *yaml.Node, depth int) error {
	if depth > maxDepth || out.Len() > maxJSONBytes {
		return fmt.Errorf("line %d: deeper than %d levels, or larger than %d bytes", n.Line, maxDepth, maxJSONBytes)
	}
	n = resolved(n)
	switch n.Kind {
	case yaml.MappingNode:
		out.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				out.WriteByte(',')
			}
			writeString(out, n.Content[i].Value)
			out.WriteByte(':')
			if err := writeJSON(out, n.Content[i+1], depth+1); err != nil {
				return err
			}
		}
		out.WriteByte('}')
		return nil
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, c, depth+1); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	}
	if n.Tag == "!!str" || n.Tag == "!!timestamp" {
		writeString(out, n.Value)
		return nil
	}
	var v any
	err := n.Decode(&v)
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(v); err == nil {
			out.Write(raw)
		}
	}
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

// writeString writes a JSON string in which HTML stays as it is.
func writeString(out *bytes.Buffer, s string) {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes, into memory
	out.Truncate(out.Len() - 1)
}
