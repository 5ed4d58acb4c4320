package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/redact"
)

// pageRows is how many failed jobs a page lists.
const pageRows = 50

// filterOf reads which failed jobs are chosen, and returns what chooses them again.
func filterOf(values url.Values) (f failed.Filter, again url.Values, err error) {
	again = url.Values{}
	take := func(name string, to *string) {
		*to = strings.TrimSpace(strings.ToValidUTF8(values.Get(name), "\uFFFD")) // as records have it
		if *to != "" {
			again.Set(name, *to)
		}
	}
	take("task", &f.Task)
	take("error", &f.Error)
	take("queue", &f.Queue)
	take("user", &f.User)
	take("reason", &f.Reason)
	take("cause", &f.Cause)
	take("text", &f.Text)
	if f.Reason != "" && !slices.Contains(failed.Reasons, celery.Reason(f.Reason)) {
		return f, again, refusal(http.StatusBadRequest, "The reason %q is not known: expected one of %v.", f.Reason, failed.Reasons)
	}
	for name, to := range map[string]*time.Time{"since": &f.After, "older": &f.Before} {
		var text string
		if take(name, &text); text == "" {
			continue
		}
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return f, again, refusal(http.StatusBadRequest, "%s is %q: expected a length of time, such as 24h.", name, text)
		}
		*to = time.Now().Add(-d)
	}
	return f, again, nil
}

// row is a failed job in the list.
type row struct {
	failed.Entry
	Now celery.State // in DB0
}

// listed is what the list shows.
type listed struct {
	Filter url.Values
	Query  template.URL // Filter again, for links
	Cause  *failed.Cause
	Causes []failed.Cause
	Rows   []row
	Total  int
	Exact  bool // Total is; else it is how many are on this page
	Looked int
	Next   string // where the next page begins, "" at the end
	First  bool   // this is the first page
	At     time.Time
}

func (c *Console) list(p *page) error {
	f, again, err := filterOf(p.URL.Query())
	if err != nil {
		return err
	}
	from, err := failed.ParseCursor(p.URL.Query().Get("at"))
	if err != nil {
		return refusal(http.StatusBadRequest, "%v", err)
	}
	ctx := p.Context()
	done, err := c.scan(ctx, f)
	if err != nil {
		return err
	}
	defer done()
	found, err := c.Failed.Page(ctx, f, from, pageRows)
	if err != nil {
		return err
	}
	data := listed{Filter: again, Query: template.URL(again.Encode()), Looked: found.Looked, Next: found.Next.String(), First: from.IsZero(), At: time.Now()}
	if data.Total, data.Exact, err = c.Failed.Size(ctx, f); err != nil {
		return err
	}
	if !data.Exact {
		data.Total = len(found.Entries)
	}
	data.Rows = c.rows(ctx, found.Entries)
	if s := c.latest(ctx); s != nil {
		data.Causes = s.Causes.Value
		for _, cause := range s.Causes.Value {
			if cause.ID == f.Cause {
				data.Cause = &cause
			}
		}
	}
	return p.show("failed", "Failed jobs", data)
}

// scansAtOnce is how many readers may have records looked at that no index answers for: others wait.
const scansAtOnce = 2

// scan waits until records may be looked at, if a filter makes that necessary, until done is called.
func (c *Console) scan(ctx context.Context, f failed.Filter) (done func(), err error) {
	if !f.Looks() {
		return func() {}, nil
	}
	return c.turn(ctx)
}

// turn waits until something heavy may be done, until done is called.
func (c *Console) turn(ctx context.Context) (done func(), err error) {
	select {
	case c.scans <- struct{}{}:
		return func() { <-c.scans }, nil
	case <-ctx.Done():
		return nil, refusal(http.StatusServiceUnavailable, "Too many look for something at this moment. Try again.")
	}
}

// stateTime is how long a page waits for what is known elsewhere of its jobs.
const stateTime = time.Second

// rows adds the states of jobs, as far as they are told in a moment: the jobs themselves are on another server.
func (c *Console) rows(ctx context.Context, entries []failed.Entry) []row {
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	states := c.states(ctx, ids)
	out := make([]row, len(entries))
	for i, e := range entries {
		out[i] = row{e, stateNow(&e.Record, states[i])}
	}
	return out
}

