package vision

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// OpenAI is the Analyzer that asks a server by OpenAI's chat completions, the one interface that nearly all model servers
// speak. It is safe for concurrent use.
type OpenAI struct {
	client            *http.Client
	endpoint          string
	model, lang       string
	timeout           time.Duration
	priceIn, priceOut int64
	schema            schema
	// With the API key, which is thus in no field that could be printed.
	authorize func(*http.Request)
	clean     func(string) string // serverText
}

var _ Analyzer = (*OpenAI)(nil)

// MaxQuestionRunes is the longest question that Feedback passes on, in characters.
const MaxQuestionRunes = 2000

const (
	maxAnswerBytes = 1 << 20 // an HTTP answer; ours take some 2 KB
	maxEchoRunes   = 4000    // of a broken answer, shown to the model again
	maxTokens      = 1 << 31 // a count beyond this is nonsense of the server's
)

// NewOpenAI returns an Analyzer for the configured endpoint. It connects to nothing yet. Its error joins every fault of
// the configuration.
func NewOpenAI(cfg OpenAIConfig) (*OpenAI, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	schema, err := parseSchema(analysisSchema)
	if err != nil {
		return nil, fmt.Errorf("read analysis schema: %w", err)
	}
	o := &OpenAI{
		client:   httpClient(cfg.HTTPClient),
		endpoint: strings.TrimRight(cfg.BaseURL, "/") + "/chat/completions",
		model:    cfg.Model,
		lang:     cfg.DefaultLang,
		timeout:  cfg.Timeout,
		priceIn:  cfg.PriceIn,
		priceOut: cfg.PriceOut,
		schema:   schema,
		authorize: func(r *http.Request) {
			if cfg.APIKey != "" {
				r.Header.Set("Authorization", "Bearer "+cfg.APIKey)
			}
		},
		clean: func(s string) string { return serverText(s, cfg.APIKey) },
	}
	if o.lang == "" {
		o.lang = defaultLang
	}
	if o.timeout == 0 {
		o.timeout = defaultTimeout
	}
	return o, nil
}

// Model returns the configured model's name.
func (o *OpenAI) Model() string { return o.model }

// PromptVersion is derived from the prompt and the schema of Analyze.
func (o *OpenAI) PromptVersion() string {
	return version(analysisPrompt, analysisRequest, analysisSchema)
}

// Analyze asks the model about the picture, and once more, saying what was wrong, if the answer breaks the schema.
// A second break is a transient *Error; a refusal by the model is a permanent one.
func (o *OpenAI) Analyze(ctx context.Context, p *Preview, opt Options) (Analysis, Usage, error) {
	chat, err := o.begin(opt, analysisPrompt)
	if err != nil {
		return Analysis{}, Usage{}, err
	}
	chat.user([]contentPart{
		{Type: "text", Text: analysisRequest},
		{Type: "image_url", ImageURL: &imageURL{URL: "data:image/jpeg;base64," + base64.StdEncoding.EncodeToString(p.JPEG)}},
	})
	chat.ResponseFormat = &responseFormat{
		Type:       "json_schema",
		JSONSchema: jsonSchema{Name: "analysis", Strict: true, Schema: json.RawMessage(analysisSchema)},
	}

	text, usage, err := o.ask(ctx, chat)
	if err != nil {
		return Analysis{}, usage, err
	}
	a, fault := o.schema.parseReply(text)
	if fault == nil {
		return a, usage, nil
	}

	if strings.TrimSpace(text) != "" {
		chat.Messages = append(chat.Messages, chatMessage{Role: "assistant", Content: truncate(text, maxEchoRunes)})
	}
	chat.user(fmt.Sprintf(repairPrompt, fault))
	text, second, err := o.ask(ctx, chat)
	usage = usage.Add(second)
	if err != nil {
		return Analysis{}, usage, err
	}
	if a, fault = o.schema.parseReply(text); fault != nil {
		return Analysis{}, usage, failure(chat.Model, &Error{Transient: true}, "its answer broke the schema, and again when asked once more: "+fault.Error())
	}
	return a, usage, nil
}

