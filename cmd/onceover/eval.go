package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"onceover/vision"
	"onceover/vision/eval"
	"onceover/vision/prompt"
)

func newEval(s stop) *cobra.Command {
	o := evalOptions{again: s.again}
	cmd := &cobra.Command{
		Use:   "eval LABELS",
		Short: "Measure one or two models on labelled pictures: how often they are right, how sure, at what cost",
		Long: `Asks the models about labelled pictures, as a worker would, and compares the answers with
the labels: accuracy with a Wilson interval, macro-F1, each class, the confusion
matrix, calibration (ECE and Brier), the shares unclassified, refused and broken, the
cost of a picture and of a correct one, p50 and p95, and for two models McNemar's exact
test and what it would bring to ask the second where the first is less sure. Nothing is
taken from the cache or written to it. docs/eval.md explains the figures.

LABELS is a folder with a folder for each class; a .csv file with a header that has the
columns picture and label; or a .jsonl file with {"picture": …, "label": …} on each
line. Paths in a file begin at its folder. URLs are not fetched. With --corrections
LABELS is any folder of pictures, or a file that lists them, and those count whose
entry in the cache a person has corrected, at the picture itself or at one that is near
it (see onceover cache set). Labels are read as cache set reads a value. Every fault of
the labels is reported before anything is paid.

--judged takes the judgements that people have saved on the page of onceover cache
simulate: a picture that shows the same as a labelled one gets its label, over any number
of pictures. It is found by its name below the folder of LABELS, which is therefore the
folder that was simulated, and must be the file that was judged.

Each answer is kept in --out before the next picture is begun, one JSON object a line
(id, gold, answer, outcome, confidence, tokens, cost_microusd, ms). Ctrl-C finishes the
calls in flight, the second ends them. --resume goes on with the file: what has an answer
is not asked again, and labels may have been corrected since. A picture that was in
flight when the process died is lost: it may have been paid for, and is asked about again
with --retry-lost only.

--max-cost is the limit for all runs of the file together; it takes prices for all
models: --vision-price-in and --vision-price-out for --vision-model, those of the file
of models, and --price for others. The calls pass neither the limits nor the budget of
the workers.

Exit code 1 if a picture has no answer in the end, or if --min-accuracy is not reached.`,
		Example: `  onceover eval labels.csv --model gpt-4o-mini --price gpt-4o-mini=0.15/0.60 --max-cost 0.50usd
  onceover eval pictures/ --model gpt-4o-mini --model gpt-4o --out both.jsonl --html both.html
  onceover eval labels.csv --resume --retry-lost
  onceover eval labels.csv --judged ana.jsonl --judged ben.jsonl
  onceover eval pictures/ --corrections --min-accuracy 0.9 --json | jq '.models[0].accuracy'`,
		Args: exactArgs(1),
	}
	o.cacheSettings = bindCache(cmd, "vision-url", "vision-model", "vision-api-key", "vision-timeout", "vision-format", "vision-price-in", "vision-price-out",
		"models", "prompts", "image-max-bytes", "image-max-pixels", "redis-url", "cache-url", "pillow")
	f := cmd.Flags()
	f.StringVar(&o.cacheSettings.lang, "lang", "", "`language` of the answers (default: the workers' own)")
	f.StringArrayVar(&o.models, "model", nil, "`model` to ask, or the name of an endpoint in the file of models; give it twice to compare two, the cheaper one first (default: --vision-model, or the first of the file)")
	f.StringArrayVar(&o.prices, "price", nil, "price of a model in US dollars per million tokens, as `MODEL=IN/OUT`")
	f.StringVar(&o.out, "out", "onceover-eval.jsonl", "the results `file`")
	f.StringVar(&o.html, "html", "onceover-eval.html", "the report to write, which may replace an older one; \"\": none")
	f.IntVar(&o.maxPictures, "max-pictures", 300, "most pictures in the report: those that a model was wrong about or gave no answer for")
	f.StringVar(&o.calibration, "calibration", "", "`file` to write the first model's calibration to, from 200 answers on")
	f.StringVar(&o.field, "field", "category", "the `field` of the answer that is compared with the label")
	f.StringVar(&o.confidence, "confidence-field", "confidence", "the `field` that says how sure the model is, 0 to 1")
	f.StringVar(&o.unclassified, "unclassified", vision.Unclassified, "the `answer` that says that the model cannot tell")
	f.BoolVar(&o.corrections, "corrections", false, "take as labels what people have corrected in the cache")
	f.StringArrayVar(&o.judged, "judged", nil, "`file` of judgements: pictures that show the same as a labelled one get its label; may be given several times, later lines win")
	f.BoolVar(&o.resume, "resume", false, "go on with the results file")
	f.BoolVar(&o.retryLost, "retry-lost", false, "ask again about lost pictures, which may have been paid for")
	f.StringVar(&o.maxCost, "max-cost", "", "spend at most so much, such as `0.50usd`")
	f.Float64Var(&o.minAccuracy, "min-accuracy", 0, "exit with code 1 unless each model is right about this `share` of the pictures, 0 to 1")
	f.IntVar(&o.parallel, "parallel", 4, "pictures in flight at once")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.load(); err != nil {
			return err
		}
		if err := o.check(f); err != nil {
			return usageError(err)
		}
		return o.run(cmd, args[0])
	}
	return cmd
}

