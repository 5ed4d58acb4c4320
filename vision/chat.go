package vision

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// The part of OpenAI's chat completions that is used (API reference, "Create chat
// completion"). The official client is not: it is most of what a first build would
// compile, for one POST of which status, headers and body are needed here anyway.

type chatRequest struct {
	Model          string          `json:"model"`
	Messages       []chatMessage   `json:"messages"`
	ResponseFormat *responseFormat `json:"response_format,omitempty"`
}

// user adds a message of the user's: a string or a []contentPart.
func (r *chatRequest) user(content any) {
	r.Messages = append(r.Messages, chatMessage{Role: "user", Content: content})
}

type chatMessage struct {
	Role    string `json:"role"`
	Content any    `json:"content"`
}

type contentPart struct {
	Type     string    `json:"type"`
	Text     string    `json:"text,omitempty"`
	ImageURL *imageURL `json:"image_url,omitempty"`
}

type imageURL struct {
	URL string `json:"url"`
}

type responseFormat struct {
	Type       string     `json:"type"`
	JSONSchema jsonSchema `json:"json_schema"`
}

type jsonSchema struct {
	Name   string          `json:"name"`
	Strict bool            `json:"strict"`
	Schema json.RawMessage `json:"schema"`
}

type chatCompletion struct {
	Choices []struct {
		FinishReason string `json:"finish_reason"`
		Message      struct {
			Content string `json:"content"`
			Refusal string `json:"refusal"`
		} `json:"message"`
	} `json:"choices"`
	Usage json.RawMessage `json:"usage"` // see tokens
}

// tokens are the counts of the call, 0 where the server sends none or nonsense: an
// answer is not thrown away for its bill.
func (c *chatCompletion) tokens() (prompt, completion int) {
	var u struct {
		Prompt     float64 `json:"prompt_tokens"`
		Completion float64 `json:"completion_tokens"`
	}
	if json.Unmarshal(c.Usage, &u) != nil {
		return 0, 0
	}
	return int(min(max(u.Prompt, 0), maxTokens)), int(min(max(u.Completion, 0), maxTokens))
}

// reply is an answer of the endpoint's: its status is known even where its body could
// not be read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r *reply) ok() bool { return r.status >= 200 && r.status < 300 }

var errAnswerTooLarge = errors.New("answer too large")

// post sends a request and reads what comes back, of any status. The reply is nil if
// there is none; the error is why there is none, or why its body is not whole.
func (o *OpenAI) post(ctx context.Context, r chatRequest) (*reply, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, err
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
		return nil, err
	}
	defer resp.Body.Close()
	out := &reply{status: resp.StatusCode, header: resp.Header}
	out.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err == nil && len(out.body) > maxAnswerBytes {
		err = errAnswerTooLarge
	}
	return out, err
}
