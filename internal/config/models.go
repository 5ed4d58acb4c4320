package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"onceover/vision"
	"onceover/vision/eval"
	"onceover/vision/fleet"
)

// Endpoint is one of the file of models, or the only one that the settings name.
type Endpoint struct {
	vision.OpenAIConfig // without what all have in common
	fleet.Limits
	NoKey error // why it lacks the key that the file names; nil otherwise
}

// maxModels bounds the file of models, in bytes.
const maxModels = 1 << 20

// ReadModels reads the file of models:
//
//	endpoints:                          # in the order in which they are asked
//	  - name: openai                    # for limits and people; default: the host of the URL
//	    url: https://api.openai.com/v1
//	    model: gpt-5-mini
//	    key_env: OPENAI_API_KEY         # or key_file: /run/secrets/openai; neither: none is sent
//	    price: {in: 0.25usd, out: 2usd} # of a million tokens
//	    requests_per_minute: 500
//	    tokens_per_minute: 200000
//	    in_flight: 50                   # calls at once, of all workers; default: found out
//	    timeout: 60s
//	    format: json_schema             # see vision-format
//	    tier: {name: flex, price: 0.5, timeout: 3m}
//
//	cascade: {below: 0.85, calibration: calibration.json}
//
// With a cascade the other models are asked only where the first one is less sure than that; the calibration is what
// onceover eval has written, without one the stated confidence counts. With a tier the same model is first asked at that service tier, for this share of the price. The error names every
// fault with its line. getenv is os.Getenv. Only for a worker the keys and the calibration have to be there: else the
// calibration is not read, and Endpoint.NoKey says which keys are missing.
func ReadModels(name string, getenv func(string) string, worker bool) ([]Endpoint, *vision.Cascade, error) {
	doc, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("models: %w", err)
	}
	if len(doc) > maxModels {
		return nil, nil, fmt.Errorf("models: %s is larger than %d bytes", name, maxModels)
	}
	return parseModels(name, doc, getenv, worker)
}

// models is the reading of a file of models.
type models struct {
	name   string
	getenv func(string) string
	worker bool // the keys and the calibration have to be there
	faults []error
}

func (m *models) fault(line int, format string, args ...any) {
	m.faults = append(m.faults, m.at(line, format, args...))
}

// at is an error with its line.
func (m *models) at(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", m.name, line, fmt.Sprintf(format, args...))
}

func parseModels(name string, doc []byte, getenv func(string) string, worker bool) ([]Endpoint, *vision.Cascade, error) {
	m := &models{name: name, getenv: getenv, worker: worker}
	var root, second yaml.Node
	in := yaml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(doc, []byte("\ufeff"))))
	if err := in.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("%s: not YAML: %w", name, err)
	}
	if err := in.Decode(&second); !errors.Is(err, io.EOF) {
		m.fault(max(second.Line, 1), "there is a second document: expected one, without a line of ---")
	}
	var out []Endpoint
	var cascade *yaml.Node
	if root.Kind == 0 {
		m.fault(1, "the file is empty: expected a list of endpoints")
	} else {
		m.each(root.Content[0], "the file", map[string]func(*yaml.Node){"endpoints": func(n *yaml.Node) {
			if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
				m.fault(n.Line, "endpoints is not a list with at least one endpoint")
				return
			}
			for _, item := range n.Content {
				out = append(out, m.endpoint(item, out)...)
			}
		}, "cascade": func(n *yaml.Node) { cascade = n }})
	}
	if len(out) == 0 && len(m.faults) == 0 {
		m.fault(root.Content[0].Line, "there is no list named endpoints")
	}
	c := m.cascade(cascade, out)
	return out, c, errors.Join(m.faults...)
}