// unknown is the state of a job that cannot be asked for.
const unknown celery.State = "?"

// states returns what DB0 says of jobs, unknown where it does not answer.
func (c *Console) states(ctx context.Context, ids []string) []celery.State {
	ctx, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	states, err := c.States(ctx, ids)
	if err != nil {
		return slices.Repeat([]celery.State{unknown}, len(ids))
	}
	return states
}

// stateNow is a state as Celery names it, and a dash for a job of which nothing is ever stored.
func stateNow(r *failed.Record, s celery.State) celery.State {
	switch {
	case s != "":
		return s
	case r.ID == "" || r.Ignored:
		return "–"
	}
	return celery.Pending
}

// pair is a name with its value.
type pair struct{ Name, Value string }

// recordShown is what the page of a failed job shows.
type recordShown struct {
	Key failed.Key
	*failed.Record
	Now     celery.State
	Stuck   string // why it is not replayed as it stands, "" if it may be
	Then    []pair // the steps that would have followed: task, id
	Chord   string // the group of which it is a part
	RootID  string
	Headers []pair
	Sent    []pair // properties of the message
	Body    string
	Bytes   int
	Picture bool
	Damaged bool // it can only be discarded
}

// find returns the failed job that the path names.
func (c *Console) find(p *page) (failed.Key, *failed.Record, error) {
	k := failed.Key(p.PathValue("key"))
	r, err := c.Failed.Get(p.Context(), k)
	if err == nil && r == nil {
		if now := c.states(p.Context(), []string{k.Name()})[0]; now != "" && now != unknown {
			return k, nil, refusal(http.StatusNotFound, "The job %s is not among the failed any more: it was replayed or discarded. Its result says %s now.", k.Name(), now)
		}
		err = refusal(http.StatusNotFound, "There is no failed job %s: it was replayed or discarded, or the address is wrong.", k)
	}
	return k, r, err
}

func (c *Console) record(p *page) error {
	k, r, err := c.find(p)
	if failed.Unreadable(err) {
		return p.show("record", "Failed job", recordShown{Key: k, Record: &failed.Record{ID: k.Name(), Text: err.Error()}, Now: unknown, Damaged: true})
	}
	if err != nil {
		return err
	}
	states := c.states(p.Context(), []string{r.ID})
	data := recordShown{Key: k, Record: r, Now: stateNow(r, states[0]), Stuck: failed.Blocks(states[0]), Bytes: len(r.Message.Body)}
	if req, err := r.Request(); err == nil {
		data.Picture = c.Picture != nil
		data.RootID = req.RootID
		if req.Chord != nil {
			data.Chord = req.Group
		}
		for _, step := range req.Chain {
			data.Then = append(data.Then, pair{step.Task, step.Options.TaskID})
		}
	}
	sent := r.Message.Publishing()
	for name, value := range sent.Headers {
		text, isText := value.(string)
		if !isText {
			if doc, err := celery.MarshalJSON(value); err == nil {
				text = string(doc)
			} else { // a number that JSON does not have
				text = fmt.Sprint(value)
			}
		}
		data.Headers = append(data.Headers, pair{name, clip(redact.Text(clip(text, maxRedacted)), 1000)})
	}
	slices.SortFunc(data.Headers, func(a, b pair) int { return strings.Compare(a.Name, b.Name) })
	for _, property := range []pair{
		{"content_type", sent.ContentType}, {"content_encoding", sent.ContentEncoding}, {"correlation_id", sent.CorrelationId}, {"reply_to", sent.ReplyTo},
		{"expiration", sent.Expiration}, {"message_id", sent.MessageId}, {"type", sent.Type}, {"app_id", sent.AppId},
		{"priority", fmt.Sprint(sent.Priority)}, {"delivery_mode", fmt.Sprint(sent.DeliveryMode)},
	} {
		if property.Value != "" {
			data.Sent = append(data.Sent, pair{property.Name, clip(redact.Text(property.Value), 300)})
		}
	}
	data.Body = clip(redact.Text(clip(string(sent.Body), maxRedacted)), 4000)
	return p.show("record", "Failed job", data)
}

// maxRedacted is how much of a text is searched for secrets, in bytes: no more of it is shown.
const maxRedacted = 16 << 10

// clip cuts a text to so many bytes.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

