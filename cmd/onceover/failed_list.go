package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/config"
	"onceover/internal/redact"
)

func newFailedList() *cobra.Command {
	var sel selection
	var limit, page int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List failed jobs, the newest first",
		Long: `Lists failed jobs, the newest first, a page at a time. NOW is what Celery's result
store says of the job at this moment: it may have been replayed and succeeded.`,
		Example: `  onceover failed list
  onceover failed list --task image.analyze --error TimeoutError --newer-than 2h
  onceover failed list --text "429" --limit 100 --page 2
  onceover failed list --json --limit 0 | jq -r .id`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	sel.bind(cmd.Flags())
	cmd.Flags().IntVar(&limit, "limit", 20, "jobs on a page; 0: all")
	cmd.Flags().IntVar(&page, "page", 1, "which page")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line, without the messages")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		if limit < 0 || limit > 1e6 || page < 1 || page > 1e6 || limit == 0 && page > 1 {
			return usageError(errors.New("--limit and --page: expected a limit of 0 (all, on one page) or more, and a page from 1"))
		}
		if err := sel.check(); err != nil {
			return err
		}
		store, closeStore, err := openFailed(cmd.Context(), settings)
		if err != nil {
			return err
		}
		defer closeStore()
		l := lister{store: store, out: cmd.OutOrStdout(), asJSON: asJSON}
		return l.list(cmd.Context(), sel.complete(), limit, page)
	}
	return cmd
}

type lister struct {
	store  *failed.Store
	out    io.Writer
	asJSON bool
}

// listed is how an entry is printed in JSON.
type listed struct {
	failed.Record
	Now     celery.State     `json:"now"` // in DB0
	Note    string           `json:"note,omitempty"`
	Message *json.RawMessage `json:"message,omitempty"` // never: it hides that of the record
}

func (l lister) list(ctx context.Context, f failed.Filter, limit, page int) error {
	skip, more := (page-1)*limit, false
	var batch []failed.Entry
	rows := tabwriter.NewWriter(l.out, 0, 8, 2, ' ', 0)
	shown := 0
	var flushErr error
	flush := func() bool {
		flushErr = l.print(ctx, rows, batch, shown == 0)
		shown += len(batch)
		batch = batch[:0]
		return flushErr == nil
	}
	err := l.store.Each(ctx, f, func(e failed.Entry) bool {
		if skip > 0 {
			skip--
			return true
		}
		if limit > 0 && shown+len(batch) == limit {
			more = true
			return false
		}
		batch = append(batch, e)
		return len(batch) < 500 || flush()
	})
	if err == nil && len(batch) > 0 {
		flush()
	}
	if err = errors.Join(err, flushErr, rows.Flush()); err != nil || l.asJSON {
		return err
	}
	switch {
	case shown == 0 && page > 1:
		fmt.Fprintf(l.out, "nothing is on page %d\n", page)
	case shown == 0:
		fmt.Fprintln(l.out, "no failed jobs")
	case more:
		fmt.Fprintf(l.out, "\nthere are more: --page %d\n", page+1)
	}
	return nil
}

func (l lister) print(ctx context.Context, rows *tabwriter.Writer, batch []failed.Entry, first bool) error {
	ids := make([]string, len(batch))
	for i, e := range batch {
		ids[i] = e.ID
	}
	states, err := l.store.States(ctx, ids)
	if err != nil {
		return err
	}
	if l.asJSON {
		enc := json.NewEncoder(l.out)
		enc.SetEscapeHTML(false)
		for i, e := range batch {
			if err := enc.Encode(listed{Record: e.Record, Now: now(&e.Record, states[i]), Note: e.Note}); err != nil {
				return err
			}
		}
		return nil
	}
	if first {
		fmt.Fprintln(rows, "ID\tAGE\tTASK\tQUEUE\tNOW\tTRIES\tERROR")
	}
	for i, e := range batch {
		tries := fmt.Sprint(e.Attempts)
		if e.Replays > 0 {
			tries += fmt.Sprintf("+%dr", e.Replays)
		}
		fmt.Fprintf(rows, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plainLine(e.Key.Name(), 60), age(e.Last), plainLine(orDash(e.Task), 40),
			plainLine(orDash(e.Queue), 24), now(&e.Record, states[i]), tries, l.fault(e))
	}
	return nil
}

// fault is the error of an entry on one line.
func (l lister) fault(e failed.Entry) string {
	text := e.Error + ": " + e.Text
	if e.Reason != failed.ReasonFailed {
		text = string(e.Reason) + ": " + text
	}
	if e.Note != "" {
		text = e.Note + "; " + text
	}
	return plainLine(text, max(40, l.width()-120))
}

func (l lister) width() int {
	if file, ok := l.out.(*os.File); ok {
		if w, _, err := term.GetSize(int(file.Fd())); err == nil {
			return w
		}
	}
	return 240
}

