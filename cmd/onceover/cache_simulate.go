package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"onceover/cache"
	"onceover/vision/eval"
)

func newCacheSimulate() *cobra.Command {
	o := simulateOptions{}
	cmd := &cobra.Command{
		Use:   "simulate DIR",
		Short: "Try the cache on a folder of pictures: what it would save, and which pairs it takes for one",
		Long: `Runs the pictures below a folder one after another through hash and index as a worker
would, and counts how often the model would have been asked: without a cache, with
equal hashes only, and with near ones. Needs no server, asks no model and writes
nothing but the report. It begins with an empty cache, of which nothing runs out.

Pictures are taken by the time of their last change, those of the same time by name,
or all by name with --order name: the first of those that look the same is the one
that is paid for. Symbolic links and files that are no pictures, cannot be read, or
are larger than a worker takes, are skipped and named.

The report is a page to look at in a browser, with the pairs for you to judge: those
of which one got the other's answer, and those that look the same to the hash but
were told apart; the likeliest mistakes of each kind come first.
It holds small copies of the pictures, so it is as private as they are.

Whoever has the page can judge the pairs on it, with the keys S (they show the same), D
(they differ) and U (unsure) or with the mouse, and save the judgements as a file. Give
it with --judged: these pairs are not shown again, and counted: how many near hits were
false, and how many calls were made for what shows the same, with the 95 % interval
(Wilson). Judgements hold for the files, whatever their names (SHA-256), so they also
say what other settings would make of the same pictures. onceover eval takes them too.

With --json: dir, order, radius, pictures, files (that differ), degenerate (pictures
whose hash says too little), skipped (file, why), calls (without_cache, exact_only,
near), price_per_call_usd (or null), near_hits, vetoed and twins (counts of pairs),
distances (near hits by bits), pairs (verdict: near, vetoed, or twin for equal
hashes of different pictures; distance, reason of those that differ, part, turned,
first, first_phash, first_sha256, second, second_phash, second_sha256), pairs_left_out,
html (the report's name), and with --judged judged: judgements (different pairs),
overruled (of these, pairs of which an earlier line says otherwise), near, twin and
vetoed (judged, wrong, interval: low and high), wasted_calls, not_compared (pictures of
the folder that are no pair of this run) and elsewhere (of files that are not in it:
first, second, line).`,
		Example: `  onceover cache simulate ~/photos
  onceover cache simulate ~/photos --price-per-call 0.002
  onceover cache simulate ~/photos --cache-turned=false --html upright.html --max-pairs 2000
  onceover cache simulate ~/photos --judged ana.jsonl --judged ben.jsonl
  onceover cache simulate ~/photos --html "" --json | jq .calls`,
		Args: exactArgs(1),
	}
	s := bindCache(cmd, "cache-turned", "cache-corner", "image-max-bytes", "image-max-pixels", "pillow")
	f := cmd.Flags()
	f.IntVar(&o.radius, "radius", cache.DefaultRadius, fmt.Sprintf("compare pictures whose hashes are at most so many `bits` apart; 0: only equal hashes, %d is the most [$ONCEOVER_CACHE_RADIUS]", cache.MaxRadius))
	f.StringVar(&o.order, "order", orderTime, "take the pictures by time or by name")
	f.StringVar(&o.html, "html", "onceover-simulate.html", "the report to write, which may replace an older one; \"\": none")
	f.IntVar(&o.maxPairs, "max-pairs", 500, "most pairs in the report; the others are counted")
	f.StringArrayVar(&o.judged, "judged", nil, "`file` of judgements that were saved on the page: these pairs are counted, and not shown again; may be given several times, later lines win")
	f.IntVar(&o.workers, "workers", runtime.GOMAXPROCS(0), "pictures decoded at once (default: the number of cores)")
	f.Float64Var(&o.price, "price-per-call", 0, "what the model takes for a picture, in US dollars")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	f.Lookup("workers").DefValue = "0" // depends on the machine
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.load(); err != nil {
			return err
		}
		if !f.Changed("radius") {
			o.radius = s.Cache.Radius
		}
		if err := o.check(f.Changed("price-per-call")); err != nil {
			return usageError(err)
		}
		root, err := os.OpenRoot(args[0])
		if err != nil {
			return usageError(fmt.Errorf("%w: expected a folder of pictures", err))
		}
		defer root.Close()
		cfg := s.Cache
		cfg.Radius = o.radius
		return o.run(cmd, folder{root, eval.Pictures{MaxBytes: s.Image.MaxBytes, MaxPixels: s.Tasks.MaxPixels}, s.Tasks.PillowOrder}, cfg, args[0])
	}
	return cmd
}

