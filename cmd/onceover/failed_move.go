package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"onceover/failed"
	"onceover/internal/config"
)

func newFailedExport() *cobra.Command {
	var sel selection
	var output string
	cmd := &cobra.Command{
		Use:   "export [ID...]",
		Short: "Write failed jobs as JSON lines",
		Long: `Writes failed jobs, all or those chosen, with their messages: one JSON object a line,
for "onceover failed import" elsewhere. Nothing is removed. The messages may hold
secrets, such as signed URLs.`,
		Example: `  onceover failed export > failed.jsonl
  onceover failed export --queue q.batch --output batch.jsonl`,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	sel.bindAll(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "-", "`file` to write; - is the standard output")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		if len(args) == 0 && !sel.filters() {
			sel.all = true
		}
		ctx := cmd.Context()
		store, refs, closeStore, err := sel.open(ctx, settings, args)
		if err != nil {
			return err
		}
		defer closeStore()
		out := cmd.OutOrStdout()
		if output != "-" {
			// Under its name only once it is whole. CreateTemp makes it readable for us
			// alone.
			file, fileErr := os.CreateTemp(filepath.Dir(output), "."+filepath.Base(output)+".*")
			if fileErr != nil {
				return fileErr
			}
			defer func() {
				if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
					err = os.Rename(file.Name(), output)
				}
				if err != nil {
					err = errors.Join(fmt.Errorf("%s is not written: %w", output, err), os.Remove(file.Name()))
				}
			}()
			out = file
		}
		n, err := export(ctx, store, refs, out)
		if err == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s exported\n", jobs(n))
		}
		return err
	}
	return cmd
}

func export(ctx context.Context, store *failed.Store, refs []failed.Ref, out io.Writer) (int, error) {
	buffered := bufio.NewWriter(out)
	enc := json.NewEncoder(buffered)
	enc.SetEscapeHTML(false)
	bar := newCounter(len(refs))
	defer bar.close()
	n := 0
	for _, ref := range refs {
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		r, err := store.Get(ctx, ref)
		if err != nil {
			return n, err
		}
		bar.add(1)
		if r == nil {
			continue // replayed or discarded since
		}
		if err := enc.Encode(r); err != nil {
			return n, fmt.Errorf("write job %s: %w", r.Name(), err)
		}
		n++
	}
	return n, buffered.Flush()
}

func newFailedImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Keep failed jobs that were exported",
		Long: `Reads the JSON lines of "onceover failed export" from a file, or from the standard
input as -, and keeps each job. One that is kept already is left as it is, so that
an import may be repeated. The jobs are in the list at once; they can be replayed
as soon as a worker runs on this store.`,
		Example: `  onceover failed import failed.jsonl
  onceover failed export | onceover failed import --failed-url redis://other:6379/5 -`,
		Args: exactArgs(1),
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		in := cmd.InOrStdin()
		if args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			in = file
		}
		ctx := cmd.Context()
		store, closeStore, err := openFailed(ctx, settings)
		if err != nil {
			return err
		}
		defer closeStore()
		warnings, err := store.Check(ctx)
		for _, text := range warnings {
			fmt.Fprintln(cmd.ErrOrStderr(), "onceover: warning:", text)
		}
		if err != nil {
			return err
		}
		fresh, known, err := importRecords(ctx, store, interruptible{ctx, in})
		if err != nil {
			return fmt.Errorf("%w\n%s imported, %d were kept already", err, jobs(fresh), known)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s imported, %d were kept already\n", jobs(fresh), known)
		return nil
	}
	return cmd
}

// maxBad is how many bad records an import passes over: a file with more is none of ours.
const maxBad = 100

// importRecords keeps all records that can be kept. Behind what is no JSON it goes on with the next
// line.
func importRecords(ctx context.Context, store *failed.Store, in io.Reader) (fresh, known int, err error) {
	lines := bufio.NewReader(in)
	dec := json.NewDecoder(lines)
	var bad []error // of records that are passed over
	for n := 0; ; {
		var line json.RawMessage
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			return fresh, known, errors.Join(bad...)
		}
		if cause := context.Cause(ctx); cause != nil {
			return fresh, known, cause
		}
		n++
		noJSON := err != nil
		var r failed.Record
		if !noJSON {
			if err = json.Unmarshal(line, &r); err == nil {
				err = r.Validate()
			}
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("record %d is not one of onceover failed export: %w", n, err))
			if len(bad) > maxBad {
				return fresh, known, errors.Join(append(bad, errors.New("too many bad records, the rest is not read"))...)
			}
			if noJSON {
				lines = bufio.NewReader(io.MultiReader(dec.Buffered(), lines))
				skipLine(lines)
				dec = json.NewDecoder(lines)
			}
			continue
		}
		isNew, err := store.Import(ctx, r)
		if err != nil {
			return fresh, known, errors.Join(append(bad, err)...)
		}
		if isNew {
			fresh++
		} else {
			known++
		}
	}
}

// skipLine passes over white space and the line behind it. An error comes again.
func skipLine(r *bufio.Reader) {
	for {
		line, err := r.ReadString('\n')
		if err != nil || strings.TrimSpace(line) != "" {
			return
		}
	}
}
