package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"onceover/cache"
	"onceover/vision/prompt"
)

// maxCorrection bounds what is read as a correction, in bytes.
const maxCorrection = 100_000

func newCacheSet() *cobra.Command {
	var doc string
	var only, printed bool
	cmd := &cobra.Command{
		Use:   "set HASH|IMAGE --json JSON",
		Short: "Correct what is cached for a picture",
		Long: `Writes what a person says about a picture into its entry. The JSON object has some
of the fields of the schema for --lang in --prompts (see onceover prompts show),
and what it leaves out stays as it is. A value has to be one that the schema allows,
of a list even where the model's own words are taken. Where nothing is cached for
the picture all required fields but confidence are needed.

The correction goes through to all that had the same answer: to the entry that this
one is a copy of, to its other copies, and to those of pictures that show the same
without being cropped or turned. With --only it does not: the picture is told apart from
those that look the same. No model's answer replaces a correction, whatever the
prompt becomes. It is kept for 7 days, and for longer if the picture is asked for
again and again. Entries in other languages or of other models have corrections of
their own.

--json is the object itself, - to read it from the standard input, or @FILE. With
--print-json the outcome is printed as JSON: id, key, entry, copies, neighbours.`,
		Example: `  onceover cache set photo.jpg --json '{"category": "유리병", "waste_type": "유리병"}'
  onceover cache set 9a4abef7… --json @correction.json
  onceover cache set photo.jpg --only --json '{"recyclable": false, "feedback": "…"}'`,
		Args: exactArgs(1),
	}
	s := bindCache(cmd, "redis-url", "cache-url", "cache-radius", "cache-corner", "pillow", "prompts")
	s.bindVariant(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&doc, "json", "", "the correction: a JSON `object`, - for standard input, or @FILE")
	f.BoolVar(&only, "only", false, "correct this picture alone, and tell it apart from those that look the same")
	f.BoolVar(&printed, "print-json", false, "print the outcome as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.load(); err != nil {
			return err
		}
		if doc == "-" && args[0] == "-" {
			return usageError(errors.New("both the picture and the correction are to come from the standard input: expected a file for one of them"))
		}
		raw, err := readCorrection(cmd, doc)
		if err != nil {
			return err
		}
		correction, err := s.correction(raw)
		if err != nil {
			return usageError(fmt.Errorf("--json: %w", err))
		}
		ctx, v := cmd.Context(), s.variant()
		c, sub, closeCache, err := s.openPicture(cmd, args[0], v)
		if err != nil {
			return err
		}
		defer closeCache()
		if err := sub.checkKey(); err != nil {
			return err
		}
		done, err := c.Correct(ctx, sub.Picture, v, correction, only)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if printed {
			return printJSON(out, done)
		}
		fmt.Fprintf(out, "corrected %s; undo it with: onceover cache undo %s\n", done.Key, done.ID)
		lines := fields{out}
		lines.answer(done.Entry)
		if only {
			fmt.Fprintln(out, "told apart: the entries of pictures that look the same are as they were")
			return nil
		}
		fmt.Fprintf(out, "and %s of the same answer, %s that had been looked at itself\n",
			count(done.Copies, "other entry", "other entries"), count(done.Neighbours, "near picture", "near pictures"))
		return nil
	}
	return cmd
}

func newCacheUndo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "undo ID",
		Short: "Take a correction back",
		Long: `Gives the entries that a correction has changed their former answers. Those that were
changed again since stay as they are; those that have taken the correction over since
are removed, and the model is asked again. Corrections can be undone for 7 days; the
id is in what cache set has printed, and in the list of changes of the operators' page.`,
		Example: `  onceover cache undo 4k2vj7x3q5za`,
		Args:    exactArgs(1),
	}
	s := bindCache(cmd, "redis-url", "cache-url")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.load(); err != nil {
			return err
		}
		c, closeCache, err := s.open(cmd.Context())
		if err != nil {
			return err
		}
		defer closeCache()
		n, err := c.Undo(cmd.Context(), args[0])
		if errors.Is(err, cache.ErrNothingToUndo) {
			return &exitCodeError{exitNotFinished, err}
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "undone: %s as before\n", count(n, "entry is", "entries are"))
		return nil
	}
	return cmd
}

// correction reads what a person says, and checks it against the schema.
func (s *cacheSettings) correction(raw []byte) (cache.Correction, error) {
	schema := s.Prompts.Find(prompt.Analysis, cmp.Or(s.lang, s.Tasks.Lang)).Schema
	c, err := cache.ParseCorrection(raw)
	if err != nil {
		return c, err
	}
	fitted, err := schema.FitSome(raw)
	if err != nil {
		return c, err
	}
	if c, err = cache.ParseCorrection(fitted.Fields); err != nil {
		return c, err
	}
	_, c.Required = schema.Names()
	return c, nil
}

// readCorrection returns the JSON that --json gives or names.
func readCorrection(cmd *cobra.Command, doc string) ([]byte, error) {
	var in io.Reader
	name, isFile := strings.CutPrefix(doc, "@")
	switch {
	case doc == "":
		return nil, usageError(errors.New(`--json is empty: expected the correction, such as --json '{"recyclable": false}', or - or @FILE`))
	case doc == "-":
		in = interruptible{cmd.Context(), cmd.InOrStdin()}
	case isFile:
		file, err := os.Open(name)
		if err != nil {
			return nil, usageError(fmt.Errorf("--json: %w", err))
		}
		defer file.Close()
		in = file
	default:
		in = strings.NewReader(doc)
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxCorrection+1))
	if err == nil && len(raw) > maxCorrection {
		err = usageError(fmt.Errorf("--json: the correction is larger than %d bytes", maxCorrection))
	}
	return raw, err
}