// Feedback asks the model a person's question about an analysis; the picture is not sent. A question that is empty or
// longer than MaxQuestionRunes is refused by a permanent *Error.
func (o *OpenAI) Feedback(ctx context.Context, a Analysis, question string, opt Options) (string, Usage, error) {
	chat, err := o.begin(opt, feedbackPrompt)
	if err != nil {
		return "", Usage{}, err
	}
	question = strings.TrimSpace(question)
	if n := utf8.RuneCountInString(question); n == 0 || n > MaxQuestionRunes {
		return "", Usage{}, &Error{Err: fmt.Errorf("the question has %d characters: expected 1 to %d", n, MaxQuestionRunes)}
	}
	// As a JSON string the question cannot end where it likes and go on as something else.
	var message bytes.Buffer
	enc := json.NewEncoder(&message)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(map[string]any{"analysis": a, "question": question}); err != nil {
		return "", Usage{}, &Error{Err: fmt.Errorf("encode question: %w", err)}
	}
	chat.user(message.String())

	text, usage, err := o.ask(ctx, chat)
	if err != nil {
		return "", usage, err
	}
	if text = strings.TrimSpace(text); text == "" {
		return "", usage, failure(chat.Model, &Error{Transient: true}, "its answer is empty")
	}
	return truncate(text, MaxFeedbackRunes), usage, nil
}

// begin begins a request with the model and language of opt; prompt has a place for the language.
func (o *OpenAI) begin(opt Options, prompt string) (chatRequest, error) {
	model, lang := o.model, o.lang
	if opt.Model != "" {
		if text := modelFault(opt.Model); text != "" {
			return chatRequest{}, &Error{Err: fmt.Errorf("model %s", text)}
		}
		model = opt.Model
	}
	if opt.Lang != "" {
		if err := CheckLang(opt.Lang); err != nil {
			return chatRequest{}, &Error{Err: fmt.Errorf("lang %w", err)}
		}
		lang = opt.Lang
	}
	// Neither a temperature nor a token limit: what one server demands of them, the next refuses.
	return chatRequest{
		Model:    model,
		Messages: []chatMessage{{Role: "system", Content: fmt.Sprintf(prompt, lang)}},
	}, nil
}

// ask makes one call and returns the text of the first choice, which may be empty. It does not retry: the worker does,
// and both together would multiply paid calls.
func (o *OpenAI) ask(ctx context.Context, chat chatRequest) (string, Usage, error) {
	if ctx.Err() != nil {
		return "", Usage{}, ended(ctx)
	}
	call, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	usage := Usage{Calls: 1}
	reply, err := o.post(call, chat)
	var completion *chatCompletion // null stays nil
	if err == nil && reply.ok() {
		err = json.Unmarshal(reply.body, &completion)
	}
	switch {
	case completion != nil && err == nil:
	case ctx.Err() != nil:
		return "", usage, ended(ctx)
	case call.Err() != nil:
		return "", usage, failure(chat.Model, &Error{Transient: true}, fmt.Sprintf("no answer within %v", o.timeout))
	default:
		return "", usage, o.callFailure(chat.Model, reply, err)
	}

	usage.PromptTokens, usage.CompletionTokens = completion.tokens()
	if chat.Model == o.model { // the prices are this model's
		usage.CostMicroUSD = (int64(usage.PromptTokens)*o.priceIn + int64(usage.CompletionTokens)*o.priceOut + 500_000) / 1_000_000
	}

	if len(completion.Choices) == 0 {
		_, text := serverError(reply.body) // some servers report errors under status 200
		return "", usage, failure(chat.Model, &Error{Transient: true}, "the answer has no choices", o.clean(text))
	}
	choice := completion.Choices[0]
	if choice.Message.Refusal != "" || choice.FinishReason == "content_filter" {
		return "", usage, failure(chat.Model, &Error{}, "the model refused to answer", o.clean(choice.Message.Refusal))
	}
	return choice.Message.Content, usage, nil
}

// ended is the error of a call whose caller gave up: the cause, which is not ours to classify.
func ended(ctx context.Context) error {
	return fmt.Errorf("ask vision model: %w", context.Cause(ctx))
}

// failure completes e with what was being done and what went wrong; empty details are left out.
func failure(model string, e *Error, what string, details ...string) *Error {
	text := what
	for _, d := range details {
		if d != "" {
			text += ": " + d
		}
	}
	e.Err = fmt.Errorf("ask vision model %q: %w", model, errors.New(text))
	return e
}