type evalOptions struct {
	*cacheSettings
	again <-chan struct{} // closed at the second signal

	models, prices                  []string
	out, html, calibration          string
	field, confidence, unclassified string
	corrections, resume, retryLost  bool
	judged                          []string
	maxCost                         string
	minAccuracy                     float64
	parallel, maxPictures           int
	asJSON                          bool

	// What check makes of them.
	prompt   *prompt.Prompt
	asked    []eval.Model
	maxMicro int64
}

// check reads the options and returns all that is wrong with them.
func (o *evalOptions) check(f *pflag.FlagSet) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if o.lang != "" {
		if err := vision.CheckLang(o.lang); err != nil {
			return fmt.Errorf("--lang: %w", err)
		}
	}
	o.prompt = o.Prompts.Find(prompt.Analysis, o.language())
	fields, _ := o.prompt.Schema.Names()
	if !slices.Contains(fields, o.field) {
		fault("--field %s: the schema has no such field: expected one of %s", plainLine(o.field, 40), strings.Join(fields, ", "))
	}
	if f.Changed("confidence-field") && !slices.Contains(fields, o.confidence) {
		fault("--confidence-field %s: the schema has no such field: expected one of %s", plainLine(o.confidence, 40), strings.Join(fields, ", "))
	}
	if o.parallel < 1 || o.parallel > 1000 {
		fault("--parallel %d: expected 1 to 1,000", o.parallel)
	}
	if o.maxPictures < 0 || o.maxPictures > 100_000 {
		fault("--max-pictures %d: expected 0 to 100,000", o.maxPictures)
	}
	if f.Changed("min-accuracy") && !(o.minAccuracy > 0 && o.minAccuracy <= 1) {
		fault("--min-accuracy %v: expected a share above 0 and at most 1, such as 0.9", o.minAccuracy)
	}
	if o.retryLost && !o.resume {
		fault("--retry-lost is given without --resume: expected both, as lost pictures are those of an earlier run")
	}
	if o.maxCost != "" {
		micro, err := parseUSD(o.maxCost)
		if err != nil {
			fault("--max-cost %w", err)
		}
		o.maxMicro = micro
	}
	prices, err := o.parsePrices()
	if err != nil {
		faults = append(faults, err)
	}
	if o.asked, err = o.analyzers(prices); err != nil {
		faults = append(faults, err)
	}
	for name := range prices {
		if o.asked != nil && !slices.ContainsFunc(o.asked, func(m eval.Model) bool { return m.Name == name }) {
			fault("--price is given for %s, which is not asked: expected one of the models", plainLine(name, 100))
		}
	}
	return errors.Join(faults...)
}