// cascade reads how sure the first model has to be, nil if that does not matter.
func (m *models) cascade(n *yaml.Node, endpoints []Endpoint) *vision.Cascade {
	if n == nil || len(endpoints) == 0 {
		return nil
	}
	c := &vision.Cascade{}
	var file string
	m.each(n, "cascade", map[string]func(*yaml.Node){
		"below": func(n *yaml.Node) {
			v, err := strconv.ParseFloat(n.Value, 64)
			if err != nil || !(v > 0 && v <= 1) {
				m.fault(n.Line, "below is %q: expected a confidence above 0, 1 at most, such as 0.85", n.Value)
				return
			}
			c.Below = v
		},
		"calibration": m.text(&file, "calibration"),
	})
	first := endpoints[0].Model
	switch {
	case c.Below == 0:
		m.fault(n.Line, "cascade has no below: expected the confidence from where on an answer of model %s counts", first)
	case !slices.ContainsFunc(endpoints, func(e Endpoint) bool { return e.Model != first }):
		m.fault(n.Line, "there is a cascade, and no endpoint with another model than %s: expected one behind it", first)
	}
	if file == "" || !m.worker {
		return c
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(filepath.Dir(m.name), file)
	}
	doc, err := os.ReadFile(file)
	if err != nil {
		m.fault(n.Line, "calibration: %v", err)
		return c
	}
	cal, err := eval.ParseCalibration(doc)
	if err != nil {
		m.fault(n.Line, "%s: %v", file, err)
		return c
	}
	if cal.Model != first {
		m.fault(n.Line, "the calibration %s is of model %s: expected that of %s, which is asked first", file, cal.Model, first)
	}
	c.Sure, c.Field, c.PromptVersion = cal.Apply, cal.Confidence, cal.PromptVersion
	return c
}

// each calls the function of each key of a mapping. Others are faults.
func (m *models) each(n *yaml.Node, what string, known map[string]func(*yaml.Node)) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		m.fault(n.Line, "%s is not a mapping of names to values", what)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		read, ok := known[key.Value]
		switch {
		case !ok:
			names := make([]string, 0, len(known))
			for k := range known {
				names = append(names, k)
			}
			slices.Sort(names)
			m.fault(key.Line, "%s of %s is not known: expected one of %s", strconv.Quote(key.Value), what, strings.Join(names, ", "))
		case seen[key.Value]:
			m.fault(key.Line, "%s is there twice in %s", key.Value, what)
		default:
			seen[key.Value] = true
			read(value)
		}
	}
}

// Values of scalars.

func (m *models) text(p *string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
			m.fault(n.Line, "%s is not a text", what)
			return
		}
		*p = n.Value
	}
}

func (m *models) count(p *int, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < 1 || v > 1<<30 {
			m.fault(n.Line, "%s is %q: expected a whole number from 1 on", what, n.Value)
			return
		}
		*p = v
	}
}

func (m *models) duration(p *time.Duration, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || d <= 0 {
			m.fault(n.Line, "%s is %q: expected a duration such as 60s", what, n.Value)
			return
		}
		*p = d
	}
}

func (m *models) money(p *int64, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v, err := fleet.ParseMoney(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			m.fault(n.Line, "%s is %q: expected the price of a million tokens, such as 0.25usd", what, n.Value)
			return
		}
		*p = v
	}
}

// tier is the service tier of an endpoint.
type tier struct {
	name    string
	price   float64 // share of the usual one
	timeout time.Duration
}

