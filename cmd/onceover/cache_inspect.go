package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"onceover/cache"
	"onceover/phash"
	"onceover/phash/verify"
	"onceover/vision"
	"onceover/vision/prompt"
)

func newCacheInspect() *cobra.Command {
	var radius int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect IMAGE|HASH",
		Short: "Explain how a picture would be answered: its hash, entry and neighbours",
		Long: fmt.Sprintf(`Shows what is known of a picture: its hash, whether that can be a key, its entry, and
the pictures near to it that have been looked at, with the distance of the hashes in
bits and what a comparison finds. Nothing is changed and no model is asked. Given a
hash, the picture is not there to be compared: give the file. To see pairs side by side,
and to judge them, run onceover cache simulate on a folder with the pictures.

ANSWERS says what a job with this picture would make of a neighbour's entry:

  yes         takes it, if there is none of its own and no nearer one that answers
  differs     no: WHY says in what the two differ
  too far     no: farther away than --cache-radius
  copy        no: it is a copy of another answer itself
  unusable    no: of another version of the prompt than this program's, or of the
              offline describer although a model is configured
  unsigned    no: nothing is kept of that picture to compare with, as Python wrote
              the entry, or an older version of this program
  beyond      no: a job compares the four nearest, and these are nearer
  poor        no: there is too little in the picture to compare, as in a plain surface
  gone        no: it has run out or was removed
  unknown     the picture decides, and its file was not given

With --json: name, key, phash, digest, popcount, can_be_key, format, width, height,
bytes, colour, entry and ttl_seconds as of cache get, answer ("exact", "near",
"miss" or "unknown"), and neighbours: phash, distance, verdict (%s, %s, %s, %s, %s,
%s, %s, %s, %s or %s), reason of those that differ (%s, %s, %s, %s or %s), part (the
largest difference of a part, in what is allowed), turned, entry, ttl_seconds.`,
			cache.Answers, cache.Differs, cache.TooFar, cache.Derived, cache.Unusable, cache.Unsigned, cache.Beyond, cache.Poor, cache.Gone, cache.Unknown,
			verify.Elsewhere, verify.Alike, verify.Tone, verify.Part, verify.Colour),
		Example: `  onceover cache inspect photo.jpg
  onceover cache inspect photo.jpg --radius 14
  onceover cache inspect photo.jpg --json | jq '.neighbours[] | select(.verdict == "differs")'`,
		Args: exactArgs(1),
	}
	s := bindCache(cmd, "redis-url", "cache-url", "cache-radius", "cache-turned", "cache-corner", "cache-any-prompt", "vision-url", "pillow", "prompts")
	s.bindVariant(cmd.Flags())
	cmd.Flags().IntVar(&radius, "radius", cache.MaxRadius, fmt.Sprintf("how far to look for neighbours, in `bits`, up to %d", cache.MaxRadius))
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.load(); err != nil {
			return err
		}
		if radius < 0 || radius > cache.MaxRadius {
			return usageError(fmt.Errorf("--radius %d: expected 0 to %d bits", radius, cache.MaxRadius))
		}
		c, sub, closeCache, err := s.openPicture(cmd, args[0], s.variant())
		if err != nil {
			return err
		}
		defer closeCache()
		i, err := s.inspect(cmd.Context(), c, sub, radius)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), i)
		}
		return i.draw(cmd.OutOrStdout())
	}
	return cmd
}

// inspected is what inspect shows.
type inspected struct {
	cachedPicture
	PopCount   *int        `json:"popcount"`
	CanBeKey   bool        `json:"can_be_key"`
	Format     string      `json:"format,omitempty"`
	Width      int         `json:"width,omitempty"`
	Height     int         `json:"height,omitempty"`
	Bytes      int         `json:"bytes,omitempty"`
	Colour     string      `json:"colour,omitempty"`
	Answer     string      `json:"answer"`
	Neighbours []neighbour `json:"neighbours"`

	stored *cache.Stored
	radius int
}

type neighbour struct {
	PHash      string        `json:"phash"`
	Distance   int           `json:"distance"`
	Verdict    cache.Verdict `json:"verdict"`
	Reason     verify.Reason `json:"reason,omitempty"`
	Part       float64       `json:"part"`
	Turned     bool          `json:"turned"`
	TTLSeconds *int64        `json:"ttl_seconds"`
	Entry      *cache.Entry  `json:"entry"`
}

// query asks as a worker of this version on these settings does. Without a model's
// URL it is left open whether the workers have one.
func (s *cacheSettings) query(p cache.Picture) *cache.Query {
	lang := cmp.Or(s.lang, s.Tasks.Lang)
	now := s.Prompts.Find(prompt.Analysis, lang)
	asked, offline := now.Version, vision.NewOffline().PromptVersion(lang)
	_, required := now.Schema.Names()
	return &cache.Query{Picture: p, Variant: s.variant(), Usable: func(e cache.Entry) bool {
		present := asked
		if e.Model == vision.OfflineModel {
			if s.Vision.BaseURL != "" {
				return false
			}
			present = offline
		}
		return e.PromptVersion == present || (e.PromptVersion == "" || s.Cache.AnyPrompt) && e.Has(required...)
	}}
}