// language is that of the answers.
func (o *evalOptions) language() string { return cmp.Or(o.lang, o.Tasks.Lang) }

// parseUSD reads an amount such as 0.50usd, in micro-dollars.
func parseUSD(text string) (int64, error) {
	number := strings.TrimSpace(strings.TrimSuffix(strings.ToLower(text), "usd"))
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v >= 1e-6 && v <= 1e6) {
		return 0, fmt.Errorf("%q: expected US dollars, such as 0.50usd", plainLine(text, 40))
	}
	return int64(math.Round(v * 1e6)), nil
}

// price is what a million tokens take, in micro-dollars.
type price struct{ in, out int64 }

// parsePrices reads --price, and takes the configured price for the configured model.
func (o *evalOptions) parsePrices() (map[string]price, error) {
	out := map[string]price{}
	var faults []error
	for _, text := range o.prices {
		at := strings.LastIndex(text, "=")
		in, after, ok := strings.Cut(text[at+1:], "/")
		i, inErr := strconv.ParseFloat(in, 64)
		j, outErr := strconv.ParseFloat(after, 64)
		if at < 1 || !ok || inErr != nil || outErr != nil || !(i >= 0 && j >= 0 && i+j > 0 && i <= 1000 && j <= 1000) {
			faults = append(faults, fmt.Errorf("--price %q: expected a model and US dollars per million prompt and completion tokens, such as gpt-4o-mini=0.15/0.60", plainLine(text, 100)))
			continue
		}
		out[text[:at]] = price{int64(math.Round(i * 1e6)), int64(math.Round(j * 1e6))}
	}
	return out, errors.Join(faults...)
}

// analyzers are the models that are asked.
func (o *evalOptions) analyzers(prices map[string]price) ([]eval.Model, error) {
	if len(o.Models) == 0 {
		return nil, errors.New("vision-url is not set, nor is models: expected the endpoint to ask")
	}
	names := o.models
	if len(names) == 0 {
		names = []string{cmp.Or(o.prompt.Model, o.Models[0].Model)}
	}
	switch {
	case len(names) > 2:
		return nil, fmt.Errorf("--model is given %d times: expected one model, or two to compare", len(names))
	case len(names) == 2 && names[0] == names[1]:
		return nil, fmt.Errorf("--model %s is given twice: expected two models", plainLine(names[0], 100))
	}
	var out []eval.Model
	for _, name := range names {
		cfg, err := o.endpoint(name, len(names) == 1)
		if err != nil {
			return nil, err
		}
		a, err := vision.NewOpenAI(cfg)
		if err != nil {
			return nil, err
		}
		m := eval.Model{Name: name, As: cfg.Model, Endpoint: endpointName(cfg), Analyzer: a, Lang: o.language()}
		if p, ok := prices[name]; ok {
			m.Price = eval.PerMillion(p.in, p.out)
		} else if cfg.Prices.Known() {
			m.Price = eval.PerMillion(cfg.Prices.In, cfg.Prices.Out)
		}
		if m.Price == nil && o.maxCost != "" {
			return nil, fmt.Errorf("--max-cost is given, and no price of %s: expected --price %[1]s=IN/OUT", plainLine(name, 100))
		}
		out = append(out, m)
	}
	return out, nil
}

