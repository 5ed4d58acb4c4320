package vision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"onceover/vision/prompt"
)

// OpenAI is the Analyzer that asks a server by OpenAI's chat completions, the one interface that nearly all model servers
// speak. It is safe for concurrent use.
type OpenAI struct {
	name        string
	client      *http.Client
	endpoint    string
	model, lang string
	tier        string
	cheap       bool // of a tier that may have no room: the next endpoint has
	timeout     time.Duration
	prices      Prices
	prompts     *prompt.Folder
	gate        Gate // nil: calls begin at once
	// With the API key, which is thus in no field that could be printed.
	authorize func(*http.Request)
	clean     func(string) string // serverText

	mu      sync.Mutex
	formats map[string]Format // by model: what it turned out to take

	strictest Format // that is tried
}

var _ Analyzer = (*OpenAI)(nil)

// MaxQuestionRunes is the longest question that Feedback passes on, in characters.
const MaxQuestionRunes = 2000

// MaxFeedbackRunes is the longest answer to a question, in characters; it keeps results small.
const MaxFeedbackRunes = 2000

// MaxPaid is how many answers about a picture, or to a question, are paid for in one job.
const MaxPaid = 2

const (
	maxAnswerBytes = 1 << 20 // an HTTP answer; ours take some 2 KB
	maxEchoRunes   = 4000    // of a broken answer, shown to the model again
	maxTokens      = 1 << 31 // a count beyond this is nonsense of the server's
)

// repairPrompt is the one re-ask after an answer that broke the schema. %s is what was wrong with it.
const repairPrompt = `That answer cannot be used: %s. Look at the picture again and answer with one JSON object that satisfies the schema, and nothing else.`

// schemaPrompt stands behind the system message where the server does not take the schema as such. %s is the schema.
const schemaPrompt = `Answer with one JSON object that satisfies this JSON Schema, and nothing else: %s`

// Format is how an endpoint is told the form of an answer.
type Format string

// The formats, the strictest first. After JSONSchema a server knows the schema, with the others only the model does.
const (
	JSONSchema Format = "json_schema"
	JSONObject Format = "json_object"
	PlainText  Format = "none"
)

// weaker is the format that a server may take that does not take f; "" if there is none.
func (f Format) weaker() Format {
	switch f {
	case JSONSchema:
		return JSONObject
	case JSONObject:
		return PlainText
	}
	return ""
}

// NewOpenAI returns an Analyzer for the configured endpoint. It connects to nothing yet. Its error joins every fault of
// the configuration.
func NewOpenAI(cfg OpenAIConfig) (*OpenAI, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	o := &OpenAI{
		name:      cfg.Name,
		client:    httpClient(cfg.HTTPClient),
		endpoint:  strings.TrimRight(cfg.BaseURL, "/") + "/chat/completions",
		model:     cfg.Model,
		lang:      cfg.DefaultLang,
		tier:      cfg.Tier,
		cheap:     cfg.Cheap,
		timeout:   cfg.Timeout,
		prices:    cfg.Prices,
		prompts:   cfg.Prompts,
		gate:      cfg.Gate,
		formats:   map[string]Format{},
		strictest: cfg.Format,
		authorize: func(r *http.Request) {
			if cfg.APIKey != "" {
				r.Header.Set("Authorization", "Bearer "+cfg.APIKey)
			}
		},
		clean: func(s string) string { return serverText(s, cfg.APIKey) },
	}
	if o.strictest == "" {
		o.strictest = JSONSchema
	}
	if o.lang == "" {
		o.lang = defaultLang
	}
	if o.timeout == 0 {
		o.timeout = defaultTimeout
	}
	if o.name == "" {
		o.name = onlyEndpoint
	}
	return o, nil
}

// Model returns the name of the model that is asked in a language: the prompt's, or the configured one.
func (o *OpenAI) Model(lang string) string {
	return cmp.Or(o.prompts.Find(prompt.Analysis, lang).Model, o.model)
}