func (c *Console) picture(p *page) error {
	_, r, err := c.find(p)
	if err != nil {
		return err
	}
	req, err := r.Request()
	if err != nil || c.Picture == nil {
		return refusal(http.StatusNotFound, "The job has no picture that can be shown.")
	}
	file, err := c.Picture(p.Context(), req)
	if err != nil {
		return refusal(http.StatusNotFound, "The picture cannot be shown: %v", redact.Text(err.Error()))
	}
	p.w.Header().Set("Content-Type", "image/jpeg")
	_, _ = p.w.Write(file) // the reader may have gone
	return nil
}

func (c *Console) replay(p *page) error {
	k := failed.Key(p.PathValue("key"))
	edit, said, err := editOf(p)
	if err != nil {
		return err
	}
	out, err := c.Failed.Replay(p.Context(), []failed.Key{k}, c.Publish, edit)
	if err != nil {
		p.changed("replay", string(k)+said, "not known: "+err.Error())
		return err
	}
	if !out[0].Done {
		p.changed("replay", string(k)+said, "not replayed: "+out[0].Why)
		return p.back("failed/"+url.PathEscape(string(k)), p.lang.text("Not replayed: %s", out[0].Why))
	}
	p.changed("replay", string(k)+said, "replayed")
	return p.back("failed", p.lang.text("Job %s was replayed.", clip(k.Name(), 200)))
}

// editOf returns what changes an argument of the job before it is replayed, nil if nothing is to be changed.
func editOf(p *page) (edit func(*failed.Record) error, said string, err error) {
	name, value := strings.TrimSpace(p.PostFormValue("set-name")), p.PostFormValue("set-value")
	if name == "" {
		if value != "" {
			err = refusal(http.StatusBadRequest, "A value was given, and no argument: expected the name of one, such as image_url.")
		}
		return nil, "", err
	}
	raw := []byte(value)
	if !json.Valid(raw) {
		if raw, err = json.Marshal(value); err != nil {
			return nil, "", err
		}
	}
	return func(r *failed.Record) error {
		if err := r.SetArgument(name, raw, nil); err != nil {
			return &failed.SkippedError{Why: err.Error()}
		}
		return nil
	}, " with another " + name, nil
}

func (c *Console) discard(p *page) error {
	k, _, err := c.find(p)
	if err != nil && !failed.Unreadable(err) { // that can be discarded only
		return err
	}
	if p.PostFormValue("sure") != "yes" {
		return refusal(http.StatusBadRequest, "Nothing was discarded: tick the box beside the button first.")
	}
	err = c.Failed.Discard(p.Context(), k)
	var busy *failed.SkippedError
	if errors.As(err, &busy) {
		return refusal(http.StatusConflict, "Not discarded: the job %s.", busy.Why)
	}
	if err != nil {
		return err
	}
	p.changed("discard", string(k), "discarded")
	return p.back("failed", p.lang.text("Job %s was discarded.", clip(k.Name(), 200)))
}

// planned is what the page shows before a bulk begins.
type planned struct {
	Action string
	Filter url.Values
	Query  template.URL
	Cause  *failed.Cause
	Total  int
	Exact  bool
	Typed  bool  // its number has to be typed
	After  int64 // nor earlier, 0 for any time
	Before int64 // no job is chosen that failed later, in Unix milliseconds: what was counted is what is begun with
}

// typedFrom is the number of jobs from which it has to be typed before they are changed at once.
const typedFrom = 100

// plan reads what a bulk is to do.
func (c *Console) plan(p *page, values url.Values) (planned, failed.Filter, error) {
	f, again, err := filterOf(values)
	if err != nil {
		return planned{}, f, err
	}
	out := planned{Action: values.Get("action"), Filter: again, Query: template.URL(again.Encode())}
	if out.Action != failed.BulkReplay && out.Action != failed.BulkDiscard {
		return out, f, refusal(http.StatusBadRequest, "The action is %q: expected replay or discard.", out.Action)
	}
	out.Before = time.Now().UnixMilli()
	if !f.Before.IsZero() {
		out.Before = f.Before.UnixMilli()
	}
	if shown, err := strconv.ParseInt(values.Get("before"), 10, 64); err == nil && shown < out.Before {
		out.Before = shown
	}
	f.Before = time.UnixMilli(out.Before).UTC()
	if shown, err := strconv.ParseInt(values.Get("after"), 10, 64); err == nil && !f.After.IsZero() {
		f.After = time.UnixMilli(shown).UTC()
	}
	if !f.After.IsZero() {
		out.After = f.After.UnixMilli()
	}
	done, err := c.scan(p.Context(), f)
	if err != nil {
		return out, f, err
	}
	defer done()
	if out.Total, out.Exact, err = c.Failed.CountChosen(p.Context(), f); err != nil {
		return out, f, err
	}
	out.Typed = out.Total >= typedFrom || !out.Exact || out.Action == failed.BulkDiscard
	if s := c.latest(p.Context()); s != nil {
		for _, cause := range s.Causes.Value {
			if cause.ID == f.Cause {
				out.Cause = &cause
			}
		}
	}
	return out, f, nil
}

