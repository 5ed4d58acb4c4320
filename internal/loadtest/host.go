package loadtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// host serves the pictures, and plays the vision model.
type host struct {
	server   *http.Server
	addr     string
	done     chan error
	pictures [][]byte // before anybody asks
	delay    atomic.Int64
	calls    atomic.Int64
}

// openHost listens on addr, such as 127.0.0.1:0.
func openHost(addr string, pictures [][]byte) (*host, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve pictures: %w", err)
	}
	h := &host{addr: l.Addr().String(), done: make(chan error, 1), pictures: pictures}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /pictures/{number}", h.picture)
	mux.HandleFunc("POST /v1/chat/completions", h.answer)
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { h.done <- h.server.Serve(l) }()
	return h, nil
}

// close ends the server, and what it is answering.
func (h *host) close() {
	_ = h.server.Close()
	<-h.done
}

func (h *host) picture(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(strings.TrimSuffix(r.PathValue("number"), ".jpg"))
	if err != nil || number < 0 || number >= len(h.pictures) {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "image/jpeg")
	w.Header().Set("Content-Length", strconv.Itoa(len(h.pictures[number])))
	_, _ = w.Write(h.pictures[number]) // it went away
}

// answer answers as OpenAI's chat completions do, with the least that the schema asks for.
func (h *host) answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it went away
	}
	h.calls.Add(1)
	var req struct {
		Model  string
		Format struct {
			Schema struct{ Schema json.RawMessage } `json:"json_schema"`
		} `json:"response_format"`
	}
	content := "bench"
	err = json.Unmarshal(body, &req)
	if schema := req.Format.Schema.Schema; err == nil && len(schema) > 0 {
		var doc []byte
		if doc, err = json.Marshal(sample(schema)); err == nil {
			content = string(doc)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(time.Duration(h.delay.Load())):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "bench", "object": "chat.completion", "created": 1, "model": req.Model,
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": content}}},
		"usage":   map[string]any{"prompt_tokens": 900, "completion_tokens": 50, "total_tokens": 950},
	})
}

// sample returns a value that a JSON schema takes, of those parts of JSON Schema that endpoints take: types, enumerations, least
// lengths, numbers and items, and objects.
func sample(schema json.RawMessage) any {
	var s struct {
		Type       json.RawMessage
		Enum       []any
		Const      any
		Properties map[string]json.RawMessage
		Items      json.RawMessage
		AnyOf      []json.RawMessage
		MinLength  int
		MinItems   int
		Minimum    float64
	}
	if err := json.Unmarshal(schema, &s); err != nil {
		return nil
	}
	switch {
	case s.Const != nil:
		return s.Const
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.AnyOf) > 0:
		return sample(s.AnyOf[0])
	}
	kind := string(s.Type)
	for _, t := range []string{"object", "array", "string", "integer", "number", "boolean"} {
		if strings.Contains(kind, `"`+t+`"`) { // the first one of several
			kind = t
			break
		}
	}
	switch kind {
	case "object":
		out := map[string]any{}
		for name, p := range s.Properties {
			out[name] = sample(p)
		}
		return out
	case "array":
		out := make([]any, s.MinItems)
		for i := range out {
			out[i] = sample(s.Items)
		}
		return out
	case "string":
		return strings.Repeat("bench ", s.MinLength/6+1)[:max(5, s.MinLength)]
	case "integer", "number":
		return s.Minimum
	case "boolean":
		return true
	default:
		return nil
	}
}