// PromptVersion is that of the prompt for a language.
func (o *OpenAI) PromptVersion(lang string) string {
	return o.prompts.Find(prompt.Analysis, lang).Version
}

// Analyze asks the model about the picture, and once more, saying what was wrong, if what came is no answer and may be
// one the next time. The second is the last that the job pays for.
func (o *OpenAI) Analyze(ctx context.Context, p *Preview, opt Options) (Answer, Usage, error) {
	q, err := o.begin(opt, prompt.Analysis)
	if err != nil {
		return Answer{}, Usage{}, err
	}
	q.size, q.bytes = sizeClass(p), len(p.JPEG)
	chat := q.chat(prompt.Values{Lang: q.lang}, dataURL(p.JPEG))
	var usage Usage
	for {
		if opt.Paid+usage.Paid >= MaxPaid {
			return Answer{}, usage, PaidEnough(q.model, opt.Paid+usage.Paid)
		}
		got, spent, err := o.askFor(ctx, q, chat)
		usage = usage.Add(spent)
		var e *Error
		if errors.As(err, &e) && e.Class == Unusable && e.StatusCode != 0 && opt.Paid+usage.Paid < MaxPaid {
			continue // the server itself did not let the model's answer pass
		}
		if err != nil {
			return Answer{}, usage, err
		}
		cutOff := got.FinishReason.value == "length"
		fitted, _, fault := rescue(q.prompt.Schema, got.Message, cutOff)
		if fault == nil {
			return Answer{Fields: fitted.Fields, OffList: fitted.OffList, Model: got.model, PromptVersion: q.prompt.Version}, usage, nil
		}
		what := "its answer cannot be used: " + o.clean(fault.Error())
		switch {
		case cutOff:
			e := &Error{Class: Truncated}
			return Answer{}, usage, o.failure(q.model, e, what, o.remedy(e))
		case opt.Paid+usage.Paid >= MaxPaid:
			return Answer{}, usage, o.failure(q.model, &Error{Class: Unusable}, what)
		}
		if text := strings.TrimSpace(string(got.Message.Content)); text != "" {
			chat.say("assistant", truncate(text, maxEchoRunes))
		}
		chat.say("user", fmt.Sprintf(repairPrompt, truncate(fault.Error(), maxEchoRunes)))
		q.kind = repairKind // it is longer
	}
}

// PaidEnough is the error of a job that has paid for as many calls of a model as it may.
func PaidEnough(model string, paid int) *Error {
	return &Error{Class: Exhausted, Err: fmt.Errorf(
		"ask vision model %q: %d calls were paid for, or may have been, and gave no answer that can be used; the log has the reasons: replay the job to ask again", model, paid)}
}

// Feedback asks the model a person's question about an analysis; the picture is not sent. A question that is empty or
// longer than MaxQuestionRunes is refused by an *Error of class Invalid.
func (o *OpenAI) Feedback(ctx context.Context, analysis json.RawMessage, question string, opt Options) (string, Usage, error) {
	q, err := o.begin(opt, prompt.Feedback)
	if err != nil {
		return "", Usage{}, err
	}
	question = strings.TrimSpace(question)
	if n := utf8.RuneCountInString(question); n == 0 || n > MaxQuestionRunes {
		return "", Usage{}, &Error{Class: Invalid, Err: fmt.Errorf("the question has %d characters: expected 1 to %d", n, MaxQuestionRunes)}
	}
	if opt.Paid >= MaxPaid {
		return "", Usage{}, o.failure(q.model, &Error{Class: Exhausted}, fmt.Sprintf(
			"%d calls about the question were paid for, or may have been, and gave no answer: replay the job to ask again", opt.Paid))
	}
	got, usage, err := o.ask(ctx, q, q.chat(prompt.Values{Lang: q.lang, Analysis: analysis, Question: question}, nil))
	if err != nil {
		return "", usage, err
	}
	text := withoutThinking(string(got.Message.Content))
	switch {
	case text != "":
		return truncate(text, MaxFeedbackRunes), usage, nil
	case got.FinishReason.value == "length":
		e := &Error{Class: Truncated}
		return "", usage, o.failure(q.model, e, "its answer is empty", o.remedy(e))
	default:
		return "", usage, o.failure(q.model, &Error{Class: Unusable}, "its answer is empty")
	}
}