// endpoint reads one: with a tier these are two.
func (m *models) endpoint(n *yaml.Node, before []Endpoint) []Endpoint {
	var (
		e        Endpoint
		keyEnv   string
		keyFile  string
		tierNode *yaml.Node
		faults   = len(m.faults)
	)
	line := n.Line
	m.each(n, "an endpoint", map[string]func(*yaml.Node){
		"name": m.text(&e.Name, "name"), "url": m.text(&e.BaseURL, "url"), "model": m.text(&e.Model, "model"),
		"key_env": m.text(&keyEnv, "key_env"), "key_file": m.text(&keyFile, "key_file"),
		"price": func(n *yaml.Node) {
			m.each(n, "price", map[string]func(*yaml.Node){"in": m.money(&e.Prices.In, "in"), "out": m.money(&e.Prices.Out, "out")})
		},
		"requests_per_minute": m.count(&e.RPM, "requests_per_minute"), "tokens_per_minute": m.count(&e.TPM, "tokens_per_minute"),
		"in_flight": m.count(&e.InFlight, "in_flight"), "timeout": m.duration(&e.Timeout, "timeout"),
		"format": m.text((*string)(&e.Format), "format"),
		"tier":   func(n *yaml.Node) { tierNode = n },
	})
	if e.Name == "" {
		if u, err := url.Parse(e.BaseURL); err == nil {
			e.Name = u.Hostname()
		}
	}
	if strings.ContainsFunc(e.Name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ':' || r == '{' || r == '}' }) || len(e.Name) > 100 {
		m.fault(line, "the name %.40q of an endpoint has white space, a colon, braces, or more than 100 bytes", e.Name)
	}
	if slices.ContainsFunc(before, func(o Endpoint) bool { return o.Name == e.Name }) {
		m.fault(line, "two endpoints are named %s: expected a name of its own for each", e.Name)
	}
	if e.APIKey, e.NoKey = m.key(line, keyEnv, keyFile); e.NoKey != nil && m.worker {
		m.faults = append(m.faults, e.NoKey)
	}
	t := m.tier(tierNode)
	if len(m.faults) > faults {
		return []Endpoint{e} // what else is wrong with it would follow from that
	}
	if err := e.Check(); err != nil {
		m.fault(line, "endpoint %s: %s", e.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return []Endpoint{e}
	}
	if t == nil {
		return []Endpoint{e}
	}
	cheap := e
	cheap.Name, cheap.Tier, cheap.Cheap = e.Name+"/"+t.name, t.name, true
	cheap.Prices = vision.Prices{In: int64(float64(e.Prices.In)*t.price + 0.5), Out: int64(float64(e.Prices.Out)*t.price + 0.5)}
	cheap.Timeout = cmp.Or(t.timeout, e.Timeout)
	if slices.ContainsFunc(before, func(o Endpoint) bool { return o.Name == cheap.Name }) {
		m.fault(line, "two endpoints are named %s: expected a name of its own for each", cheap.Name)
	}
	if err := cheap.Check(); err != nil {
		m.fault(line, "tier %s: %s", t.name, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return []Endpoint{cheap, e}
}

// variable is the name of a variable as they are usual, which no key looks like.
var variable = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)

// key reads the key of an endpoint, "" if the file names none. Its value is never shown.
func (m *models) key(line int, env, file string) (string, error) {
	switch {
	case env != "" && file != "":
		m.fault(line, "key_env and key_file are both set: expected one of them")
	case env != "":
		if v := m.getenv(env); v != "" {
			return v, nil
		}
		if !variable.MatchString(env) { // it may be a key
			return "", m.at(line, "the variable that key_env names is not set, and its name is not one of capitals: expected the variable that has the key, not the key itself")
		}
		return "", m.at(line, "the variable %s that key_env names is not set", env)
	case file != "":
		v, err := os.ReadFile(file)
		if why := (*os.PathError)(nil); errors.As(err, &why) && !strings.HasPrefix(file, "/") && !strings.HasPrefix(file, ".") { // it may be a key
			return "", m.at(line, "key_file is not the path of a file (%v): expected the file that has the key, not the key itself", why.Err)
		}
		if err != nil {
			return "", m.at(line, "key_file: %v", err)
		}
		if key := strings.TrimSpace(string(v)); key != "" {
			return key, nil
		}
		return "", m.at(line, "key_file %s is empty", file)
	}
	return "", nil
}

// tier reads a service tier, nil if there is none.
func (m *models) tier(n *yaml.Node) *tier {
	if n == nil {
		return nil
	}
	t := &tier{}
	m.each(n, "tier", map[string]func(*yaml.Node){
		"name": m.text(&t.name, "name of a tier"), "timeout": m.duration(&t.timeout, "timeout of a tier"),
		"price": func(n *yaml.Node) {
			v, err := strconv.ParseFloat(n.Value, 64)
			if err != nil || !(v > 0 && v <= 10) {
				m.fault(n.Line, "price of a tier is %q: expected its share of the usual price, such as 0.5", n.Value)
				return
			}
			t.price = v
		},
	})
	if t.name == "" || t.price == 0 {
		m.fault(n.Line, "a tier has a name and a price: expected such as {name: flex, price: 0.5, timeout: 10m}")
	}
	if strings.ContainsFunc(t.name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) || len(t.name) > 40 {
		m.fault(n.Line, "the name %.40q of a tier is none", t.name)
	}
	return t
}
