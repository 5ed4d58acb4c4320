package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"onceover/internal/testenv"
)

// described is a RoundTripper that compares each answer with the description that the API serves.
type described struct {
	t    *testing.T
	next http.RoundTripper

	mu       sync.Mutex
	doc      map[string]any
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

func newDescribed(t *testing.T, doc []byte) *described {
	t.Helper()
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	d := &described{t: t, next: &http.Transport{}, doc: parsed.(map[string]any), compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	d.compiler.AssertFormat()
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	if err := d.compiler.AddResource("openapi.json", parsed); err != nil {
		t.Fatal(err)
	}
	return d
}

// at returns the value at a path of the description, and the pointer to it once references are followed.
func (d *described) at(path ...string) (map[string]any, string) {
	var pointer strings.Builder
	value := any(d.doc)
	for _, key := range path {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, ""
		}
		if value, ok = object[key]; !ok {
			return nil, ""
		}
		pointer.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
		if object, ok := value.(map[string]any); ok {
			if ref, ok := object["$ref"].(string); ok && !strings.Contains(ref, "/schemas/") {
				return d.follow(strings.Split(strings.TrimPrefix(ref, "#/"), "/"), path, key)
			}
		}
	}
	object, _ := value.(map[string]any)
	return object, pointer.String()
}

// follow goes on from a reference with what is left of a path.
func (d *described) follow(to, path []string, key string) (map[string]any, string) {
	return d.at(append(to, path[slices.Index(path, key)+1:]...)...)
}

// template returns the path of the description that a path belongs to.
func (d *described) template(path string) string {
	paths, _ := d.at("paths")
	for template := range paths {
		before, _, has := strings.Cut(template, "{job_id}")
		if template == path || has && strings.HasPrefix(path, before) && path != before {
			return template
		}
	}
	return ""
}

func (d *described) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if err := d.check(r, resp, body); err != nil {
		d.t.Errorf("%s %s: %s %s is not as it is described: %v", r.Method, r.URL.Path, resp.Status, body, err)
	}
	return resp, nil
}

func (d *described) check(r *http.Request, resp *http.Response, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	kind := resp.Header.Get("Content-Type")
	template, method, status := d.template(r.URL.Path), strings.ToLower(r.Method), fmt.Sprint(resp.StatusCode)
	var pointer string
	if operation, _ := d.at("paths", template, method); operation == nil || template == "" {
		// No route: 404 or 405, which every path may have.
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			return fmt.Errorf("the operation is not described")
		}
		_, pointer = d.at("components", "schemas", "Problem")
		if kind != "application/problem+json" {
			return fmt.Errorf("got content type %q", kind)
		}
	} else {
		answer, _ := d.at("paths", template, method, "responses", status)
		if answer == nil {
			return fmt.Errorf("the status is not described")
		}
		if headers, ok := answer["headers"].(map[string]any); ok {
			for name := range headers {
				if err := d.checkHeader(resp.Header.Values(name), name, template, method, status); err != nil {
					return err
				}
			}
		}
		if _, pointer = d.at("paths", template, method, "responses", status, "content", kind, "schema"); pointer == "" {
			return fmt.Errorf("the content type %q is not described", kind)
		}
	}
	if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		return fmt.Errorf("it has no Retry-After")
	}
	if r.Method == http.MethodHead {
		return nil
	}
	return d.validate(pointer, body)
}

func (d *described) checkHeader(values []string, name, template, method, status string) error {
	if len(values) != 1 {
		return fmt.Errorf("it has %d headers %s, want one", len(values), name)
	}
	_, pointer := d.at("paths", template, method, "responses", status, "headers", name, "schema")
	text, err := json.Marshal(values[0])
	if err != nil {
		return err
	}
	return d.validate(pointer, text)
}

func (d *described) validate(pointer string, body []byte) error {
	schema := d.schemas[pointer]
	if schema == nil {
		var err error
		if schema, err = d.compiler.Compile("openapi.json#" + pointer); err != nil {
			return fmt.Errorf("compile %s: %w", pointer, err)
		}
		d.schemas[pointer] = schema
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// TestDescriptionIsOpenAPI has another program read the description by the schema of OpenAPI 3.1.
func TestDescriptionIsOpenAPI(t *testing.T) {
	python := testenv.Python(t, "openapi_spec_validator")
	b := setup(t)
	resp, err := http.Get(b.server.URL + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	check := exec.CommandContext(t.Context(), python, "-c", `
import json, sys
from openapi_spec_validator import OpenAPIV31SpecValidator
faults = list(OpenAPIV31SpecValidator(json.load(sys.stdin)).iter_errors())
for e in faults:
    print("/".join(map(str, e.absolute_path)), e.message[:300])
sys.exit(len(faults) > 0)
`)
	check.Stdin = resp.Body
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("the description is no OpenAPI 3.1: %v\n%s", err, out)
	}
}