// plainLine is text on one line without control characters, of at most so many
// characters: what others send must not draw on the operator's terminal.
func plainLine(text string, most int) string {
	line := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, text))
	if len(line) > most {
		return string(line[:most-1]) + "…"
	}
	return string(line)
}

// now is the state of a job with Celery's name for nothing stored, and a dash for one
// of which nothing ever is.
func now(r *failed.Record, s celery.State) celery.State {
	switch {
	case s != "":
		return s
	case r.ID == "" || r.Ignored:
		return "-"
	default:
		return celery.Pending
	}
}

func newFailedShow() *cobra.Command {
	var asJSON, raw bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show everything that is kept of a failed job",
		Long: `Shows the record and its message. The queries of URLs and the content of data URLs
are left out, since they may be secret; --raw shows them, and so does --json,
which prints what export would.`,
		Example: `  onceover failed show 6f1c
  onceover failed show 6f1c --json | jq .message.headers`,
		Args: exactArgs(1),
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the record as JSON, with its message")
	cmd.Flags().BoolVar(&raw, "raw", false, "leave out nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		store, closeStore, err := openFailed(cmd.Context(), settings)
		if err != nil {
			return err
		}
		defer closeStore()
		refs, err := find(cmd.Context(), store, args[0])
		if err != nil {
			return err
		}
		for i, ref := range refs {
			r, err := store.Get(cmd.Context(), ref)
			if err != nil {
				return err
			}
			if r == nil {
				continue // gone since
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetEscapeHTML(false)
				err = enc.Encode(r)
			} else {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				var states []celery.State
				if states, err = store.States(cmd.Context(), []string{r.ID}); err == nil {
					showRecord(cmd.OutOrStdout(), r, states[0], raw)
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func showRecord(out io.Writer, r *failed.Record, state celery.State, raw bool) {
	clean := redact.Text
	if raw {
		clean = func(s string) string { return s }
	}
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "%-13s%s\n", name, plainLine(value, 4000))
		}
	}
	moment := func(t time.Time) string {
		return fmt.Sprintf("%s (%s ago)", t.Local().Format("2006-01-02 15:04:05 MST"), age(t))
	}
	field("id", r.Name())
	field("task", r.Task)
	field("now", string(now(r, state)))
	field("reason", string(r.Reason))
	field("error", r.Error+": "+r.Text)
	field("before", r.Previous)
	field("stage", r.Stage)
	attempts := fmt.Sprintf("%d", r.Attempts)
	if r.Replays > 0 {
		attempts += fmt.Sprintf(", after %d replays", r.Replays)
	}
	field("attempts", attempts)
	field("first failed", moment(r.First))
	field("last failed", moment(r.Last))
	field("worker", r.Worker)
	field("user", r.User)
	field("queue", r.Queue)
	field("published", fmt.Sprintf("to exchange %q with key %q", r.Message.Exchange, r.Message.RoutingKey))
	args, kwargs := r.Args, r.Kwargs
	p := r.Message.Publishing() // as it would be sent
	if req, err := r.Request(); err == nil {
		if raw {
			args, kwargs = celery.ReprArgs(req.Args), celery.ReprKwargs(req.Kwargs)
		}
		if req.Chord != nil {
			field("chord", "part of group "+req.Group+"; the body does not run if this part is replayed")
		}
		for _, step := range req.Chain {
			field("then", step.Task+" "+step.Options.TaskID)
		}
	}
	field("arguments", args+" "+kwargs)
	if r.Traceback != "" {
		fmt.Fprintln(out, "\ntraceback")
		for line := range strings.Lines(r.Traceback) {
			fmt.Fprintln(out, "  "+plainLine(strings.TrimRight(line, "\n"), 500))
		}
	}
	fmt.Fprintln(out, "\nproperties")
	property := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "  %-18s%s\n", name, plainLine(value, 300))
		}
	}
	property("content_type", p.ContentType)
	property("content_encoding", p.ContentEncoding)
	property("correlation_id", p.CorrelationId)
	property("reply_to", p.ReplyTo)
	property("expiration", p.Expiration)
	property("message_id", p.MessageId)
	property("type", p.Type)
	property("app_id", p.AppId)
	property("priority", fmt.Sprint(p.Priority))
	property("delivery_mode", fmt.Sprint(p.DeliveryMode))
	fmt.Fprintln(out, "\nheaders")
	for _, name := range slices.Sorted(maps.Keys(p.Headers)) {
		value, isText := p.Headers[name].(string)
		if !isText {
			doc, err := celery.MarshalJSON(p.Headers[name])
			if err != nil { // a number that JSON does not have
				doc = fmt.Appendf(nil, "%v", p.Headers[name])
			}
			value = string(doc)
		}
		fmt.Fprintf(out, "  %-22s%s\n", plainLine(name, 60), plainLine(clean(value), 1000))
	}
	fmt.Fprintf(out, "\nbody (%d bytes)\n", len(p.Body))
	fmt.Fprintln(out, "  "+plainLine(clean(strings.ToValidUTF8(string(p.Body), "�")), 4000))
}