func (s *cacheSettings) inspect(ctx context.Context, c *cache.Cache, sub *subject, radius int) (*inspected, error) {
	i := &inspected{radius: radius, Answer: "miss", Neighbours: []neighbour{}, CanBeKey: sub.hasHash && !sub.Hash.Degenerate()}
	own, err := c.Own(ctx, s.variant(), sub.Picture)
	if err != nil {
		return nil, err
	}
	i.stored = own[0].Stored
	i.cachedPicture = sub.document(own[0].Key, i.stored)
	if sub.hasHash {
		n := bitsSet(sub.Hash)
		i.PopCount = &n
	}
	if sub.file != nil {
		i.Format, i.Width, i.Height, i.Bytes = sub.file.Format, sub.file.Width, sub.file.Height, sub.file.bytes
	} else if i.stored != nil && sub.Colour == (phash.Colour{}) {
		sub.Colour, _ = phash.ParseColour(i.stored.Colour) // zeros where Python wrote it
	}
	if sub.Colour != (phash.Colour{}) {
		i.Colour = sub.Colour.String()
	}
	q := s.query(sub.Picture)
	if i.CanBeKey {
		if err := c.Load(ctx); err != nil {
			return nil, err
		}
		near, err := c.Candidates(ctx, q, max(radius, s.Cache.Radius)) // the answer does not depend on what is shown
		if err != nil {
			return nil, err
		}
		for _, n := range near {
			i.add(n)
		}
	}
	if i.stored != nil && c.Usable(q, i.stored.Entry) {
		i.Answer = string(cache.Exact)
	}
	return i, nil
}

// add puts in a neighbour, the nearest first.
func (i *inspected) add(n cache.Candidate) {
	if i.Answer == "miss" {
		switch n.Verdict {
		case cache.Answers:
			i.Answer = string(cache.Near)
		case cache.Unknown:
			i.Answer = "unknown"
		}
	}
	if n.Distance > i.radius {
		return
	}
	out := neighbour{PHash: n.Hash.String(), Distance: n.Distance, Verdict: n.Verdict, Reason: n.Result.Reason, Part: n.Result.Part, Turned: n.Turned}
	if n.Stored != nil {
		out.Entry, out.TTLSeconds = &n.Stored.Entry, ttlSeconds(n.Stored.TTL)
	}
	i.Neighbours = append(i.Neighbours, out)
}

// verdictText is what people read.
var verdictText = map[cache.Verdict]string{cache.Answers: "yes", cache.TooFar: "too far", cache.Derived: "copy"}

func (i *inspected) draw(out io.Writer) error {
	f := fields{out}
	f.print("picture", "%s", i.Name)
	if i.Format != "" {
		f.print("file", "%s, %d x %d pixels, %s bytes", i.Format, i.Width, i.Height, number(i.Bytes))
	}
	f.print("digest", "%s", i.Digest)
	f.print("hash", "%s", i.PHash)
	switch {
	case i.PopCount == nil:
		f.print("bits set", "not known: only the digest of the file was given")
	case i.CanBeKey:
		f.print("bits set", "128 of 256: the hash can be a key")
	default:
		f.print("bits set", "%d of 256: too little to be a key; such a picture is cached by its file and has no neighbours", *i.PopCount)
	}
	f.print("key", "%s", orDash(i.Key))
	switch i.Answer {
	case "exact":
		f.print("answer", "its own entry")
	case "near":
		f.print("answer", "that of the nearest neighbour that answers")
	case "unknown":
		f.print("answer", "a neighbour's if the two show the same; give the picture's file to know")
	default:
		f.print("answer", "none: the model would be asked")
	}
	fmt.Fprintln(out)
	if i.stored == nil {
		fmt.Fprintln(out, "no entry of its own")
	} else {
		fmt.Fprintln(out, "its own entry")
		f.entry(i.stored)
	}
	if !i.CanBeKey {
		return nil
	}
	fmt.Fprintln(out)
	if len(i.Neighbours) == 0 {
		fmt.Fprintf(out, "nothing within %d bits\n", i.radius)
		return nil
	}
	fmt.Fprintf(out, "%s within %d bits\n", count(len(i.Neighbours), "neighbour", "neighbours"), i.radius)
	rows := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(rows, "DISTANCE\tANSWERS\tWHY\tCATEGORY\tBY\tRUNS OUT\tHASH")
	for _, n := range i.Neighbours {
		why, category, by, left := "-", "-", "-", "-"
		if n.Verdict == cache.Differs || n.Verdict == cache.Answers {
			why = reasonText[n.Reason]
		}
		if e := n.Entry; e != nil {
			category, by = orDash(e.Category), orDash(e.Model)
			left = "never"
			if n.TTLSeconds != nil {
				left = ttl(seconds(*n.TTLSeconds))
			}
		}
		text := verdictText[n.Verdict]
		if text == "" {
			text = string(n.Verdict)
		}
		fmt.Fprintf(rows, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Distance, text, why, plainLine(category, 30), plainLine(by, 30), left, n.PHash)
	}
	return rows.Flush()
}
