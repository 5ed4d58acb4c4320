package celery

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxYAMLNodes bounds what a YAML document may expand to through its aliases.
const maxYAMLNodes = 1 << 20

// decodeYAML turns one YAML document of plain types into JSON, as kombu's
// yaml.safe_load followed by its JSON would.
func decodeYAML(body []byte) (json.RawMessage, error) {
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	c := yamlConverter{left: maxYAMLNodes}
	v, err := c.value(&doc, 0)
	if err != nil {
		return nil, err
	}
	return MarshalJSON(v)
}

type yamlConverter struct{ left int }

func (c *yamlConverter) value(n *yaml.Node, depth int) (any, error) {
	if c.left--; c.left < 0 {
		return nil, errors.New("its aliases expand to too much")
	}
	if depth > maxNesting {
		return nil, errors.New("it is nested too deeply")
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return c.value(n.Content[0], depth)
	case yaml.AliasNode:
		return c.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		if n.ShortTag() != "!!seq" {
			return nil, refusedTag(n)
		}
		list := []any{}
		for _, item := range n.Content {
			v, err := c.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		if n.ShortTag() != "!!map" {
			return nil, refusedTag(n)
		}
		dict := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, err := c.value(n.Content[i], depth+1)
			if err != nil {
				return nil, err
			}
			name, ok := keyText(key)
			if !ok {
				return nil, fmt.Errorf("line %d: a key is neither a text nor a number", n.Content[i].Line)
			}
			if dict[name], err = c.value(n.Content[i+1], depth+1); err != nil {
				return nil, err
			}
		}
		return dict, nil
	}
	return scalar(n)
}

func refusedTag(n *yaml.Node) error {
	return fmt.Errorf("line %d: the tag %s is not accepted: expected plain types only", n.Line, clip(n.Tag, 64))
}

// scalar resolves a scalar by the rules of YAML 1.1, which PyYAML follows.
func scalar(n *yaml.Node) (any, error) {
	text := n.Value
	switch n.ShortTag() {
	case "!!str":
		if n.Style == 0 { // plain: YAML 1.2 may see a text where 1.1 has a boolean
			switch text {
			case "yes", "Yes", "YES", "on", "On", "ON":
				return true, nil
			case "no", "No", "NO", "off", "Off", "OFF":
				return false, nil
			}
			if _, err := ParseTime(text); err == nil {
				return yamlTime(text), nil
			}
		}
		return text, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int":
		return integer(n)
	case "!!float":
		if strings.Trim(text, "+-_0123456789") == "" {
			return integer(n) // beyond 64 bits
		}
		f, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
		if err != nil && !math.IsInf(f, 0) {
			err = n.Decode(&f) // .inf, .nan
		} else {
			err = nil
		}
		return float(f), err
	case "!!timestamp":
		return yamlTime(text), nil
	case "!!binary":
		data, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n.Line, err)
		}
		return richBytes(data), nil
	}
	return nil, refusedTag(n)
}

// yamlTime is what kombu makes in JSON of a date or a time, which keeps its
// offset or the lack of one.
func yamlTime(text string) any {
	if len(text) == len("2006-01-02") {
		return rich("date", text)
	}
	return rich("datetime", strings.Replace(text, " ", "T", 1))
}

// integer keeps the digits of an integer of any length.
func integer(n *yaml.Node) (any, error) {
	digits := strings.TrimPrefix(strings.ReplaceAll(n.Value, "_", ""), "+")
	if number := json.Number(digits); json.Valid([]byte(number)) {
		return number, nil
	}
	var i int64 // octal, hexadecimal, …
	err := n.Decode(&i)
	return i, err
}
