package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/config"
	"onceover/internal/console"
	"onceover/internal/samples"
	"onceover/progress"
	"onceover/tasks"
	"onceover/vision"
)

// demoTimeout bounds the demo, so that it ends whatever happens.
const demoTimeout = 5 * time.Minute

func newDemo() *cobra.Command {
	var asJSON, showLog, page bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Analyse the sample pictures on an embedded broker and Redis",
		Long: `Starts a broker, a Redis, the worker and the HTTP side in this process, sends
image.analyze for the sample pictures, shows each job's progress, and then what
became of them and how many vision calls the cache saved. Among the pictures are
repeats (the same file, re-encoded, resized, cropped), a broken file and a missing one,
which fail on purpose.

With no ONCEOVER_VISION_URL the offline describer answers: it measures the
picture and pretends nothing.

With --page it goes on serving the operators' page, where the jobs that failed can be
looked at and replayed, and a picture of yours be tried, until Ctrl-C.`,
		Example: `  onceover demo
  onceover demo --page
  onceover demo --json`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), "vision-url", "vision-model", "prompts", "concurrency", "lang")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a job, and one with the totals")
	cmd.Flags().BoolVar(&page, "page", false, "serve the operators' page afterwards")
	cmd.Flags().BoolVar(&showLog, "log", false, "show the worker's log instead of the progress")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings.ServeAPI = page
		fs := cmd.Flags()
		// A few at a time, so that repeats come after their originals.
		for name, value := range map[string]string{"concurrency": "2", "lang": "en"} {
			if !fs.Changed(name) {
				if err := fs.Set(name, value); err != nil {
					return err
				}
			}
		}
		var svc *service
		l, err := startLocal(settings, fs, func(s *config.Settings) (err error) {
			log := zap.NewNop()
			if showLog {
				if log, err = newLogger(s); err != nil {
					return err
				}
			}
			s.Offline = s.Vision.BaseURL == "" // the table says so
			svc, err = newService(s, log)
			return err
		})
		if err != nil {
			return err
		}
		defer l.close()
		defer svc.close()
		if page && (svc.front == nil || svc.front.ops == nil) {
			return usageError(errors.New("--page needs an HTTP address and the page: expected http-addr other than off, and ops not false"))
		}
		stopService := runInBackground(cmd.Context(), svc)
		ctx, cancel := withTimeout(cmd.Context(), demoTimeout)
		defer cancel()
		d := demo{local: l, svc: svc, settings: settings, quiet: asJSON || showLog}
		rows, err := d.run(ctx)
		if !page {
			err = errors.Join(err, stopService())
		}
		if err == nil {
			print := printDemo
			if asJSON {
				print = printDemoJSON
			}
			err = print(cmd.OutOrStdout(), rows, settings.Vision.BaseURL == "")
		}
		if page {
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "\nThe operators' page, until Ctrl-C:\n\n    http://%s%s\n\n", svc.gateway.Addr(), console.Base)
				<-cmd.Context().Done()
			}
			err = errors.Join(err, stopService())
		}
		if err != nil {
			return err
		}
		return unexpected(rows)
	}
	return cmd
}

