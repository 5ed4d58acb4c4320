package vision

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
)

// The part of OpenAI's chat completions that is used (API reference, "Create chat
// completion"). The official client is not: it is most of what a first build would
// compile, for one POST of which status, headers and body are needed here anyway.

type chatRequest struct {
	Model          string          `json:"model"`
	Messages       []chatMessage   `json:"messages"`
	ResponseFormat *responseFormat `json:"response_format,omitempty"`
	Tier           string          `json:"service_tier,omitempty"`

	config map[string]json.RawMessage // further fields
}

// MarshalJSON writes the further fields beside the others.
func (r chatRequest) MarshalJSON() ([]byte, error) {
	type plain chatRequest
	doc, err := marshal(plain(r))
	if err != nil || len(r.config) == 0 {
		return doc, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(doc, &fields); err != nil {
		return nil, err
	}
	all := maps.Clone(r.config)
	maps.Copy(all, fields)
	return marshal(all)
}

// marshal is JSON in which HTML stays as it is: every character is paid for.
func marshal(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// say adds a message: its content is a string or a []contentPart.
func (r *chatRequest) say(role string, content any) {
	r.Messages = append(r.Messages, chatMessage{role, content})
}

type chatMessage struct {
	Role    string `json:"role"`
	Content any    `json:"content"`
}

// text is all of the message that is no picture.
func (m chatMessage) text() string {
	switch c := m.Content.(type) {
	case string:
		return c
	case []contentPart:
		var out strings.Builder
		for _, p := range c {
			out.WriteString(p.Text)
		}
		return out.String()
	}
	return ""
}

type contentPart struct {
	Type     string    `json:"type"`
	Text     string    `json:"text,omitempty"`
	ImageURL *imageURL `json:"image_url,omitempty"`
}

type imageURL struct {
	URL any `json:"url"` // a string or a dataURL
}

// dataURL is a JPEG file that becomes a URL when it is sent: until then it is not held twice.
type dataURL []byte

func (d dataURL) MarshalText() ([]byte, error) {
	const head = "data:image/jpeg;base64,"
	out := make([]byte, len(head)+base64.StdEncoding.EncodedLen(len(d)))
	copy(out, head)
	base64.StdEncoding.Encode(out[len(head):], d)
	return out, nil
}

type responseFormat struct {
	Type       string      `json:"type"`
	JSONSchema *jsonSchema `json:"json_schema,omitempty"`
}

type jsonSchema struct {
	Name   string          `json:"name"`
	Strict bool            `json:"strict"`
	Schema json.RawMessage `json:"schema"`
}

// chatCompletion is an answer. What servers do differently is read as it comes: no answer is thrown away for a field
// that is of another type than the reference says.
type chatCompletion struct {
	Model   loose[string]   `json:"model"`
	Choices []chatChoice    `json:"choices"`
	Usage   json.RawMessage `json:"usage"` // see tokens
	Error   json.RawMessage `json:"error"` // under status 200, as OpenRouter and others send it
}

type chatChoice struct {
	FinishReason loose[string]   `json:"finish_reason"`
	Message      chatAnswer      `json:"message"`
	Error        json.RawMessage `json:"error"`
}

type chatAnswer struct {
	Content          flatText          `json:"content"`
	Refusal          loose[string]     `json:"refusal"`
	Reasoning        flatText          `json:"reasoning"`         // Ollama, vLLM, OpenRouter
	ReasoningContent flatText          `json:"reasoning_content"` // DeepSeek, LiteLLM, older vLLM
	Thinking         flatText          `json:"thinking"`
	ToolCalls        loose[[]toolCall] `json:"tool_calls"` // into which some proxies turn a schema
}

type toolCall struct {
	Function struct {
		Arguments flatText `json:"arguments"`
	} `json:"function"`
}

// source is a field of a message in which the answer may be.
type source struct {
	name, text string
	thinking   bool // what stands in it beside an answer is a draft
}

const sourceContent = "content"

// sources are those fields, the likeliest first.
func (a chatAnswer) sources() []source {
	out := []source{{sourceContent, string(a.Content), false}}
	for _, c := range a.ToolCalls.value {
		out = append(out, source{"tool_calls", string(c.Function.Arguments), false})
	}
	return append(out, source{"reasoning", string(a.Reasoning), true}, source{"reasoning_content", string(a.ReasoningContent), true},
		source{"thinking", string(a.Thinking), true})
}

// loose is a value that is left zero where another type comes.
type loose[T any] struct{ value T }

// UnmarshalJSON never fails.
func (l *loose[T]) UnmarshalJSON(raw []byte) error {
	var v T
	if json.Unmarshal(raw, &v) == nil {
		l.value = v
	}
	return nil
}

// flatText is a text, or the text of a list of parts, as Mistral sends it beside its thinking; an object, as some
// servers send what they have parsed, is its JSON.
type flatText string

// UnmarshalJSON never fails.
func (t *flatText) UnmarshalJSON(raw []byte) error {
	var (
		s     string
		parts []struct {
			Type loose[string] `json:"type"`
			Text flatText      `json:"text"`
		}
	)
	switch {
	case json.Unmarshal(raw, &s) == nil:
		*t = flatText(s)
	case bytes.HasPrefix(raw, []byte("{")):
		*t = flatText(raw)
	case json.Unmarshal(raw, &parts) == nil:
		for _, p := range parts {
			if p.Type.value == "" || strings.Contains(p.Type.value, "text") {
				*t += p.Text
			}
		}
	default:
		var lines []string
		if json.Unmarshal(raw, &lines) == nil {
			*t = flatText(strings.Join(lines, ""))
		}
	}
	return nil
}

// tokens are the counts of the call, 0 where the server sends none or nonsense: an
// answer is not thrown away for its bill. Some servers leave the tokens of thinking out of those of the completion, and
// count them in the total alone.
func (c *chatCompletion) tokens() (prompt, completion int) {
	var u struct {
		Prompt     float64 `json:"prompt_tokens"`
		Completion float64 `json:"completion_tokens"`
		Total      float64 `json:"total_tokens"`
	}
	if json.Unmarshal(c.Usage, &u) != nil {
		return 0, 0
	}
	u.Prompt = max(u.Prompt, 0)
	return int(min(u.Prompt, maxTokens)), int(min(max(u.Completion, u.Total-u.Prompt, 0), maxTokens))
}

// reply is an answer of the endpoint's: its status is known even where its body could
// not be read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r *reply) ok() bool { return r.status >= 200 && r.status < 300 }

// isPage reports whether it is a web page in place of an answer of the API.
func (r *reply) isPage() bool { return r.ok() && bytes.HasPrefix(bytes.TrimSpace(r.body), []byte("<")) }

var errAnswerTooLarge = errors.New("answer too large")

// post sends a request and reads what comes back, of any status. The reply is nil if
// there is none; the error is why there is none, or why its body is not whole.
// sent says whether the request was written, so that the server may work on it and ask for its money.
func (o *OpenAI) post(ctx context.Context, r chatRequest) (_ *reply, sent bool, err error) {
	body, err := marshal(r)
	if err != nil {
		return nil, false, fmt.Errorf("encode request: %w", err)
	}
	var wrote atomic.Bool
	defer func() { sent = wrote.Load() }()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(i httptrace.WroteRequestInfo) { wrote.Store(i.Err == nil) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "onceover")
	o.authorize(req)
	resp, err := o.client.Do(req)
	if err != nil {
		// Without the URL that net/http puts before its errors.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, false, err
	}
	defer resp.Body.Close()
	out := &reply{status: resp.StatusCode, header: resp.Header}
	out.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err == nil && len(out.body) > maxAnswerBytes {
		err = errAnswerTooLarge
	}
	return out, false, err
}
