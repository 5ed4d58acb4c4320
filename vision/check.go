package vision

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"onceover/vision/prompt"
)

// Support says what an endpoint makes of something that it is asked for.
type Support string

// What an endpoint may make of it.
const (
	Enforced Support = "enforced" // the answer had to be of that form
	Heeded   Support = "heeded"   // the answer was of that form when the prompt said so
	Ignored  Support = "ignored"  // the request was taken, and the answer was of another form
	Denies   Support = "refused"  // the request was not taken
	Untried  Support = "not tried"
)

// Profile is what Check has found out about an endpoint and a model.
type Profile struct {
	Model    string // that was asked
	Answered string // who answered, as the endpoint says

	Picture    Support // a picture as a data URL: Enforced if the answer shows that it was seen
	JSONSchema Support
	JSONObject Support
	Format     Format // the strictest that works; "" if none does
	Where      string // the field of the message in which the answer came

	Calls       int
	Usage       Usage             // of all calls
	CountsUsage bool              // the endpoint says how many tokens it counts
	Limits      map[string]string // its headers about rate limits
	Latency     time.Duration     // of the first answer
	Advice      []string          // what the operator should know or set
}

// Usable reports whether pictures can be analysed there.
func (p *Profile) Usable() bool { return p.Format != "" && p.Picture == Enforced }

//go:embed probe
var probe embed.FS

// maxChecks is how many calls Check makes at most.
const maxChecks = 4

// Check asks an endpoint about a built-in picture, half red and half blue, and finds out what it does with pictures and
// schemas. It makes at most four calls. The error is the *Error of an endpoint that cannot be asked at all; the profile
// has what is known all the same.
func (o *OpenAI) Check(ctx context.Context) (*Profile, error) {
	sub, err := fs.Sub(probe, "probe")
	if err != nil {
		return nil, err
	}
	folder, err := prompt.Load(sub)
	if err != nil {
		return nil, err
	}
	preview, err := checkPicture()
	if err != nil {
		return nil, err
	}
	c := checker{o: o, q: &query{prompt: folder.Find(prompt.Analysis, "en"), kind: prompt.Analysis, model: o.model, lang: "en"},
		picture: dataURL(preview.JPEG),
		p:       &Profile{Model: o.model, Picture: Untried, JSONSchema: Untried, JSONObject: Untried, Limits: map[string]string{}}}
	err = c.run(ctx)
	c.advise()
	return c.p, err
}

// checkPicture is red on the left and blue on the right.
func checkPicture() (*Preview, error) {
	img := image.NewRGBA(image.Rect(0, 0, 256, 256))
	draw.Draw(img, img.Rect, image.NewUniform(color.RGBA{0, 0, 220, 255}), image.Point{}, draw.Src)
	draw.Draw(img, image.Rect(0, 0, 128, 256), image.NewUniform(color.RGBA{220, 0, 0, 255}), image.Point{}, draw.Src)
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		return nil, fmt.Errorf("encode the picture: %w", err)
	}
	return NewPreview(buf.Bytes())
}

type checker struct {
	o       *OpenAI
	q       *query
	picture dataURL
	p       *Profile
	cutOff  bool
}

