package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"onceover/vision"
)

// Outcome says what became of a picture.
type Outcome string

// The outcomes. The first three are the model's verdict. The other two are not its fault.
const (
	Answered Outcome = "answered" // an answer that satisfies the schema
	Refused  Outcome = "refused"  // the model, or a filter before or behind it, refused to answer
	Broken   Outcome = "broken"   // what came is no answer, nor what came when it was asked again
	Failed   Outcome = "failed"   // nothing came, and nothing was paid for
	Lost     Outcome = "lost"     // nothing is known of an answer that may have been paid for
)

// verdict reports whether an outcome is the model's own.
func (o Outcome) verdict() bool { return o == Answered || o == Refused || o == Broken }

// The types of the lines of a results file.
const (
	typeHeader  = "eval"
	typeIntent  = "intent"
	typeVerdict = "verdict"
)

// Header is the first line of a results file: what all of its verdicts have in common.
type Header struct {
	Type       string `json:"type"`    // "eval"
	Version    int    `json:"version"` // of the form of the file: 1
	Field      string `json:"field"`   // the field of the answer that is compared with the label
	Confidence string `json:"confidence_field"`
	Lang       string `json:"lang"`
}

// Verdict is what became of one picture with one model: a line of a results file.
type Verdict struct {
	Type          string   `json:"type"` // "verdict"
	ID            string   `json:"id"`
	Digest        string   `json:"digest"`
	Model         string   `json:"model"`
	Endpoint      string   `json:"endpoint,omitempty"` // see Model.Endpoint
	PromptVersion string   `json:"prompt_version"`
	Gold          string   `json:"gold"`
	Answer        string   `json:"answer"`
	Outcome       Outcome  `json:"outcome"`
	Confidence    *float64 `json:"confidence"` // nil if the answer states none
	OffList       bool     `json:"off_list,omitempty"`

	PromptTokens     int     `json:"prompt_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	CostMicroUSD     *int64  `json:"cost_microusd"`               // by the tokens; nil if no price is known
	Uncounted        int     `json:"uncounted,omitempty"`         // calls that may be paid for and whose tokens are not known
	ReservedMicroUSD int64   `json:"reserved_microusd,omitempty"` // what the picture was expected to cost at most; 0 if nothing was known
	MS               float64 `json:"ms"`                          // the last attempt: its call, its answer, and the second call where that answer could not be used
	Calls            int     `json:"calls"`
	Paid             int     `json:"paid"`
	AnsweredBy       string  `json:"answered_by,omitempty"` // as the endpoint says
	Error            string  `json:"error,omitempty"`
	At               string  `json:"at"` // RFC 3339, UTC
}

// pictureOf names a picture and the model that is asked about it.
type pictureOf struct{ digest, model string }

// Results is a results file. It is safe for concurrent use.
type Results struct {
	mu       sync.Mutex
	file     *os.File
	size     int64 // of the whole lines in the file
	unlock   func() error
	header   Header
	verdicts map[pictureOf]Verdict     // the last of each; Lost for an intent without one
	open     map[pictureOf]bool        // intents without a verdict, which are no doubts yet
	costs    map[string]Cost           // by model: what was counted
	doubts   map[string][]Verdict      // by model: those of which a part was not counted
	dearest  map[string]int64          // by model: micro-dollars of the dearest picture
	unpriced map[string][]vision.Usage // by model: what verdicts took for which no price was known
}

// Cost is what a model has taken.
type Cost struct {
	MicroUSD         int64 `json:"microusd"`         // by the tokens that were counted
	AssumedMicroUSD  int64 `json:"assumed_microusd"` // at most, for calls that may be paid for and whose tokens are not known
	Uncounted        int   `json:"uncounted"`        // such calls
	PromptTokens     int   `json:"prompt_tokens"`
	CompletionTokens int   `json:"completion_tokens"`
}

// ErrResults says that a results file is there and cannot be gone on with.
var ErrResults = errors.New("results file")

// OpenResults makes a results file or, with resume, goes on with one if it is there. It locks the file against other
// processes, as two would pay for the same pictures. The error wraps [ErrResults] if the file is there and resume is false,
// if it is of another run, or if another process has it.
func OpenResults(path string, h Header, resume bool) (*Results, error) {
	h.Type, h.Version = typeHeader, 1
	flags := os.O_RDWR | os.O_CREATE
	if !resume {
		flags |= os.O_EXCL
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w %s is there already: expected --resume to go on with it, or another name", ErrResults, path)
	}
	if err != nil {
		return nil, err
	}
	r := &Results{file: file, header: h, verdicts: map[pictureOf]Verdict{}, open: map[pictureOf]bool{}, costs: map[string]Cost{}, doubts: map[string][]Verdict{}, dearest: map[string]int64{}, unpriced: map[string][]vision.Usage{}}
	if r.unlock, err = lock(file); err != nil {
		return nil, errors.Join(fmt.Errorf("%w %s is in use by another process: %w", ErrResults, path, err), file.Close())
	}
	if err := r.load(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("%w %s: %w", ErrResults, path, err), r.Close())
	}
	return r, nil
}

// load reads what is there, and writes the header of a new file.
func (r *Results) load(dir string) error {
	doc, err := io.ReadAll(r.file)
	if err != nil {
		return err
	}
	whole := bytes.LastIndexByte(doc, '\n') + 1
	if tail := doc[whole:]; whole == 0 && !bytes.HasPrefix([]byte(headerStart), tail) && !bytes.HasPrefix(tail, []byte(headerStart)) {
		return errNotOurs // nothing of the file of another program is cut off
	} else if _, err := parseVerdict(tail); err == nil && whole > 0 {
		// Some editors leave out the end of the last line.
		doc = append(doc, '\n')
		if _, err := r.file.WriteAt([]byte{'\n'}, int64(len(doc)-1)); err != nil {
			return err
		}
		whole = len(doc)
	}
	n := 0
	for line := range bytes.Lines(doc[:whole]) {
		if n++; n == 1 {
			var h Header
			if err := json.Unmarshal(line, &h); err != nil || h.Type != typeHeader {
				return errNotOurs
			}
			if h != r.header {
				return fmt.Errorf("is of another run (version %d, field %s, confidence %s, language %s): expected the same, or another name",
					h.Version, h.Field, h.Confidence, h.Lang)
			}
			continue
		}
		v, err := parseVerdict(line)
		if err != nil {
			return fmt.Errorf("line %d is damaged (%w): remove it to go on without it", n, err)
		}
		r.take(v)
	}
	// A process that was killed may have left half a line: the call of which it tells is lost.
	if err := r.file.Truncate(int64(whole)); err != nil {
		return err
	}
	if r.size = int64(whole); whole == 0 {
		if err := r.write(r.header); err != nil {
			return err
		}
		return syncDir(dir)
	}
	return nil
}

// headerStart is how each results file begins.
const headerStart = `{"type":"` + typeHeader + `",`

var errNotOurs = errors.New("is not of onceover eval: expected another name")

// parseVerdict reads a line after the header. It takes no figure that Run cannot have written, as the limit and the
// statistics rely on them.
func parseVerdict(line []byte) (Verdict, error) {
	var v Verdict
	if err := json.Unmarshal(line, &v); err != nil {
		return v, err
	}
	switch c := v.Confidence; {
	case v.Digest == "" || v.Model == "":
		return v, errors.New("digest or model is empty")
	case v.Type == typeVerdict && !v.Outcome.verdict() && v.Outcome != Failed && v.Outcome != Lost:
		return v, fmt.Errorf("outcome is %q", v.Outcome)
	case c != nil && !(*c >= 0 && *c <= 1):
		return v, fmt.Errorf("confidence is %v, expected 0 to 1", *c)
	case v.PromptTokens < 0 || v.CompletionTokens < 0 || v.Uncounted < 0 || v.ReservedMicroUSD < 0 || v.MS < 0 || v.CostMicroUSD != nil && *v.CostMicroUSD < 0:
		return v, errors.New("a number is below 0")
	}
	return v, nil
}

// take counts a line.
func (r *Results) take(v Verdict) {
	key := pictureOf{v.Digest, v.Model}
	switch v.Type {
	case typeIntent:
		v.Type, v.Outcome, v.Error = typeVerdict, Lost, "the process ended before the answer was kept"
		v.Uncounted, v.Paid = vision.MaxPaid, vision.MaxPaid
		if r.open[key] { // an earlier one, which is lost for good
			r.doubts[v.Model] = append(r.doubts[v.Model], r.verdicts[key])
		}
		r.open[key] = true
	case typeVerdict:
		delete(r.open, key)
		c := r.costs[v.Model]
		if v.CostMicroUSD != nil {
			c.MicroUSD += *v.CostMicroUSD
			r.dearest[v.Model] = max(r.dearest[v.Model], *v.CostMicroUSD)
		} else if u := v.usage(); u.PromptTokens+u.CompletionTokens > 0 {
			r.unpriced[v.Model] = append(r.unpriced[v.Model], u)
		}
		c.PromptTokens += v.PromptTokens
		c.CompletionTokens += v.CompletionTokens
		r.costs[v.Model] = c
		if v.Uncounted > 0 {
			r.doubts[v.Model] = append(r.doubts[v.Model], v)
		}
	default:
		return // of a later version
	}
	r.verdicts[key] = v
}

// price works out what earlier verdicts of a model took that were written when no price was known. They count towards the
// limit, and towards the cost of a picture.
func (r *Results) price(m Model) {
	if m.Price == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.costs[m.Name]
	for _, u := range r.unpriced[m.Name] {
		cost := m.Price(u)
		c.MicroUSD += cost
		r.dearest[m.Name] = max(r.dearest[m.Name], cost)
	}
	if len(r.unpriced[m.Name]) > 0 {
		r.costs[m.Name] = c
	}
	delete(r.unpriced, m.Name)
	for key, v := range r.verdicts {
		if key.model == m.Name && v.CostMicroUSD == nil && !r.open[key] {
			cost := m.Price(v.usage())
			v.CostMicroUSD = &cost
			r.verdicts[key] = v
		}
	}
}

func (v Verdict) usage() vision.Usage {
	return vision.Usage{PromptTokens: v.PromptTokens, CompletionTokens: v.CompletionTokens}
}

// assumed is what the uncounted calls of a verdict took at most.
func (v Verdict) assumed(dearest int64) int64 {
	a := margin * dearest * int64(v.Uncounted)
	if a == 0 || v.ReservedMicroUSD > 0 {
		reserved := v.ReservedMicroUSD
		if v.CostMicroUSD != nil {
			reserved = max(0, reserved-*v.CostMicroUSD)
		}
		if a == 0 || reserved < a {
			return reserved
		}
	}
	return a
}

// write appends a line and waits until it is on disk.
func (r *Results) write(line any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(line); err != nil {
		return err
	}
	// If the disk was full, what half a line left is written over.
	if _, err := r.file.WriteAt(buf.Bytes(), r.size); err != nil {
		return err
	}
	r.size += int64(buf.Len())
	return r.file.Sync()
}

// intend writes that a picture is about to be sent.
func (r *Results) intend(v Verdict) error {
	v.Type, v.At = typeIntent, time.Now().UTC().Format(time.RFC3339Nano)
	return r.add(v)
}

// settle writes what became of it.
func (r *Results) settle(v Verdict) error {
	v.Type, v.At = typeVerdict, time.Now().UTC().Format(time.RFC3339Nano)
	return r.add(v)
}

func (r *Results) add(v Verdict) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.write(v); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	r.take(v)
	return nil
}

// Verdict returns what became of a picture, by its digest, with a model; false if it has not been asked about.
func (r *Results) Verdict(digest, model string) (Verdict, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.verdicts[pictureOf{digest, model}]
	return v, ok
}

// Cost returns what a model has taken, in this run and in those before: that of lost pictures included.
func (r *Results) Cost(model string) Cost {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cost(model)
}

func (r *Results) cost(model string) Cost {
	c := r.costs[model]
	doubts := slices.Clone(r.doubts[model])
	for key := range r.open {
		if key.model == model {
			doubts = append(doubts, r.verdicts[key])
		}
	}
	for _, v := range doubts {
		c.Uncounted += v.Uncounted
		c.AssumedMicroUSD += v.assumed(r.dearest[model])
	}
	return c
}

// Spent returns the micro-dollars that all models have taken.
func (r *Results) Spent() (sum int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	models := map[string]bool{}
	for key := range r.open {
		models[key.model] = true
	}
	for m := range r.costs {
		models[m] = true
	}
	for m := range r.doubts {
		models[m] = true
	}
	for m := range models {
		c := r.cost(m)
		sum += c.MicroUSD + c.AssumedMicroUSD
	}
	return sum
}

// dearestPicture returns the micro-dollars of a model's dearest picture, 0 if that is not known.
func (r *Results) dearestPicture(model string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dearest[model]
}

// CheckModel returns an error that wraps [ErrResults] if the answers under a model's name are to another version of the
// prompt, or of another model or endpoint. Files of older versions do not say of which they are.
func (r *Results) CheckModel(m Model) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	version := m.Analyzer.PromptVersion(m.Lang)
	for _, v := range r.verdicts {
		if v.Model != m.Name {
			continue
		}
		if v.PromptVersion != version {
			return fmt.Errorf("%w: has answers of %s to prompt version %s, which is %s now: expected another file, as they cannot be compared", ErrResults, m.Name, v.PromptVersion, version)
		}
		if v.Endpoint != "" && v.Endpoint != m.Endpoint {
			return fmt.Errorf("%w: has answers of %s that are of %s, which is %s now: expected another file, as they cannot be compared", ErrResults, m.Name, v.Endpoint, m.Endpoint)
		}
	}
	return nil
}

// Close closes the file. Nothing is written afterwards.
func (r *Results) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.unlock(), r.file.Close())
}