// onlyEndpoint is the name of one that has none, as it is the only one.
const onlyEndpoint = "default"

// repairKind is the kind of the call that says what was wrong with an answer.
const repairKind = prompt.Analysis + "/repair"

// query is what is asked, without its values, and for whom.
type query struct {
	prompt      *prompt.Prompt
	kind        string // prompt.Analysis, prompt.Feedback or repairKind
	model, lang string
	opt         Options
	size        string // class of the picture's size
	bytes       int    // of the picture
}

// begin returns the query of a task with the wishes of opt.
func (o *OpenAI) begin(opt Options, task string) (*query, error) {
	q := &query{model: o.model, lang: o.lang, kind: task, opt: opt}
	if opt.Lang != "" {
		if err := CheckLang(opt.Lang); err != nil {
			return q, &Error{Class: Invalid, Err: fmt.Errorf("lang %w", err)}
		}
		q.lang = opt.Lang
	}
	if q.prompt = o.prompts.Find(task, q.lang); q.prompt == nil {
		return q, &Error{Class: Invalid, Err: fmt.Errorf("the folder of prompts has no %s.prompt: expected one, or a job without a question", task)}
	}
	if q.prompt.Model != "" {
		q.model = q.prompt.Model
	}
	if opt.Model != "" {
		if text := modelFault(opt.Model); text != "" {
			return q, &Error{Class: Invalid, Err: fmt.Errorf("model %s", text)}
		}
		q.model = opt.Model
	}
	return q, nil
}

// chat is the request. Beside the prompt's own config it sets neither a temperature nor a limit of tokens: what one
// server demands of them, the next refuses.
func (q *query) chat(v prompt.Values, picture any) chatRequest {
	chat := chatRequest{Model: q.model, config: q.prompt.Config}
	for _, m := range q.prompt.Render(v) {
		if text, ok := m.Text(); ok {
			chat.say(string(m.Role), text)
			continue
		}
		var parts []contentPart
		for _, p := range m.Parts {
			if p.Picture {
				parts = append(parts, contentPart{Type: "image_url", ImageURL: &imageURL{URL: picture}})
			} else {
				parts = append(parts, contentPart{Type: "text", Text: p.Text})
			}
		}
		chat.say(string(m.Role), parts)
	}
	return chat
}

// Request is what is sent for a prompt, as JSON, with a place where the picture is.
func Request(p *prompt.Prompt, v prompt.Values) ([]byte, error) {
	q := query{prompt: p, model: p.Model, lang: v.Lang}
	chat := q.chat(v, "data:image/jpeg;base64,…")
	if p.Schema != nil {
		chat = q.in(JSONSchema, chat)
	}
	return marshal(chat)
}

// in returns the request for an answer in a format.
func (q *query) in(f Format, chat chatRequest) chatRequest {
	if f == JSONSchema {
		chat.ResponseFormat = &responseFormat{Type: string(f), JSONSchema: &jsonSchema{Name: q.prompt.Name, Strict: true, Schema: q.prompt.Schema.Sent()}}
		return chat
	}
	if f == JSONObject {
		chat.ResponseFormat = &responseFormat{Type: string(f)}
	}
	told := chatMessage{"system", fmt.Sprintf(schemaPrompt, q.prompt.Schema.Sent())}
	chat.Messages = append([]chatMessage{told}, chat.Messages...)
	if first, ok := chat.Messages[1].Content.(string); ok && chat.Messages[1].Role == "system" { // some models know only one
		told.Content = first + "\n\n" + told.Content.(string)
		chat.Messages = append([]chatMessage{told}, chat.Messages[2:]...)
	}
	return chat
}

