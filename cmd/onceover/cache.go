package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/internal/config"
	"onceover/phash"
	"onceover/phash/verify"
	"onceover/vision/eval"
)

func newCache() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "See, correct and invalidate cached analyses",
		Long: `Analyses are kept in Redis under the perceptual hash of their picture for 7 days.
A picture that looks the same gets the same answer. These commands show how well
that works and why a picture was answered as it was, and put wrong answers right.
They work beside the running workers, on the same settings.

A picture is named by its file, by - for standard input, by the 64 hex digits of
its perceptual hash, or by those of the SHA-256 of its file.`,
		Example: `  onceover cache stats
  onceover cache inspect photo.jpg
  onceover cache set photo.jpg --json '{"category": "glass_bottle"}'
  onceover cache invalidate --tag prompt=1a2b3c4d --dry-run
  onceover cache simulate ~/photos`,

		SuggestionsMinimumDistance: 2,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheStats(), newCacheGet(), newCacheInspect(), newCacheSet(), newCacheUndo(), newCacheInvalidate(),
		newCacheReindex(), newCacheSimulate())
	return cmd
}

// cacheSettings are the settings that a command takes, and the variant of the
// entries that it is about.
type cacheSettings struct {
	*config.Settings
	fs          *pflag.FlagSet
	lang, model string
}

// bindCache defines the flags of the settings, of which help shows the named
// ones.
func bindCache(cmd *cobra.Command, only ...string) *cacheSettings {
	s := &cacheSettings{fs: pflag.NewFlagSet("", pflag.ContinueOnError)}
	s.Settings = config.Bind(s.fs, only...)
	s.fs.VisitAll(func(f *pflag.Flag) {
		if f.Name != "lang" { // that of the workers; a command's own is that of the entry
			cmd.Flags().AddFlag(f)
		}
	})
	return s
}

// bindVariant defines the flags for entries beside the usual one.
func (s *cacheSettings) bindVariant(fs *pflag.FlagSet) {
	fs.StringVar(&s.lang, "lang", "", "the entry in this `language`, for jobs that asked for another one than the workers' own")
	fs.StringVar(&s.model, "model", "", "the entry of this `model`, for jobs that named one")
}

func (s *cacheSettings) load() error { return load(s.Settings, s.fs) }

// variant names the entry as the workers do: what is theirs by default has no
// name.
func (s *cacheSettings) variant() cache.Variant {
	v := cache.Variant{Lang: s.lang, Model: s.model}
	if v.Lang == s.Tasks.Lang {
		v.Lang = ""
	}
	if v.Model == s.Vision.Model {
		v.Model = ""
	}
	return v
}

// open opens the cache for a command. Unlike a worker it does not wait for Redis.
func (s *cacheSettings) open(ctx context.Context) (*cache.Cache, func(), error) {
	if err := connectRedis(ctx, "cache-url", s.CacheURL); err != nil {
		return nil, nil, err
	}
	client, err := openRedis("cache", s.CacheURL, 32)
	if err != nil {
		return nil, nil, usageError(err)
	}
	// What makes a command wait is said.
	log, err := newLogger(s.Settings)
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	log = log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
	c := cache.New(s.Cache, client, prometheus.NewRegistry(), log)
	return c, func() { c.Close(); client.Close() }, nil
}

// subject is a picture that a command is asked about.
type subject struct {
	name string // as it was given
	cache.Picture
	file    *file // nil if it was named by digits
	hasHash bool  // false if it was named by its digest, and nothing else is known
}

// file is what is known of a picture by its file alone.
type file struct {
	phash.Info
	bytes int
}

// subjectOf reads the picture that an argument names.
func subjectOf(cmd *cobra.Command, name string, order phash.Order) (*subject, error) {
	s := &subject{name: name, hasHash: true}
	var err error
	if s.Hash, err = phash.Parse(name); err == nil {
		return s, nil
	}
	data, info, err := readPicture(cmd, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usageError(fmt.Errorf("%w: expected a picture's file, 64 hex digits, or - for standard input", err))
	}
	if err != nil {
		return nil, err
	}
	if s.Picture, err = pictureOf(data, order); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.file = &file{info, len(data)}
	return s, nil
}

// pictureOf is the picture that a file holds.
func pictureOf(data []byte, order phash.Order) (cache.Picture, error) {
	look, err := phash.LookAt(data, order)
	if err != nil {
		return cache.Picture{}, err
	}
	view := verify.Of(look)
	return cache.Picture{Digest: sha256.Sum256(data), Fingerprint: look.Fingerprint,
		View: func(context.Context) (*verify.View, error) { return view, nil }}, nil
}

// openPicture opens the cache for a command about a picture, v being the variant of
// the entries that it is about.
func (s *cacheSettings) openPicture(cmd *cobra.Command, name string, v cache.Variant) (*cache.Cache, *subject, func(), error) {
	sub, err := subjectOf(cmd, name, s.Tasks.PillowOrder)
	if err != nil {
		return nil, nil, nil, err
	}
	c, closeCache, err := s.open(cmd.Context())
	if err != nil {
		return nil, nil, nil, err
	}
	if err := sub.identify(cmd.Context(), c, v); err != nil {
		closeCache()
		return nil, nil, nil, err
	}
	return c, sub, closeCache, nil
}

