package vision

import (
	"context"
	"encoding/json"
	"time"
)

// Analyzer looks at pictures. Implementations are safe for concurrent use; their methods block until the answer is
// there or ctx ends.
//
// Errors are an *Error (test with errors.As), or wrap context.Cause(ctx) if ctx has ended. The Usage is what was
// spent and is valid beside an error too.
type Analyzer interface {
	// Analyze describes the picture. Its answer has passed the schema of the prompt.
	Analyze(ctx context.Context, p *Preview, opt Options) (Answer, Usage, error)

	// Feedback answers a person's question about a picture from its analysis alone, in plain text of at most
	// MaxFeedbackRunes characters. The analysis is a JSON object; the question, of at most MaxQuestionRunes, is treated
	// as data.
	Feedback(ctx context.Context, analysis json.RawMessage, question string, opt Options) (string, Usage, error)

	// Model is the name of the model that is asked in a language, unless Options.Model names another one.
	Model(lang string) string

	// PromptVersion changes whenever the prompt or the schema behind Analyze changes for jobs in a language: 8 hex
	// digits.
	PromptVersion(lang string) string
}

// Options are a job's own wishes, of which an empty field means the configured default, and what it has had.
type Options struct {
	Model string // a name that the endpoint knows
	Lang  string // language of the text written for people, as a BCP 47 tag such as "ko", "en" or "pt-BR"
	Paid  int    // answers of the same kind that earlier attempts of the job have paid for
	// Unanswered says that an earlier attempt has paid for one, or may have, and none came.
	Unanswered bool

	Priority uint8     // 0 to 9: the higher is asked first
	User     string    // whose job it is; "" if nobody's
	Until    time.Time // the turn of a call is waited for at most; zero: as long as is usual
	Expires  time.Time // nobody wants the answer after that; zero: always
}

// Answer is what is known about a picture.
type Answer struct {
	Fields        json.RawMessage // an object that satisfies the schema, its members in the order of that
	OffList       []string        // the fields whose values are none of the schema's lists and were taken all the same
	Model         string          // who answered, as the endpoint says; else the name that was asked for
	PromptVersion string          // of the prompt that was answered
	Cascade       Cascaded        // empty without a cascade
	Dearer        error           // why the dearer model gave no answer, of CascadeFailed

	by *OpenAI // in a Chain: who was asked
}

// Cascaded is how a Chain with a Cascade came to an answer.
type Cascaded string

const (
	CascadeSure   Cascaded = "sure"   // the cheaper model's answer was sure enough
	CascadeAsked  Cascaded = "asked"  // it was not, and the dearer model gave one
	CascadeFailed Cascaded = "failed" // it was not, and counts all the same: the dearer model gave none
)

// Usage counts what was asked of a paid service.
type Usage struct {
	Calls            int   `json:"calls"` // requests sent, answered or not
	Paid             int   `json:"-"`     // of these, how many a provider asks money for
	Uncounted        int   `json:"-"`     // of those, how many of which the tokens are not known
	PromptTokens     int   `json:"prompt_tokens"`
	CompletionTokens int   `json:"completion_tokens"`
	CostMicroUSD     int64 `json:"cost_microusd,omitempty"` // millionths of a US dollar; 0 where no price is known
}

// Add returns the sum of u and v.
func (u Usage) Add(v Usage) Usage {
	return Usage{
		Calls:            u.Calls + v.Calls,
		Paid:             u.Paid + v.Paid,
		Uncounted:        u.Uncounted + v.Uncounted,
		PromptTokens:     u.PromptTokens + v.PromptTokens,
		CompletionTokens: u.CompletionTokens + v.CompletionTokens,
		CostMicroUSD:     u.CostMicroUSD + v.CostMicroUSD,
	}
}