// askFor is ask for an answer by a schema. A server that does not take its form is asked in a weaker one, and from then
// on always: such a refusal costs nothing.
func (o *OpenAI) askFor(ctx context.Context, q *query, chat chatRequest) (*choice, Usage, error) {
	var all Usage
	for f := o.format(q.model); ; {
		got, usage, err := o.ask(ctx, q, q.in(f, chat))
		all = all.Add(usage)
		var e *Error
		if weaker := f.weaker(); err == nil || weaker == "" || !errors.As(err, &e) || e.Class != Unsupported {
			return got, all, err
		}
		f = f.weaker()
		o.mu.Lock()
		o.formats[q.model] = f
		o.mu.Unlock()
	}
}

// format is the one that a model takes as far as is known.
func (o *OpenAI) format(model string) Format {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f, ok := o.formats[model]; ok {
		return f
	}
	return o.strictest
}

// choice is the first one of an answer, and who gave it.
type choice struct {
	chatChoice
	model  string
	header http.Header
}

// ask makes one call and returns the first choice, which may be empty. With a gate it makes the call again that the
// endpoint had no room for, as long as the gate says that there will be soon. It does not retry otherwise: the
// worker does, and both together would multiply paid calls.
func (o *OpenAI) ask(ctx context.Context, q *query, chat chatRequest) (got *choice, all Usage, err error) {
	chat.Tier = o.tier
	for range maxThrottled {
		var usage Usage
		got, usage, err = o.askOnce(ctx, q, chat)
		all = all.Add(usage)
		var e *Error
		if o.gate == nil || !errors.As(err, &e) || e.Class != RateLimited || usage.Calls == 0 || o.passesOn(e, false) {
			break
		}
	}
	return got, all, err
}

// maxThrottled is how often a call is made at most that the endpoint has no room for, before the job waits elsewhere.
const maxThrottled = 3

// askOnce makes one call when the gate lets it begin.
func (o *OpenAI) askOnce(ctx context.Context, q *query, chat chatRequest) (*choice, Usage, error) {
	if ctx.Err() != nil {
		return nil, Usage{}, ended(ctx)
	}
	if o.gate == nil {
		got, end := o.call(ctx, chat)
		return got, end.usage(o.pricesOf(chat.Model).Cost(end.Tokens)), end.Err
	}
	pass, err := o.enter(ctx, q, chat)
	if err != nil {
		return nil, Usage{}, err
	}
	end := End{Err: context.Canceled, Paid: true} // for a panic
	var cost int64
	got := func() (got *choice) {
		defer func() { cost = pass.Leave(end) }()
		got, end = o.call(ctx, chat)
		return got
	}()
	return got, end.usage(cost), end.Err
}

// enter waits until the gate lets a call begin.
func (o *OpenAI) enter(ctx context.Context, q *query, chat chatRequest) (Pass, error) {
	return o.gate.Enter(ctx, o.about(q, chat))
}

// usage is that of one call.
func (e End) usage(cost int64) Usage {
	u := Usage{Calls: 1, PromptTokens: e.Prompt, CompletionTokens: e.Completion, CostMicroUSD: cost}
	if e.Paid {
		u.Paid = 1
		if e.Prompt+e.Completion == 0 {
			u.Uncounted = 1
		}
	}
	return u
}

// pricesOf are those of a model: of any but the configured one they are not known.
func (o *OpenAI) pricesOf(model string) Prices {
	if model == o.model {
		return o.prices
	}
	return Prices{}
}