func (c *Console) planBulk(p *page) error {
	data, _, err := c.plan(p, p.URL.Query())
	if err != nil {
		return err
	}
	return p.show("plan", "All that match", data)
}

func (c *Console) beginBulk(p *page) error {
	plan, f, err := c.plan(p, p.PostForm)
	if err != nil {
		return err
	}
	if plan.Typed {
		typed := strings.Join(strings.Fields(strings.ReplaceAll(p.PostFormValue("typed"), ",", "")), "")
		counted, err := strconv.Atoi(p.PostFormValue("counted")) // as it was shown: some may have been replayed since
		if err != nil {
			counted = plan.Total
		}
		if n, err := strconv.Atoi(typed); err != nil || n != counted || plan.Exact && plan.Total > counted {
			return refusal(http.StatusConflict, "Nothing was begun: %d failed jobs are chosen by now, and %q was typed. Go back and look again.", plan.Total, clip(typed, 20))
		}
	}
	b := failed.Bulk{Action: plan.Action, Filter: f, By: p.who}
	if b.By == "" {
		b.By = "this machine"
	}
	if text := strings.TrimSpace(p.PostFormValue("rate")); text != "" {
		if b.Rate, err = strconv.ParseFloat(text, 64); err != nil || b.Rate <= 0 {
			return refusal(http.StatusBadRequest, "The rate is %q: expected jobs a second, such as 20, or nothing.", clip(text, 20))
		}
	}
	b, err = c.Failed.BeginBulk(p.Context(), b)
	var wrong *failed.BulkError
	switch {
	case errors.As(err, &wrong):
		return refusal(http.StatusBadRequest, "%v", wrong)
	case err != nil:
		return err
	}
	p.changed(b.Action+" all", describe(plan), fmt.Sprintf("begun as %s: %d jobs", b.ID, b.Total))
	return p.back("bulk/"+b.ID, "")
}

// describe is a filter on one line.
func describe(plan planned) string {
	if plan.Query == "" {
		return "all failed jobs"
	}
	if plan.Cause != nil {
		return string(plan.Query) + " (" + plan.Cause.Error + ": " + plan.Cause.Text + ")"
	}
	return string(plan.Query)
}

// bulkShown is what the page of a bulk shows.
type bulkShown struct {
	failed.Bulk
	Query  template.URL
	Cause  *failed.Cause // of the jobs, nil if they were chosen otherwise or it is not known any more
	Left   []failed.Left
	Ends   []stateCount
	Closed bool // of all replayed jobs it is known how they ended
	At     time.Time
	NoEnds error // why it is not known how they ended, nil if it is
}

// stateCount is how many jobs are in a state.
type stateCount struct {
	State celery.State
	Count int
}

// bulkEnds is what is known of the jobs of a bulk.
type bulkEnds struct {
	at     time.Time
	left   []failed.Left
	ends   []stateCount
	closed bool // it will not change any more
	state  string
	err    error // why it is not known
}

// endsTime is how old that may be: all of the bulk is looked at.
const endsTime = 10 * time.Second

