package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzSplit compares with encoding/json on all valid JSON.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{
		`[]`, `{}`, `null`, `"a"`, `[1,2]`, ` [ 1 , "a" , [ ] , { } , null , true , -1.5e3 ] `, `["\"","\\","\\\"]","a\\\\","{[\"]}"]`, `[[["]"]],{"a":[{"b":"}"}]}]`,
		`{"a":1,"b":{"c":[1,"}"]},"a":2}`, "{\n\t\"a\\u0062\\\"\" :\r 1 , \"\" : [ ] }", `{"\ud800":"\ud83d\ude00","é":null}`, `[[],{},{"callbacks":null}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		doc = bytes.TrimSpace(doc)
		if !json.Valid(doc) || checkUTF8(doc) != nil {
			return
		}
		before := slices.Clone(doc)
		var wantList []json.RawMessage
		if list, ok := elements(doc); ok != (json.Unmarshal(doc, &wantList) == nil) || !cmp.Equal(list, wantList) {
			t.Errorf("elements of %s: got %s, %v, want %s", doc, list, ok, wantList)
		}
		var wantDict map[string]json.RawMessage
		dict, ok := members(doc)
		if ok != (json.Unmarshal(doc, &wantDict) == nil) || !cmp.Equal(dict, wantDict) {
			t.Errorf("members of %s: got %s, %v, want %s", doc, dict, ok, wantDict)
		}
		list, _ := elements(doc)
		for _, v := range dict {
			list = append(list, v)
		}
		for _, v := range list {
			_ = append(v, "xxxxxxxx"...)
		}
		if !bytes.Equal(doc, before) {
			t.Errorf("appending to the parts of %s made it %s", before, doc)
		}
	})
}

// TestDecodeAliases: the arguments are the body, and nothing that edits a request writes
// into it.
func TestDecodeAliases(t *testing.T) {
	body := []byte(`[["one", {"a": [1, 2]}, "three"], {"k": "four", "l": "five"},
		{"callbacks": [{"task": "cb", "args": ["six"], "kwargs": {"m": "seven"}, "options": {}}], "errbacks": null, "chain": null, "chord": null}]`)
	before := slices.Clone(body)
	p := Properties{ContentType: ContentTypeJSON}
	req, err := Decode(p, map[string]any{"task": "t", "id": "i"}, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{req.Args[0], req.Args[1], req.Args[2], req.Kwargs["k"], req.Kwargs["l"]} {
		if at := bytes.Index(body, part); &body[at] != &part[0] || cap(part) != len(part) {
			t.Errorf("%s is a copy of the body, or has room behind it (capacity %d)", part, cap(part))
		}
	}
	check := func(what string) {
		t.Helper()
		if !bytes.Equal(body, before) {
			t.Errorf("%s wrote into the body: %s", what, body)
			copy(body, before)
		}
	}

	for i := range req.Args {
		_ = append(req.Args[i], `, "more"`...)
	}
	_ = append(req.Kwargs["k"], `, "more"`...)
	check("append")

	edited := *req
	for _, name := range []string{"0", "b", "k", "new"} {
		if err := edited.SetArgument(name, json.RawMessage(`"replaced"`), []string{"a", "b", "c", "k", "new"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := edited.SetArgument("l", nil, nil); err != nil {
		t.Fatal(err)
	}
	check("SetArgument")
	if string(req.Args[0]) != `"one"` || string(req.Kwargs["k"]) != `"four"` || len(req.Kwargs) != 2 {
		t.Errorf("SetArgument changed the request that was copied: %s, %s", req.Args, req.Kwargs)
	}

	plan := Plan{Parent: req, Now: time.Unix(0, 0)}
	if _, err := plan.Apply(req.Callbacks[0], req.Args, Options{}); err != nil {
		t.Fatal(err)
	}
	self := &Signature{Task: "t", Args: req.Args, Kwargs: req.Kwargs}
	if _, err := plan.Apply(Chain(self, self.Clone(), Group(self, self)), req.Args, Options{}); err != nil {
		t.Fatal(err)
	}
	self.Clone().SetKwarg("k", "other")
	if _, err := req.Replacement(self); err != nil {
		t.Fatal(err)
	}
	check("a plan")

	var bound struct {
		First  json.RawMessage            `celery:"first"`
		Second map[string]any             `celery:"second"`
		Rest   []json.RawMessage          `celery:"*args"`
		K      json.RawMessage            `celery:"k,keyword"`
		More   map[string]json.RawMessage `celery:"**kwargs"`
	}
	if err := req.Bind(&bound); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []json.RawMessage{bound.First, bound.Rest[0], bound.K, bound.More["l"]} {
		if err := json.Unmarshal([]byte(`"XX"`), &raw); err != nil {
			t.Fatal(err)
		}
		raw[0] = 'X'
	}
	check("a handler that changes what it bound")

	for _, r := range append([]*Request{req, &edited}, plan.Messages[0].Request, plan.Messages[1].Request) {
		if _, _, _, err := r.Encode(); err != nil {
			t.Fatal(err)
		}
		m, err := NewMeta(r, Success, r.Args, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		m.Extend(r, "w")
		if _, err := MarshalJSON(m); err != nil {
			t.Fatal(err)
		}
		_, _ = r.ArgsText(), r.KwargsText()
	}
	check("Encode or Meta")
}

func BenchmarkDecode(b *testing.B) {
	headers := map[string]any{"task": "image.analyze", "id": "4e7c", "argsrepr": "()", "kwargsrepr": "{}"}
	for _, size := range []int{1 << 10, 5 << 20} {
		url := "data:image/jpeg;base64," + strings.Repeat("/9j4AAQSkZJRg", size/13)
		for name, body := range map[string]string{
			"args":   fmt.Sprintf(`[["job-1", %q], {"lang": "ko"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`, url),
			"kwargs": fmt.Sprintf(`[[], {"job_id": "job-1", "image_url": %q}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]`, url),
		} {
			b.Run(fmt.Sprintf("%s/%dKB", name, size>>10), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(body)))
				raw := []byte(body)
				for b.Loop() {
					if _, err := Decode(Properties{ContentType: ContentTypeJSON}, headers, raw); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