// about is what the gate has to know of a call.
func (o *OpenAI) about(q *query, chat chatRequest) Call {
	most := Tokens{Prompt: mostForPicture, Completion: mostCompletion}
	if q.size == "" {
		most.Prompt = 0
	}
	for _, m := range chat.Messages {
		most.Prompt += len(m.text()) // no tokenizer makes more of a text than it has bytes
	}
	if chat.ResponseFormat != nil && chat.ResponseFormat.JSONSchema != nil {
		most.Prompt += len(chat.ResponseFormat.JSONSchema.Schema)
	}
	for _, name := range []string{"max_completion_tokens", "max_tokens"} {
		var limit int
		if json.Unmarshal(chat.config[name], &limit) == nil && limit > 0 {
			most.Completion = limit
			break
		}
	}
	return Call{
		Endpoint: o.name, Model: chat.Model, Prompt: q.prompt.Version, Kind: q.kind, Size: q.size,
		Last: q.opt.Paid+1 >= MaxPaid, Unanswered: q.opt.Unanswered && q.kind == prompt.Analysis, Named: q.opt.Model != "" && q.opt.Model != o.model, Prices: o.pricesOf(chat.Model), Most: most, Timeout: o.timeout, Wait: q.opt.wait(time.Now()),
		Bytes: q.bytes, Priority: q.opt.Priority, User: q.opt.User, Expires: q.opt.Expires,
	}
}

// What a call is taken to have at most before any was seen, in tokens. The dearest known picture of 1024 x 1024 pixels
// is that of gpt-4o-mini: 2,833 and four tiles of 5,667.
const (
	mostForPicture = 30_000
	mostCompletion = 16_384 // the limit of most models that do not think; a prompt's config may set another one
)

// sizeClass tells pictures apart that count as different numbers of tokens.
func sizeClass(p *Preview) string {
	if p.size != "" {
		return p.size
	}
	tiles := func(n int) int { return (n + 511) / 512 }
	return fmt.Sprintf("%dx%d", tiles(p.Image.Rect.Dx()), tiles(p.Image.Rect.Dy()))
}

// call makes one call and returns the first choice.
func (o *OpenAI) call(ctx context.Context, chat chatRequest) (got *choice, end End) {
	call, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	reply, sent, err := o.post(call, chat)
	end.Paid = sent && (reply == nil || billed(reply.status))
	var completion *chatCompletion // null stays nil
	if reply != nil && err == nil && (reply.ok() || reply.status == http.StatusBadRequest) {
		err = json.Unmarshal(reply.body, &completion)
	}
	switch {
	case err == nil && completion != nil && (reply.ok() || len(completion.Choices) > 0): // Azure's Foundry: 400
	case ctx.Err() != nil:
		end.Err = ended(ctx)
		return got, end
	case call.Err() != nil:
		end.Err = o.failure(chat.Model, &Error{Class: Unreachable}, fmt.Sprintf("no answer within %v", o.timeout))
		return got, end
	default:
		end.Err = o.callFailure(chat.Model, reply, err)
		switch class, _ := end.Class(); {
		case class == Unusable:
			end.Paid = true
		case reply != nil && reply.isPage():
			end.Paid = false // no model has worked for that
		}
		return got, end
	}
	end.Prompt, end.Completion = completion.tokens()
	if e := o.refusalIn(chat.Model, reply.header, completion); e != nil {
		end.Err = e
		if e.StatusCode != 0 && end.Prompt+end.Completion == 0 { // of the server: as under that status
			begun := len(completion.Choices) > 0 && e.Class == Overloaded
			end.Paid = end.Paid && (begun || e.Class == Unusable || billed(e.StatusCode))
		}
		return got, end
	}
	got = &choice{completion.Choices[0], o.clean(completion.Model.value), reply.header}
	if modelFault(got.model) != "" {
		got.model = chat.Model
	}
	return got, end
}

// billed reports whether a provider may ask money for a call that ended with a status: it has answered, or a gateway
// did not wait for it.
func billed(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusGatewayTimeout, statusCloudflareTimeout:
		return true
	}
	return status < 300
}

// statusCloudflareTimeout is 524: the server behind Cloudflare works for too long.
const statusCloudflareTimeout = 524

// ended is the error of a call whose caller gave up: the cause, which is not ours to classify.
func ended(ctx context.Context) error {
	return fmt.Errorf("ask vision model: %w", context.Cause(ctx))
}