// endpoint is where a model is asked: in a file of models the endpoint of that name, or with that model at the usual tier;
// else the endpoint of the settings, whose price is that of its own model, or of the only one if it names none.
func (o *evalOptions) endpoint(name string, only bool) (vision.OpenAIConfig, error) {
	if o.Vision.BaseURL != "" {
		cfg := o.Models[0].OpenAIConfig
		if cfg.Model != name && !(cfg.Model == "" && only) {
			cfg.Prices = vision.Prices{}
		}
		cfg.Model = name
		return cfg, nil
	}
	var known []string
	for _, e := range o.Models {
		if e.Name == name {
			return e.OpenAIConfig, e.NoKey
		}
		known = append(known, e.Name)
	}
	for _, e := range o.Models {
		if e.Model == name && !e.Cheap {
			return e.OpenAIConfig, e.NoKey
		}
	}
	return vision.OpenAIConfig{}, fmt.Errorf("--model %s: no endpoint has that name or model: expected one of %s", plainLine(name, 100), strings.Join(known, ", "))
}

// endpointName says who is asked: the host, the model and the tier.
func endpointName(cfg vision.OpenAIConfig) string {
	host := "?"
	if u, err := url.Parse(cfg.BaseURL); err == nil {
		host = u.Host
	}
	return strings.TrimSpace(host + " " + cfg.Model + " " + cfg.Tier)
}