// run asks in one format after the other, the strictest first, until one works.
func (c *checker) run(ctx context.Context) error {
	for _, f := range []Format{JSONSchema, JSONObject, PlainText} {
		got, err := c.ask(ctx, c.q.in(f, c.q.chat(prompt.Values{Lang: "en"}, c.picture)))
		var e *Error
		if errors.As(err, &e) && (e.Class == Unsupported || e.Class == Invalid) {
			if e.Class == Invalid && f == JSONSchema && !c.takesText(ctx) {
				return err // neither picture nor schema is at fault
			}
			c.note(f, Denies)
			if f == PlainText { // it is the picture, whatever the form
				c.p.Picture, c.p.JSONSchema, c.p.JSONObject = Denies, Untried, Untried
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		c.cutOff = c.cutOff || got.FinishReason.value == "length"
		c.judge(f, got)
		if c.p.Format != "" {
			return nil
		}
	}
	return nil
}

// takesText reports whether the endpoint answers without a picture and a schema: then one of them is at fault, and not
// the rest of the request.
func (c *checker) takesText(ctx context.Context) bool {
	_, err := c.ask(ctx, chatRequest{Model: c.q.model, Messages: []chatMessage{{"user", "Say yes."}}})
	return err == nil
}

func (c *checker) ask(ctx context.Context, chat chatRequest) (*choice, error) {
	began := time.Now()
	got, usage, err := c.o.ask(ctx, c.q, chat)
	c.p.Calls++
	c.p.Usage = c.p.Usage.Add(usage)
	if err != nil {
		return got, err
	}
	if c.p.Latency == 0 {
		c.p.Latency = time.Since(began)
	}
	c.p.Answered = got.model
	c.p.CountsUsage = c.p.CountsUsage || usage.PromptTokens > 0
	for name := range got.header {
		if low := strings.ToLower(name); strings.Contains(low, "ratelimit") || low == "retry-after" {
			c.p.Limits[low] = c.o.clean(got.header.Get(name))
		}
	}
	return got, nil
}

// judge notes what an answer shows.
func (c *checker) judge(f Format, got *choice) {
	fitted, where, err := rescue(c.q.prompt.Schema, got.Message, false)
	if err != nil {
		c.note(f, Ignored)
		var text string
		for _, s := range got.Message.sources() {
			text += strings.ToLower(s.text) + " "
		}
		c.see(strings.Contains(text, "red") && !strings.Contains(text, "blue"))
		return
	}
	c.p.Where, c.p.Format = where, f
	c.note(f, Heeded)
	for _, s := range got.Message.sources() {
		if f == JSONSchema && s.name == where && json.Valid([]byte(s.text)) {
			c.note(f, Enforced)
		}
	}
	c.see(strings.Contains(string(fitted.Fields), `"red"`))
}

// see notes whether the picture was seen.
func (c *checker) see(seen bool) {
	if seen {
		c.p.Picture = Enforced
	} else if c.p.Picture != Enforced {
		c.p.Picture = Ignored
	}
}

func (c *checker) note(f Format, s Support) {
	switch f {
	case JSONSchema:
		c.p.JSONSchema = s
	case JSONObject:
		c.p.JSONObject = s
	}
}

// advise says what follows.
func (c *checker) advise() {
	p := c.p
	say := func(format string, args ...any) { p.Advice = append(p.Advice, fmt.Sprintf(format, args...)) }
	switch {
	case p.Calls == 0:
		return
	case p.Picture == Denies:
		say("the endpoint or the model does not take pictures: choose another model")
	case p.Picture == Ignored:
		say("the model does not see the picture: choose one that takes pictures")
	case p.Format == "" && p.JSONSchema != Untried:
		say("no form of the request gives an answer in JSON: choose another model")
	}
	if p.Format != "" && p.Format != JSONSchema {
		say("set %s, which saves the refused calls of each start", c.o.setting("ONCEOVER_VISION_FORMAT="+string(p.Format), "format: "+string(p.Format)))
	}
	if p.JSONSchema == Ignored || p.JSONSchema == Heeded {
		say("the server does not enforce the schema: some answers will be paid for twice; onceover_vision_calls_total shows how many")
	}
	if p.Where != "" && p.Where != sourceContent {
		say("the answer comes in %s: switch the model's thinking off if you can, as it is paid for", p.Where)
	}
	if c.cutOff {
		say("the answer was cut off at the limit of tokens: set max_completion_tokens in the prompt's config")
	}
	if p.Format != "" && !p.CountsUsage {
		say("the endpoint does not count tokens: what the model costs cannot be known")
	}
	if p.CountsUsage && !c.o.prices.Known() {
		say("no price is set (%s): costs are not reported", c.o.setting("ONCEOVER_VISION_PRICE_IN, ONCEOVER_VISION_PRICE_OUT", "price"))
	}
	if p.Latency > c.o.timeout/2 {
		say("the answer took %v of a time-out of %v: set a longer %s", p.Latency.Round(time.Millisecond), c.o.timeout, c.o.setting("ONCEOVER_VISION_TIMEOUT", "timeout"))
	}
	for _, l := range []struct{ kind, variable, field string }{{"requests", "ONCEOVER_VISION_RPM", "rpm"}, {"tokens", "ONCEOVER_VISION_TPM", "tpm"}} {
		if n := p.perMinute(l.kind); n > 0 {
			say("the endpoint takes %d %s a minute, by its headers: set %s, so that no worker finds out by being refused",
				n, l.kind, c.o.setting(fmt.Sprintf("%s=%d", l.variable, n), fmt.Sprintf("%s: %d", l.field, n)))
		}
	}
	if p.Answered != "" && p.Answered != p.Model {
		say("who answers calls itself %s: that name stands in results and entries", p.Answered)
	}
}

// perMinute returns how many requests or tokens an endpoint takes in a minute, 0 if its headers do not say. Mistral names the minute.
// OpenAI's form does not, and Groq has the requests of a day in it: the window is that in which what was used comes back.
func (p *Profile) perMinute(kind string) int {
	number := func(name string) int {
		n, err := strconv.Atoi(p.Limits["x-ratelimit-"+name])
		if err != nil {
			return 0
		}
		return n
	}
	for _, name := range []string{"limit-" + kind + "-minute", "limit-" + kind[:3] + "-minute"} {
		if n := number(name); n > 0 {
			return n
		}
	}
	const least, most = 40, 90 // seconds, as resets are rounded
	limit := number("limit-" + kind)
	used, reset := limit-number("remaining-"+kind), duration(p.Limits["x-ratelimit-reset-"+kind])
	if used <= 0 || used == limit {
		return 0
	}
	if window := reset.Seconds() * float64(limit) / float64(used); window < least || window > most {
		return 0
	}
	return limit
}

// LimitNames are the names of Limits, in order.
func (p *Profile) LimitNames() []string { return slices.Sorted(maps.Keys(p.Limits)) }