// bulkEnds looks what became of the jobs of a bulk, once for all readers.
func (c *Console) bulkEnds(ctx context.Context, b *failed.Bulk) bulkEnds {
	c.endsMu.Lock()
	known, ok := c.ended[b.ID]
	c.endsMu.Unlock()
	if ok && known.state == b.State && (known.closed || time.Since(known.at) < endsTime) {
		return known
	}
	looked := c.ends.DoChan(b.ID+b.State, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endsTime) // of whoever came first
		defer cancel()
		out := c.lookAtEnds(ctx, b)
		out.at, out.state = time.Now(), b.State
		c.endsMu.Lock()
		defer c.endsMu.Unlock()
		if len(c.ended) > 100 {
			clear(c.ended)
		}
		c.ended[b.ID] = out
		return out, nil
	})
	limited, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	select {
	case found := <-looked:
		return found.Val.(bulkEnds)
	case <-limited.Done():
		if ok {
			return known // as it was
		}
		return bulkEnds{at: time.Now(), err: errors.New("they are being counted")}
	}
}

func (c *Console) lookAtEnds(ctx context.Context, b *failed.Bulk) (out bulkEnds) {
	out.closed = b.State != failed.BulkRunning
	if b.Left > 0 {
		if out.left, out.err = c.Failed.BulkLeft(ctx, b.ID, leftShown); out.err != nil {
			out.closed = false
			return out
		}
	}
	if b.Action != failed.BulkReplay {
		return out
	}
	counts, err := c.Failed.BulkEnds(ctx, b.ID)
	if err != nil {
		out.err, out.closed = err, false
		return out
	}
	for state, n := range counts {
		if state == "" {
			state = celery.Pending
		}
		out.closed = out.closed && (state == celery.Success || state == celery.Failure || state == celery.Revoked)
		out.ends = append(out.ends, stateCount{state, n})
	}
	slices.SortFunc(out.ends, func(a, b stateCount) int { return strings.Compare(string(a.State), string(b.State)) })
	return out
}

// leftShown is how many jobs are listed that a bulk has left as they were.
const leftShown = 200

func (c *Console) bulk(p *page) error {
	b, err := c.Failed.BulkOf(p.Context(), p.PathValue("id"))
	switch {
	case err != nil:
		return err
	case b == nil:
		return refusal(http.StatusNotFound, "There is no such bulk: it was more than a week ago, or the address is wrong.")
	}
	data := bulkShown{Bulk: *b, Query: template.URL(queryOf(b.Filter).Encode())}
	if s := c.latest(p.Context()); s != nil {
		for _, cause := range s.Causes.Value {
			if cause.ID == b.Filter.Cause {
				data.Cause = &cause
			}
		}
	}
	ends := c.bulkEnds(p.Context(), b)
	data.Left, data.Ends, data.Closed, data.At, data.NoEnds = ends.left, ends.ends, ends.closed, ends.at, ends.err
	return p.show("bulk", "Bulk", data)
}

// queryOf is the query of a list that has the jobs of a filter, but for the times.
func queryOf(f failed.Filter) url.Values {
	out := url.Values{}
	for name, value := range map[string]string{"task": f.Task, "error": f.Error, "queue": f.Queue, "user": f.User, "reason": f.Reason, "cause": f.Cause, "text": f.Text} {
		if value != "" {
			out.Set(name, value)
		}
	}
	return out
}

func (c *Console) bulks(p *page) error {
	all, err := c.Failed.Bulks(p.Context(), 50)
	if err != nil {
		return err
	}
	return p.show("bulks", "Bulks", all)
}

func (c *Console) stopBulk(p *page) error {
	id := p.PathValue("id")
	ran, err := c.Failed.StopBulk(p.Context(), id)
	if err != nil {
		return err
	}
	if ran {
		p.changed("stop", "bulk "+id, "stopped")
		return p.back("bulk/"+url.PathEscape(id), p.lang.text("Stopped."))
	}
	return p.back("bulk/"+url.PathEscape(id), p.lang.text("It had ended before."))
}

// changeShown is a change in the list.
type changeShown struct {
	failed.Change
	Undo string // id of the correction, "" if it is none
}

// corrected begins the outcome of a correction, before its id and a colon.
const corrected = "corrected as "

func (c *Console) changes(p *page) error {
	all, err := c.Failed.Changes(p.Context(), 200)
	if err != nil {
		return err
	}
	shown := make([]changeShown, len(all))
	for i, change := range all {
		shown[i].Change = change
		if id, ok := strings.CutPrefix(change.Outcome, corrected); ok && change.Action == "correct" {
			shown[i].Undo, _, _ = strings.Cut(id, ":")
		}
	}
	return p.show("changes", "Changes", shown)
}