// canon is a label as the schema has it.
func (o *evalOptions) canon(label string) (string, error) {
	doc, err := json.Marshal(map[string]string{o.field: label})
	if err != nil {
		return "", err
	}
	fitted, err := o.prompt.Schema.FitSome(doc)
	if err != nil {
		return "", err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(fitted.Fields, &all); err != nil {
		return "", err
	}
	return eval.TextOf(all[o.field]), nil
}

// pictures reads the labels and opens all pictures.
func (o *evalOptions) pictures(ctx context.Context, labels string) (set labelled, err error) {
	var faults eval.Faults
	collect := func(err error) error { // faults are gone on with
		var f eval.Faults
		if errors.As(err, &f) {
			faults = append(faults, f...)
			return nil
		}
		return err
	}
	items, err := eval.ReadLabels(labels, !o.corrections)
	if err = collect(err); err != nil {
		return set, usageError(err)
	}
	if !o.corrections {
		if err := collect(eval.Relabel(items, o.canon)); err != nil {
			return set, err
		}
	}
	hashes := newHashes(o, len(items))
	bar := newCounter(len(items))
	err = o.files().Check(ctx, items, runtime.GOMAXPROCS(0), func(i int, data []byte) error {
		defer bar.add(1)
		return hashes.add(i, data)
	})
	bar.close()
	if err = collect(err); err != nil {
		return set, err
	}
	if o.corrections {
		if err := hashes.corrected(ctx, items); err != nil {
			return set, err
		}
		if err := collect(eval.Relabel(items, o.canon)); err != nil {
			return set, err
		}
	}
	if len(o.judged) > 0 {
		judgements, _, err := eval.ReadJudgements(o.judged...)
		if err = collect(err); err != nil {
			return set, usageError(fmt.Errorf("--judged: %w", err))
		}
		spread, judged, err := o.files().Spread(ctx, items, judgements, folderOf(labels), runtime.GOMAXPROCS(0))
		if err = collect(err); err != nil {
			return set, err
		}
		items, set.judged = spread, judged
	}
	all := len(items)
	items = slices.DeleteFunc(items, func(it eval.Item) bool { return it.Label == "" })
	set.unlabelled = all - len(items)
	set.items, set.copies, err = eval.Distinct(items)
	if err = collect(err); err != nil {
		return set, err
	}
	switch {
	case len(faults) > 0:
		return set, usageError(fmt.Errorf("%s:\n%w\nnothing has been asked", labels, faults))
	case len(set.items) == 0 && o.corrections:
		return set, usageError(fmt.Errorf("%s: none of %s has a correction in the cache: expected some, see onceover cache set --help", labels, count(set.unlabelled, "picture", "pictures")))
	case len(set.items) == 0:
		return set, usageError(fmt.Errorf("%s has no pictures: expected some", labels))
	}
	return set, nil
}

// labelled are the pictures that are asked about.
type labelled struct {
	items              []eval.Item
	copies, unlabelled int
	judged             int // that have the label of one that shows the same
}

// folderOf is the folder of labelled pictures, or of the file that labels them.
func folderOf(labels string) string {
	if info, err := os.Stat(labels); err == nil && info.IsDir() {
		return labels
	}
	return filepath.Dir(labels)
}

func (o *evalOptions) files() eval.Pictures {
	return eval.Pictures{MaxBytes: o.Image.MaxBytes, MaxPixels: o.Tasks.MaxPixels}
}

func (o *evalOptions) run(cmd *cobra.Command, labels string) (err error) {
	ctx := cmd.Context()
	if err := o.checkFiles(labels); err != nil {
		return usageError(err)
	}
	set, err := o.pictures(ctx, labels)
	if err != nil {
		return err
	}
	results, err := eval.OpenResults(o.out, eval.Header{Field: o.field, Confidence: o.confidence, Lang: o.language()}, o.resume)
	if errors.Is(err, eval.ErrResults) {
		return usageError(err)
	}
	if err != nil {
		return usageError(fmt.Errorf("--out: %w", err))
	}
	defer func() { err = errors.Join(err, results.Close()) }()
	for _, m := range o.asked {
		if err := results.CheckModel(m); err != nil {
			return usageError(err)
		}
	}

	runErr := o.ask(ctx, cmd.ErrOrStderr(), set, results)
	unclassified, err := o.canon(o.unclassified)
	if err != nil {
		unclassified = o.unclassified // no value of the list: some model may say it all the same
	}
	rep := eval.Score(eval.Setup{Labels: labels, ResultsFile: o.out, Field: o.field, Confidence: o.confidence, Lang: o.language(), Unclassified: unclassified, Items: set.items,
		Copies: set.copies, Unlabelled: set.unlabelled, Judged: set.judged, Models: o.asked, MaxCost: o.maxMicro, At: time.Now()}, results)
	if err := o.report(cmd.OutOrStdout(), rep); err != nil {
		return errors.Join(runErr, err)
	}
	return o.verdict(ctx, rep, runErr, results.Spent())
}

// checkFiles returns an error if a file that is written would replace another file of the run, or one that it reads, or would
// be taken for a picture by the next one.
func (o *evalOptions) checkFiles(labels string) error {
	taken := map[string]string{}
	for _, f := range []struct{ what, path string }{{"LABELS", labels}, {"--out", o.out}, {"--html", o.html}, {"--calibration", o.calibration}} {
		if f.path == "" {
			continue
		}
		path, err := realPath(f.path)
		if err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
		if other, there := taken[path]; there {
			return fmt.Errorf("%s and %s are both %s: expected two files, as one would replace the other", other, f.what, plainLine(f.path, 200))
		}
		taken[path] = f.what
		if f.what == "LABELS" {
			if info, err := os.Stat(path); err != nil || !info.IsDir() {
				labels = ""
			} else {
				labels = path + string(filepath.Separator)
			}
		} else if labels != "" && strings.HasPrefix(path, labels) {
			return fmt.Errorf("%s %s is in the folder of pictures: expected another folder, as the next run would take it for a picture", f.what, plainLine(f.path, 200))
		}
	}
	for _, name := range o.judged {
		path, err := realPath(name)
		if err != nil {
			return fmt.Errorf("--judged: %w", err)
		}
		if other, there := taken[path]; there {
			return fmt.Errorf("%s and --judged are both %s: expected two files", other, plainLine(name, 200))
		}
	}
	return nil
}

// realPath is a path without links, of a file that may not be there yet.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if at, err := filepath.EvalSymlinks(path); err == nil {
		return at, nil
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path)), nil
	}
	return path, nil // that it cannot be written is said when it is opened
}