type simulateOptions struct {
	radius, maxPairs, workers int
	order, html               string
	judged                    []string
	price                     float64
	asJSON                    bool
}

func (o simulateOptions) check(priced bool) error {
	var faults []error
	if o.radius < 0 || o.radius > cache.MaxRadius {
		faults = append(faults, fmt.Errorf("--radius %d: expected 0 to %d bits", o.radius, cache.MaxRadius))
	}
	if o.order != orderTime && o.order != orderName {
		faults = append(faults, fmt.Errorf("--order %q: expected %s or %s", o.order, orderTime, orderName))
	}
	if o.maxPairs < 0 || o.maxPairs > 100_000 {
		faults = append(faults, fmt.Errorf("--max-pairs %d: expected 0 to 100,000", o.maxPairs))
	}
	if o.workers < 1 || o.workers > 1000 {
		faults = append(faults, fmt.Errorf("--workers %d: expected 1 or more, the number of cores at best", o.workers))
	}
	if priced && !(o.price > 0 && o.price < 1e6) {
		faults = append(faults, fmt.Errorf("--price-per-call %v: expected US dollars, more than 0", o.price))
	}
	return errors.Join(faults...)
}

func (o simulateOptions) run(cmd *cobra.Command, f folder, cfg cache.Config, dir string) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	judgements, err := o.judgements()
	if err != nil {
		return usageError(fmt.Errorf("--judged: %w", err))
	}
	files, left, err := f.list(ctx)
	if err != nil {
		return fmt.Errorf("go through %s: %w", dir, err)
	}
	sortPhotos(files, o.order)
	bar := newCounter(len(files))
	sim := newSimulator(cfg, o.maxPairs)
	sim.Judged = judgements
	noPictures, err := f.each(ctx, files, o.workers, func() { bar.add(1) }, func(p photo) error { return sim.add(ctx, p) })
	bar.close()
	if err != nil {
		return err
	}
	left = append(left, noPictures...)
	s := sim.end()
	if !o.asJSON {
		warnSkipped(cmd.ErrOrStderr(), left)
		s.Judged.warn(cmd.ErrOrStderr())
	}
	if s.Pictures == 0 {
		return usageError(fmt.Errorf("there are no pictures below %s: expected JPEG, PNG, GIF, WebP, BMP or TIFF files", dir))
	}
	s.Dir, s.Order, s.HTML = dir, o.order, o.html
	s.Skipped = append(s.Skipped, left...)
	if o.price > 0 {
		s.Price = &o.price
	}
	if o.html != "" {
		if err := s.writeReport(ctx, f, o.workers); err != nil {
			return err
		}
	}
	if o.asJSON {
		return printJSON(out, s)
	}
	s.draw(out)
	return nil
}

// judgements reads what people have said; nil if nobody was asked.
func (o simulateOptions) judgements() (*judged, error) {
	if len(o.judged) == 0 {
		return nil, nil
	}
	for _, name := range o.judged {
		same, err := sameFile(o.html, name)
		if err != nil {
			return nil, err
		}
		if same {
			return nil, fmt.Errorf("%s is the report as well: expected two files, as the report would replace it", plainLine(name, 200))
		}
	}
	all, overruled, err := eval.ReadJudgements(o.judged...)
	if err != nil {
		return nil, err
	}
	return newJudged(all, overruled), nil
}

// sameFile reports whether two paths, of which the first may be "", are of one file.
func sameFile(a, b string) (bool, error) {
	if a == "" {
		return false, nil
	}
	a, err := realPath(a)
	if err != nil {
		return false, err
	}
	b, err = realPath(b)
	return a == b, err
}