// unexpected is an error if a job did not end as it was meant to.
func unexpected(rows []demoRow) error {
	var names []string
	for _, r := range rows {
		if (r.State != celery.Success) != r.fails {
			names = append(names, r.Job)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("these jobs did not end as they were meant to: %s", strings.Join(names, ", "))
	}
	return nil
}

type demo struct {
	local    *local
	svc      *service
	settings *config.Settings
	quiet    bool
}

// demoRow is a job and its end.
type demoRow struct {
	Job    string       `json:"job"`
	Note   string       `json:"note"`
	TaskID string       `json:"task_id"`
	State  celery.State `json:"state"`
	Error  string       `json:"error,omitempty"`
	answerSource
	Seconds float64 `json:"seconds"` // from the first sign of work to the result

	fails bool // on purpose
}

// answerSource is how a job's answer came about: fields of its result.
type answerSource struct {
	PHash    string        `json:"phash,omitempty"`
	Cached   *string       `json:"cached"`
	Distance *int          `json:"distance,omitempty"`
	Usage    *vision.Usage `json:"usage,omitempty"`
}

// run sends the sample pictures and waits for all of them.
func (d demo) run(ctx context.Context) ([]demoRow, error) {
	p, err := newProducer(ctx, d.settings.Worker.BrokerURLs, "")
	if err != nil {
		return nil, err
	}
	defer p.close()
	jobs := samples.Jobs()
	rows := make([]demoRow, len(jobs))
	for i, job := range jobs {
		file := job.File
		if file == "" {
			file = "missing.jpg"
		}
		id, err := p.send(ctx, "tasks", "ai.analyze", tasks.NameAnalyze, map[string]any{"image_url": d.local.pictures.url(file)})
		if err != nil {
			return nil, err
		}
		rows[i] = demoRow{Job: job.Name, Note: job.Note, TaskID: id, fails: job.Fails()}
	}
	b := newBoard(os.Stdout)
	defer b.close()
	errs := make([]error, len(rows))
	var followers sync.WaitGroup
	for i := range rows {
		followers.Go(func() { errs[i] = d.follow(ctx, &rows[i], b) })
	}
	followers.Wait()
	return rows, errors.Join(errs...)
}

// follow waits for one job and completes its row.
func (d demo) follow(ctx context.Context, row *demoRow, b *board) error {
	var last progress.Update
	var begun time.Time
	m, err := finished(ctx, d.svc.results, d.svc.progress, row.TaskID, row.TaskID, func(u progress.Update) {
		if u == last {
			return
		}
		if begun.IsZero() {
			begun = time.Now()
		}
		last = u
		if !d.quiet {
			b.show(row.Job, u)
		}
	})
	if err != nil {
		return fmt.Errorf("job %s (task %s): %w", row.Job, row.TaskID, err)
	}
	row.State, row.Seconds = m.Status, time.Since(begun).Seconds()
	if m.Status != celery.Success {
		exc, err := m.Exception()
		if err != nil {
			return err
		}
		row.Error = exc.Error()
		return nil
	}
	if err := json.Unmarshal(m.Result, &row.answerSource); err != nil {
		return fmt.Errorf("job %s (task %s): its result is not as expected: %w", row.Job, row.TaskID, err)
	}
	return nil
}

// demoTotals sums the jobs up.
type demoTotals struct {
	Jobs        int     `json:"jobs"`
	Succeeded   int     `json:"succeeded"`
	Failed      int     `json:"failed"`
	Hits        int     `json:"hits"`
	HitRate     float64 `json:"hit_rate"` // of the jobs that succeeded
	VisionCalls int     `json:"vision_calls"`
}

func totalsOf(rows []demoRow) demoTotals {
	t := demoTotals{Jobs: len(rows)}
	for _, r := range rows {
		if r.State != celery.Success {
			t.Failed++
			continue
		}
		t.Succeeded++
		if r.Cached != nil {
			t.Hits++
		}
		if r.Usage != nil {
			t.VisionCalls += r.Usage.Calls
		}
	}
	if t.Succeeded > 0 {
		t.HitRate = float64(t.Hits) / float64(t.Succeeded)
	}
	return t
}

func printDemoJSON(out io.Writer, rows []demoRow, _ bool) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return enc.Encode(totalsOf(rows))
}

func printDemo(out io.Writer, rows []demoRow, offline bool) error {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tPICTURE\tOUTCOME\tPHASH\tCACHED\tTIME")
	for _, r := range rows {
		hash, cached := "-", "-"
		if r.State == celery.Success {
			hash, cached = r.PHash[:16]+"…", "no"
			if r.Cached != nil {
				cached = *r.Cached
			}
			if r.Distance != nil {
				cached += fmt.Sprintf(", %d bits", *r.Distance)
			}
		}
		fmt.Fprintf(w, "%s\t%s: %s\t%s\t%s\t%s\t%.2f s\n", short(r.TaskID), r.Job, r.Note, r.State, hash, cached, r.Seconds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, r := range rows {
		switch {
		case r.Error == "":
		case r.fails:
			fmt.Fprintf(out, "%s failed on purpose: %s\n", r.Job, r.Error)
		default:
			fmt.Fprintf(out, "%s failed: %s\n", r.Job, r.Error)
		}
	}
	t := totalsOf(rows)
	fmt.Fprintf(out, "\n%d of %d answers came from the cache (hit rate %.0f %%): ", t.Hits, t.Succeeded, 100*t.HitRate)
	if offline {
		fmt.Fprintf(out, "that many of %d vision calls are saved.\nNo model is configured, so none was made: the offline describer answered. Set ONCEOVER_VISION_URL and ONCEOVER_VISION_MODEL to ask one.\n", t.Succeeded)
		return nil
	}
	fmt.Fprintf(out, "%d vision calls made, %d saved.\n", t.VisionCalls, t.Hits)
	return nil
}
