package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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

func export(ctx context.Context, store *failed.Store, refs []failed.Key, out io.Writer) (int, error) {
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
		auditChange(ctx, store, "import", args[0], fmt.Sprintf("%d imported, %d were kept already", fresh, known))
		if err != nil {
			return fmt.Errorf("%w\n%s imported, %d were kept already", err, jobs(fresh), known)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s imported, %d were kept already\n", jobs(fresh), known)
		return nil
	}
	return cmd
}

// maxBad is how many bad records are told one by one.
const maxBad = 100

// importRecords keeps all records that can be kept. The error names the lines of the others.
func importRecords(ctx context.Context, store *failed.Store, in io.Reader) (fresh, known int, err error) {
	var bad []error
	more := 0 // bad ones that are only counted
	all := func() error {
		if more > 0 {
			bad = append(bad, fmt.Errorf("%d more are none", more))
		}
		return errors.Join(bad...)
	}
	docs := documents{lines: bufio.NewReader(in)}
	for {
		line, doc, err := docs.next()
		if cause := context.Cause(ctx); cause != nil {
			return fresh, known, errors.Join(all(), cause)
		}
		if errors.Is(err, io.EOF) {
			return fresh, known, all()
		}
		if err != nil {
			return fresh, known, errors.Join(all(), fmt.Errorf("read line %d: %w", line, err))
		}
		r, err := parseRecord(doc)
		if err != nil {
			if len(bad) == maxBad {
				more++
				continue
			}
			bad = append(bad, fmt.Errorf("line %d: not a record of onceover failed export: %w", line, err))
			continue
		}
		isNew, err := store.Import(ctx, r)
		if err != nil {
			return fresh, known, errors.Join(all(), err)
		}
		if isNew {
			fresh++
		} else {
			known++
		}
	}
}

func parseRecord(doc []byte) (r failed.Record, err error) {
	if err := json.Unmarshal(doc, &r); err != nil {
		return r, err
	}
	return r, r.Validate()
}

// documents reads one JSON document after the other: each on a line, or on several of which only the
// first begins with a brace. A line that is no document is one all the same, for the reader to say so.
type documents struct {
	lines *bufio.Reader
	line  int    // number of the last line that was read
	ahead []byte // a line that was read and is not used yet
}

// next returns a document and the number of its first line. The error is io.EOF at the end.
func (d *documents) next() (line int, doc []byte, err error) {
	for len(doc) == 0 {
		if doc, err = d.read(); err != nil {
			return d.line, nil, err
		}
		doc = bytes.TrimSpace(doc)
	}
	line = d.line
	if doc[0] != '{' || json.Valid(doc) {
		return line, doc, nil
	}
	whole := doc
	for range maxDocumentLines {
		next, err := d.read()
		if err != nil {
			break // the next call says so
		}
		if bytes.HasPrefix(next, []byte("{")) || isRecord(next) {
			d.ahead, d.line = next, d.line-1
			break
		}
		whole = append(append(whole, '\n'), next...)
		if bytes.HasPrefix(next, []byte("}")) {
			if json.Valid(whole) {
				return line, whole, nil
			}
			break
		}
	}
	return line, whole, nil
}

// isRecord reports whether a line is a whole record.
func isRecord(line []byte) bool {
	line = bytes.TrimSpace(line)
	if !bytes.HasPrefix(line, []byte("{")) || !bytes.HasSuffix(line, []byte("}")) {
		return false
	}
	_, err := parseRecord(line)
	return err == nil
}

// maxDocumentLines is the most lines of a document.
const maxDocumentLines = 10_000

// read returns a line, its end taken off. The last one need not have one.
func (d *documents) read() ([]byte, error) {
	if d.ahead != nil {
		line := d.ahead
		d.ahead = nil
		d.line++
		return line, nil
	}
	line, err := d.lines.ReadBytes('\n')
	if len(line) == 0 && err != nil {
		return nil, err
	}
	d.line++
	return bytes.TrimRight(line, "\r\n"), nil
}