// maxWarned is how many files, or judgements, are named.
const maxWarned = 20

// warnSkipped names the first files that are left out.
func warnSkipped(out io.Writer, left []skipped) {
	for _, l := range left[:min(len(left), maxWarned)] {
		fmt.Fprintf(out, "skipped %s: %s\n", plainLine(l.File, 200), plainLine(l.Why, 300))
	}
	if len(left) > maxWarned {
		fmt.Fprintf(out, "… and %s skipped; --json has all\n", count(len(left)-maxWarned, "more file", "more files"))
	}
}

// scenario is one way to be cached, for people.
type scenario struct {
	Name         string
	Calls, Saved int
	Share        string
	Money        string // saved; "" without a price
}

func (s *simulation) scenarios() []scenario {
	out := []scenario{
		{Name: "without a cache", Calls: s.Calls.None},
		{Name: "equal hashes only", Calls: s.Calls.Exact},
		{Name: "pictures that show the same", Calls: s.Calls.Near},
	}
	for i := range out {
		c := &out[i]
		c.Saved = s.Calls.None - c.Calls
		c.Share = percent(c.Saved, s.Calls.None)
		if s.Price != nil {
			c.Money = usd(int64(float64(c.Saved) * *s.Price * 1e6))
		}
	}
	return out
}

// facts says in words what was found.
func (s *simulation) facts() []string {
	out := []string{fmt.Sprintf("%s below %s, %s that differ, taken by %s", count(s.Pictures, "picture", "pictures"), s.Dir, count(s.Files, "file", "files"), s.Order)}
	if n := len(s.Skipped); n > 0 {
		out = append(out, count(n, "file", "files")+" skipped")
	}
	if s.Degenerate > 0 {
		out = append(out, fmt.Sprintf("%s flat or symmetric: the hash says too little, only the same file is a hit", count(s.Degenerate, "picture is", "pictures are")))
	}
	if s.Twins > 0 {
		out = append(out, fmt.Sprintf("%s the hash of another one: not its answer, and kept by the file", count(s.Twins, "picture has", "pictures have")))
	}
	if s.Vetoed > 0 {
		out = append(out, fmt.Sprintf("%s told apart", count(s.Vetoed, "near pair", "near pairs")))
	}
	return append(out, s.Judged.facts(s.NearHits)...)
}

func (s *simulation) draw(out io.Writer) {
	for _, f := range s.facts() {
		fmt.Fprintln(out, plainLine(f, 300))
	}
	fmt.Fprintln(out)
	money := ""
	if s.Price != nil {
		money = "MONEY SAVED"
	}
	line := func(name, calls, saved, share, money string) {
		fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%-28s%10s%10s%10s%16s", name, calls, saved, share, money), " "))
	}
	line("", "CALLS", "SAVED", "SHARE", money)
	for _, c := range s.scenarios() {
		line(c.Name, number(c.Calls), number(c.Saved), c.Share, c.Money)
	}
	if s.NearHits > 0 {
		fmt.Fprintf(out, "\n%s by distance in bits\n", count(s.NearHits, "near hit", "near hits"))
		most := 0
		for _, n := range s.Distances {
			most = max(most, n)
		}
		for _, d := range slices.Sorted(maps.Keys(s.Distances)) {
			n := s.Distances[d]
			fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%3d %7s %s", d, number(n), bar(n, most)), " "))
		}
	}
	if s.HTML != "" {
		shown := count(len(s.Pairs), "pair", "pairs")
		if s.LeftOut > 0 {
			shown += fmt.Sprintf(", %s left out", number(s.LeftOut))
		}
		fmt.Fprintf(out, "\nlook at them and judge: %s (%s)\n", s.HTML, shown)
	}
}

// barWidth is the length of the longest bar, in characters.
const barWidth = 40

func bar(n, most int) string {
	if n == 0 || most == 0 {
		return ""
	}
	return strings.Repeat("█", max(1, n*barWidth/most))
}