// ask runs the evaluation. The first signal lets the calls in flight finish, the second ends them.
func (o *evalOptions) ask(ctx context.Context, out io.Writer, set labelled, results *eval.Results) error {
	calls, end := context.WithCancelCause(context.WithoutCancel(ctx))
	p := newEvalProgress(out, len(set.items)*len(o.asked))
	defer p.close()
	var signals sync.WaitGroup // end with this function
	signals.Go(func() {
		select {
		case <-o.again:
			end(errors.New("interrupted twice"))
		case <-calls.Done():
		}
	})
	signals.Go(func() {
		select {
		case <-ctx.Done():
		case <-calls.Done():
		}
		if ctx.Err() != nil {
			p.say("interrupted: waiting for the calls in flight; once more ends them, and what they cost")
		}
	})
	defer func() { end(nil); signals.Wait() }()
	return eval.Run(ctx, calls, eval.Config{Models: o.asked, Items: set.items, Pictures: o.files(), Results: results, Concurrency: o.parallel,
		MaxCost: o.maxMicro, RetryLost: o.retryLost, Progress: p.show})
}

// report prints and writes what was found. What cannot be written does not keep back the rest.
func (o *evalOptions) report(out io.Writer, rep *eval.Report) error {
	var faults []error
	if o.html != "" {
		err := replaceFile(o.html, func(w io.Writer) error { return rep.HTML(w, o.files().Thumb, o.maxPictures, "onceover "+version) })
		if err != nil {
			faults = append(faults, fmt.Errorf("--html: %w", err))
		}
	}
	if c := rep.Models[0].Calibration; o.calibration != "" && c != nil {
		if err := replaceFile(o.calibration, func(w io.Writer) error { return printJSON(w, c) }); err != nil {
			faults = append(faults, fmt.Errorf("--calibration: %w", err))
		}
	}
	if o.asJSON {
		return errors.Join(append(faults, rep.JSON(out))...)
	}
	if err := rep.Text(out); err != nil {
		return errors.Join(append(faults, err)...)
	}
	if o.html != "" && len(faults) == 0 {
		fmt.Fprintf(out, "\nlook at it: %s\n", o.html)
	}
	return errors.Join(faults...)
}

// verdict is the error of a run that is not complete, or of a model that is not good enough.
func (o *evalOptions) verdict(ctx context.Context, rep *eval.Report, runErr error, spent int64) error {
	done, total, lost := 0, 0, 0
	for _, m := range rep.Models {
		done, total, lost = done+m.N, total+rep.Pictures, lost+m.Lost
	}
	state := fmt.Sprintf("%s of %s have an answer", number(done), count(total, "picture", "pictures"))
	switch {
	case errors.Is(runErr, eval.ErrMaxCost):
		return fmt.Errorf("stopped before --max-cost: %s of %s are spent, or may be, and %s; go on with --resume and a higher --max-cost", usd(spent), usd(o.maxMicro), state)
	case runErr != nil && ctx.Err() != nil:
		return fmt.Errorf("interrupted: %s; go on with --resume", state)
	case runErr != nil:
		return fmt.Errorf("%w; %s; go on with --resume", runErr, state)
	case done < total && lost > 0:
		return fmt.Errorf("%s, and %s lost: --resume asks about the others again, --retry-lost about these too", state, count(lost, "is", "are"))
	case done < total:
		return fmt.Errorf("%s: --resume asks about the others again", state)
	}
	for _, m := range rep.Models {
		if m.Accuracy < o.minAccuracy {
			return fmt.Errorf("accuracy of %s is %.1f %%: expected at least %.1f %%", plainLine(m.Model, 100), 100*m.Accuracy, 100*o.minAccuracy)
		}
	}
	if m := rep.Models[0]; o.calibration != "" && m.Calibration == nil {
		return fmt.Errorf("--calibration is not written: %s", m.CalibrationWhy)
	}
	return nil
}

// replaceFile writes a file, under its name only once it is whole. It is readable for its owner alone.
func replaceFile(name string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err == nil {
			err = os.Rename(file.Name(), name)
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("%s is not written: %w", name, err), os.Remove(file.Name()))
		}
	}()
	return write(file)
}
