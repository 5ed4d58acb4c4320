package vision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
)

// Analyzer looks at pictures. Implementations are safe for concurrent use; their methods block until the answer is
// there or ctx ends.
//
// Errors are an *Error (test with errors.As), or wrap context.Cause(ctx) if ctx has ended. The Usage is what was
// spent and is valid beside an error too.
type Analyzer interface {
	// Analyze describes the picture. Its answer has passed the schema of prompt.go.
	Analyze(ctx context.Context, p *Preview, opt Options) (Analysis, Usage, error)

	// Feedback answers a person's question about a picture from its analysis alone, in plain text of at most
	// MaxFeedbackRunes characters. The question, of at most MaxQuestionRunes, is treated as data.
	Feedback(ctx context.Context, a Analysis, question string, opt Options) (string, Usage, error)

	// Model is the configured model's name, as recorded in results and cache entries. Options.Model, where given, is
	// the one that answered instead.
	Model() string

	// PromptVersion changes whenever the prompt or the schema behind Analyze changes: 8 hex digits.
	PromptVersion() string
}

// Options are a job's own wishes; an empty field means the configured default.
type Options struct {
	Model string // a name that the endpoint knows
	Lang  string // language of the text written for people, as a BCP 47 tag such as "ko", "en" or "pt-BR"
}

// Analysis is what is known about a picture; its fields are the first five of the cached JSON.
type Analysis struct {
	WasteType  string  `json:"waste_type"` // one of the schema's, or Unclassified
	Confidence float64 `json:"confidence"` // 0 to 1
	Feedback   string  `json:"feedback"`   // text for the person, in the language asked for
	Category   string  `json:"category"`   // finer than WasteType; one of the schema's, or Unclassified
	Recyclable bool    `json:"recyclable"`
}

// Unclassified is the WasteType and Category of a picture of which neither is known.
const Unclassified = "unclassified"

// Usage counts what was asked of a paid service.
type Usage struct {
	Calls            int   `json:"calls"` // requests sent, answered or not
	PromptTokens     int   `json:"prompt_tokens"`
	CompletionTokens int   `json:"completion_tokens"`
	CostMicroUSD     int64 `json:"cost_microusd,omitempty"` // millionths of a US dollar; 0 where no price is known
}

// Add returns the sum of u and v.
func (u Usage) Add(v Usage) Usage {
	return Usage{
		Calls:            u.Calls + v.Calls,
		PromptTokens:     u.PromptTokens + v.PromptTokens,
		CompletionTokens: u.CompletionTokens + v.CompletionTokens,
		CostMicroUSD:     u.CostMicroUSD + v.CostMicroUSD,
	}
}

// version names a set of texts by the first 8 hex digits of their SHA-256.
func version(texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		h.Write([]byte(t))
		h.Write([]byte{0}) // keeps "ab","c" and "a","bc" apart
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}