// identify finds out which digits were given: those of a hash, or those of a
// file's digest, by which cache stats calls pictures whose hash says too little.
func (s *subject) identify(ctx context.Context, c *cache.Cache, v cache.Variant) error {
	if s.file != nil {
		return nil
	}
	if key := cache.Key(s.Hash, v); key != "" {
		if found, err := c.Inspect(ctx, key); err != nil || found[0] != nil {
			return err
		}
	}
	d := digestOf(s.Hash)
	seen, _, _, err := c.Seen(ctx, d, cache.Variant{})
	if err != nil {
		return err
	}
	if seen != nil {
		s.Picture = *seen
		return nil
	}
	byDigest := cache.Picture{Digest: d} // a black picture's hash is no key
	found, err := c.Inspect(ctx, byDigest.Key(v))
	if err == nil && found[0] != nil {
		s.Picture, s.hasHash = byDigest, false
	}
	return err
}

// digestOf is the digest that has the digits of a hash.
func digestOf(h phash.Hash) (d cache.Digest) {
	for i, v := range h {
		binary.BigEndian.PutUint64(d[8*i:], v)
	}
	return d
}

// checkKey is an error that says why the picture can have no entry, if it cannot.
func (s *subject) checkKey() error {
	if s.Key(cache.Variant{}) != "" {
		return nil
	}
	return fmt.Errorf("%s: this hash says too little to be a key (%d of its 256 bits are set, expected 128), as of flat and symmetric pictures:"+
		" their analyses are kept by file; give the file, or the digits of its SHA-256", plainLine(s.name, 100), bitsSet(s.Hash))
}

// fields prints names and values in two columns.
type fields struct{ out io.Writer }

func (f fields) print(name, format string, args ...any) {
	value := fmt.Sprintf(format, args...)
	if value != "" {
		fmt.Fprintf(f.out, "%-12s %s\n", name, plainLine(value, 4000))
	}
}

// answer prints what an entry says of the picture, whatever fields it has.
func (f fields) answer(e cache.Entry) {
	if e.WasteType != "" || e.Category != "" {
		f.print("waste type", "%s", e.WasteType)
		f.print("category", "%s", e.Category)
		f.print("recyclable", "%s", yesNo(e.Recyclable))
		f.print("confidence", "%.2f", e.Confidence)
	}
	f.print("feedback", "%s", e.Feedback)
	e.More.Each(func(name string, value json.RawMessage) {
		text := string(value)
		_ = json.Unmarshal(value, &text) // else it is shown as JSON
		f.print(strings.ReplaceAll(name, "_", " "), "%s", text)
	})
}

// entry prints an analysis and where it comes from.
func (f fields) entry(e *cache.Stored) {
	f.answer(e.Entry)
	f.print("analysed", "%s", moment(e.AnalyzedAt))
	switch {
	case e.Model == "" && e.CorrectedAt == "":
		f.print("by", "a Python service: neither model nor prompt are known")
	case e.PromptVersion == "":
		f.print("by", "%s", e.Model)
	default:
		f.print("by", "%s, prompt version %s", e.Model, e.PromptVersion)
	}
	if e.CostMicroUSD > 0 {
		f.print("cost", "%s", usd(e.CostMicroUSD))
	}
	if e.CorrectedAt != "" {
		f.print("corrected", "%s, by a person: no model's answer replaces it", moment(e.CorrectedAt))
	}
	if e.DerivedFrom != "" {
		f.print("copy of", "%s, %d bits away: a near hit", e.DerivedFrom, e.Distance)
	}
	if e.File == "" {
		f.print("picture", "not known: it answers no other one, and any of an equal hash")
	}
	f.print("runs out", "%s", ttl(e.TTL))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// moment is a time of an entry, and how long ago that is.
func moment(at string) string {
	t, err := time.Parse("2006-01-02T15:04:05", at)
	if err != nil {
		return at
	}
	return fmt.Sprintf("%s UTC (%s ago)", t.Format("2006-01-02 15:04:05"), age(t))
}

// ttl is how long an entry is still there.
func ttl(d time.Duration) string {
	switch hours := int(d.Hours()); {
	case d < 0:
		return "never; cleanup.cache gives it 7 days"
	case hours >= 48:
		return fmt.Sprintf("in %dd %dh", hours/24, hours%24)
	case hours >= 1:
		return fmt.Sprintf("in %dh %dm", hours, int(d.Minutes())%60)
	default:
		return "in " + d.Round(time.Second).String()
	}
}

// ttlSeconds is the same for JSON: null if it is there for ever.
func ttlSeconds(d time.Duration) *int64 {
	if d < 0 {
		return nil
	}
	n := int64(d / time.Second)
	return &n
}

// usd is an amount of millionths of a US dollar, in dollars.
func usd(micro int64) string { return grouped(eval.Dollars(float64(micro))) }

// count is n with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// number is n with separators.
func number[T int | int64](n T) string { return grouped(fmt.Sprint(n)) }

func grouped(digits string) string {
	whole, rest, point := strings.Cut(digits, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		return whole + "." + rest
	}
	return whole
}

// percent is the share of part in whole.
func percent[T int | int64](part, whole T) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

// scanBar is a progress bar for a walk through all entries, whose number is
// estimated. step is for the cache to call; end takes the bar away.
func scanBar(ctx context.Context, c *cache.Cache) (step func(seen int), end func(), err error) {
	total, err := c.Estimate(ctx)
	if err != nil {
		return nil, nil, err
	}
	bar, shown := newCounter(total), 0
	return func(seen int) {
		seen = min(seen, total-1) // it is full when all is done
		if seen > shown {
			bar.add(seen - shown)
			shown = seen
		}
	}, bar.close, nil
}

// bitsSet is the number of bits of a hash that are set.
func bitsSet(h phash.Hash) int {
	n := 0
	for _, v := range h {
		n += bits.OnesCount64(v)
	}
	return n
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
