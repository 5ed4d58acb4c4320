package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"onceover/internal/page"
)

var update = flag.Bool("update", false, "write the golden reports")

// report scores the answers of a fixture, as two models or one.
func (tab fixture) report(t *testing.T, models int, priced bool) *Report {
	t.Helper()
	r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
	s := Setup{Labels: "labels.csv", ResultsFile: "eval.jsonl", Field: "category", Lang: "en", Unclassified: "something else",
		Copies: 2, At: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	for i, name := range []string{"cheap-1", "dear-1"}[:models] {
		s.Models = append(s.Models, fakeModel(name, nil))
		if priced {
			s.Models[i].Price = PerMillion(1, 1)
		}
	}
	for i, row := range tab.rows() {
		it := Item{ID: fmt.Sprintf("%04d.png", i), Label: row.item.Label, Digest: fmt.Sprintf("%064x", i)}
		s.Items = append(s.Items, it)
		for m := range s.Models {
			if i == 3 && m == 0 {
				continue // not asked about
			}
			v := row.verdicts[m]
			v.ID, v.Digest, v.Model, v.PromptVersion, v.AnsweredBy, v.Type = it.ID, it.Digest, s.Models[m].Name, testPrompt, s.Models[m].Name, typeVerdict
			v.PromptTokens, v.CompletionTokens, v.Paid = 1000, 100, 1
			switch i {
			case 5:
				v.Outcome, v.Error, v.Uncounted, v.ReservedMicroUSD = Lost, "time-out", 1, 400
			case 6:
				v.Outcome, v.Error = Failed, "HTTP 503"
			case 7:
				v.AnsweredBy = "other-2026"
			}
			if !priced {
				v.CostMicroUSD = nil
			}
			r.take(v)
		}
	}
	return Score(s, r)
}

func TestText(t *testing.T) {
	t.Parallel()
	all := tables(t)
	for name, rep := range map[string]*Report{
		"two-models": all["table-odd.json"].report(t, 2, true),
		"one-model":  all["table-plain.json"].report(t, 1, false),
		"few":        all["table-small.json"].report(t, 2, false),
		"korean":     all["table-korean.json"].report(t, 2, true),
	} {
		var got bytes.Buffer
		if err := rep.Text(&got); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", "report-"+name+".txt")
		if *update {
			write(t, path, got.String())
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for line := range strings.Lines(got.String()) {
			if n := len([]rune(line)); n > 110 {
				t.Errorf("%s: a line of %d characters: %s", name, n, line)
			}
		}
	}
}

// TestJSON reads the report as a script does.
func TestJSON(t *testing.T) {
	t.Parallel()
	rep := tables(t)["table-plain.json"].report(t, 2, true)
	var out bytes.Buffer
	if err := rep.JSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Pictures int
		Models   []struct {
			N        int
			Accuracy float64
			Wilson   Interval `json:"accuracy_interval"`
			MacroF1  float64  `json:"macro_f1"`
			PerClass []Class  `json:"per_class"`
			ECE      float64
			Failed   int
			Lost     int
			Open     int
			Cost     Cost
			PerRight float64 `json:"cost_per_right_microusd"`
			P95      float64 `json:"p95_ms"`
		}
		Comparison struct {
			N       int
			McNemar float64 `json:"mcnemar_p"`
		}
		Cascade []map[string]any
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	a := got.Models[0]
	if got.Pictures != 250 || a.N != 247 || a.Failed != 1 || a.Lost != 1 || a.Open != 1 || got.Models[1].N != 248 || got.Comparison.N != 247 {
		t.Errorf("got %+v", got)
	}
	if a.Accuracy != rep.Models[0].Accuracy || a.PerRight != *rep.Models[0].CostPerRight || a.Cost.AssumedMicroUSD <= 0 || len(a.PerClass) != 3 || len(got.Cascade) < 10 {
		t.Errorf("got %+v", a)
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Error("the report is not one line")
	}
}

// TestHTML writes a page about models, labels and files with names of another kind.
func TestHTML(t *testing.T) {
	t.Parallel()
	rep := tables(t)["table-small.json"].report(t, 2, true)
	evil := `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	rep.Labels, rep.Models[0].Model = "</title>"+evil, evil
	for i := range rep.rows {
		rep.rows[i].item.ID, rep.rows[i].item.Label = evil, evil
		for m := range rep.rows[i].verdicts {
			rep.rows[i].verdicts[m].Answer, rep.rows[i].verdicts[m].Error = "other "+evil, evil
		}
	}
	rep.Models[0].PerClass[0].Name, rep.Models[0].Matrix.Classes[0], rep.Models[0].CalibrationWhy = evil, evil, evil
	var drawn atomic.Int64
	thumb := func(it Item) page.Thumb {
		drawn.Add(1)
		if it.Digest != rep.rows[0].item.Digest {
			return page.Thumb{}
		}
		return page.Thumb{Data: "data:image/jpeg;base64,AAAA", Width: 10, Height: 20}
	}
	var out bytes.Buffer
	if err := rep.HTML(&out, thumb, 12, "onceover "+evil); err != nil {
		t.Fatal(err)
	}
	if got := drawn.Load(); got != 12 {
		t.Errorf("%d pictures were drawn, want the 12 that are shown", got)
	}
	doc := out.String()
	for _, bad := range []string{"<script", "<img src=x", "ZgotmplZ", "http://", "https://", "style=", " src=\"/", "url("} {
		if strings.Contains(doc, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	for text, want := range map[string]int{`<img src="data:image/jpeg;base64,`: 1, "no picture": 11, "default-src &#39;none&#39;": 1, "<polyline": 1, "<circle": 2, `class="frame"`: 12, "always": 1, `<td class="hit h`: 4, `<td class="miss h`: 4} {
		if got := strings.Count(doc, text); got != want {
			t.Errorf("the page contains %q %d times, want %d", text, got, want)
		}
	}
	// What failed, is lost or was not asked about is not called wrong.
	out.Reset()
	if err := rep.HTML(&out, thumb, 1000, "onceover"); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{`<li class="soft">– lost: `: 2, `<li class="soft">– failed: `: 2, `<li class="soft">– not asked`: 1, `<li class="wrong">✗ `: 59} {
		if got := strings.Count(out.String(), text); got != want {
			t.Errorf("the page contains %q %d times, want %d", text, got, want)
		}
	}
	// With many classes the pairs are listed, and a page about nothing is a page.
	out.Reset()
	if err := tables(t)["table-odd.json"].report(t, 1, false).HTML(&out, nil, 0, "onceover"); err != nil {
		t.Fatal(err)
	}
	if doc := out.String(); !strings.Contains(doc, "What is taken for what") || !strings.Contains(doc, "more pairs") || strings.Contains(doc, `class="frame"`) {
		t.Error("the page of many classes has no pairs, or pictures")
	}
	out.Reset()
	empty := Score(Setup{Models: []Model{fakeModel("m", nil), fakeModel("n", nil)}, At: time.Unix(0, 0)}, openResults(t, filepath.Join(t.TempDir(), "r"), false))
	if err := empty.HTML(&out, nil, 10, "onceover"); err != nil {
		t.Fatal(err)
	}
	if err := empty.Text(&out); err != nil || strings.Contains(out.String(), "NaN") {
		t.Errorf("got %v, %s", err, out.String())
	}
}

// TestFreeText: a field of free text has as many answers as pictures, of which not all are listed.
func TestFreeText(t *testing.T) {
	t.Parallel()
	tab := tables(t)["table-plain.json"]
	for i := range tab.Columns.A {
		tab.Columns.A[i] = fmt.Sprintf("answer %03d", i)
	}
	rep := tab.report(t, 1, false)
	var text, doc bytes.Buffer
	if err := errors.Join(rep.Text(&text), rep.HTML(&doc, nil, 0, "onceover")); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("and %d more answers that are no label", rep.Models[0].N-pairsShown)
	if !strings.Contains(text.String(), want) || !strings.Contains(doc.String(), want) || strings.Count(text.String(), "\n") > 100 {
		t.Errorf("got %d lines without %q", strings.Count(text.String(), "\n"), want)
	}
}

func TestDollars(t *testing.T) {
	t.Parallel()
	for micro, want := range map[float64]string{0: "0.00 USD", -1500: "-0.00150 USD", 0.5: "0.000000500 USD", 1: "0.00000100 USD", 123.4: "0.000123 USD", 2000: "0.00200 USD", 99_999: "0.1000 USD", 100_000: "0.10 USD", 12_345_678: "12.35 USD"} {
		if got := Dollars(micro); got != want {
			t.Errorf("%v: got %s, want %s", micro, got, want)
		}
	}
	if got := plain("a\x1b[2J\n\u202eb\u200fc"); got != "a [2J  b c" {
		t.Errorf("got %q", got)
	}
}

// TestCascadeIsTheWorkers counts a picture as vision.Chain would: see its TestCascade.
func TestCascadeIsTheWorkers(t *testing.T) {
	t.Parallel()
	cost, half := int64(100), 0.5
	sure := func(answer string, paid int) Verdict {
		return Verdict{Outcome: Answered, Answer: answer, Confidence: &half, Paid: paid, CostMicroUSD: &cost}
	}
	none := func(o Outcome, paid int) Verdict { return Verdict{Outcome: o, Paid: paid, CostMicroUSD: &cost} }
	for name, tt := range map[string]struct {
		first, second Verdict
		asked, right  int
		cost          float64
	}{
		"not sure":               {sure("paper", 1), sure("glass", 1), 1, 1, 200},
		"the first is refused":   {none(Refused, 1), sure("glass", 1), 0, 0, 100},
		"the first is broken":    {none(Broken, 2), sure("glass", 1), 0, 0, 100},
		"the first is repaired":  {sure("paper", 2), sure("glass", 1), 0, 0, 100},
		"the second is refused":  {sure("glass", 1), none(Refused, 1), 1, 1, 200},
		"the second is broken":   {sure("glass", 1), none(Broken, 2), 1, 1, 150},
		"the second is repaired": {sure("paper", 1), sure("glass", 2), 1, 0, 150},
		"the first says nothing": {Verdict{Outcome: Answered, Answer: "paper", Paid: 1, CostMicroUSD: &cost}, sure("glass", 1), 1, 1, 200},
		"the second is wrong":    {sure("glass", 1), sure("paper", 1), 1, 0, 200},
	} {
		rep := &Report{Models: make([]ModelReport, 2), rows: []row{{Item{Label: "glass"}, []Verdict{tt.first, tt.second}}}}
		rep.compare()
		got := rep.Cascade[len(rep.Cascade)-1]
		if got.N != 1 || got.Asked != tt.asked || got.Right != tt.right || got.CostPerPicture != tt.cost {
			t.Errorf("%s: got %+v, want %d asked, %d right for %v", name, got, tt.asked, tt.right, tt.cost)
		}
	}
}

// TestCalibrationNamesTheModel that was asked, and not the endpoint, as the workers compare it with the model's name.
func TestCalibrationNamesTheModel(t *testing.T) {
	t.Parallel()
	m := fakeModel("near", nil)
	m.As = "small"
	rep := scoreModel(Setup{Field: "category", Confidence: "sure"}, tables(t)["table-plain.json"].rows(), 0, m, Cost{})
	if c := rep.Calibration; c == nil || c.Model != "small" || c.Confidence != "sure" || rep.Model != "near" {
		t.Errorf("got %+v of %s", c, rep.Model)
	}
}

// TestManyClasses: the square of 20,000 different answers would take 3.2 GB. The figures are the same without it.
func TestManyClasses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{denseClasses - 1, denseClasses, 20_000} { // different answers, beside one label
		var labels, answers []string
		for i := range n {
			labels, answers = append(labels, "glass", "glass"), append(answers, "glass", fmt.Sprintf("a glass %05d", i))
		}
		m := Confusion(labels, answers)
		if dense := n < denseClasses; (m.Counts != nil) != dense {
			t.Fatalf("%d answers: got %d rows of counts, want them: %v", n, len(m.Counts), dense)
		}
		right, all := m.Right()
		confused, classes := m.Confused(), m.PerClass()
		if right != n || all != 2*n || len(confused) != n || confused[0] != (Pair{"glass", "a glass 00000", 1}) || confused[n-1].Answer != fmt.Sprintf("a glass %05d", n-1) {
			t.Errorf("%d answers: got %d of %d right, %d pairs", n, right, all, len(confused))
		}
		if c := classes[0]; len(classes) != n+1 || c.N != 2*n || c.Answered != n || c.Right != n || *c.Recall != 0.5 || *c.Precision != 1 || classes[n].Answered != 1 || m.MacroF1() != c.F1 {
			t.Errorf("%d answers: got %+v and %+v", n, c, classes[n])
		}
	}
}

// TestBoundIn: a bound that is copied from the report into the file of models makes the cascade of its line.
func TestBoundIn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		low, high float64
		want      string
	}{
		{-1, 0, "0.000"},
		{0.8, 0.85, "0.850"},
		{0.6, 0.6579, "0.657"}, // 0.658 would ask about those of 0.6579 too
		{0.6571, 0.6579, "0.6579"},
		{0.12341, 0.12349, "0.12349"},
		{0.12339, 0.12349, "0.1234"},
		{0.99, 1, "1.000"},
		{0, 0.0004, "0.0004"},
		{0.5, math.Nextafter(0.5, 1), "0.5000000000000001"},
	} {
		if got := boundIn(tt.low, tt.high); got != tt.want {
			t.Errorf("(%v, %v]: got %s, want %s", tt.low, tt.high, got, tt.want)
		}
	}
	for name, tab := range tables(t) {
		rep := tab.report(t, 2, true)
		sures := []func(float64) float64{func(c float64) float64 { return c }}
		if cal := rep.Models[0].Calibration; cal != nil {
			sures = append(sures, cal.Apply)
		}
		for _, step := range rep.Cascade {
			if step.Bound > 1 {
				continue
			}
			cells := step.cells(true)
			for i, sure := range sures {
				bound, err := strconv.ParseFloat(cells[i], 64)
				if err != nil {
					t.Fatal(err)
				}
				asked := 0
				for _, r := range rep.rows {
					if a := askedOf(r); r.verdicts[0].Outcome.verdict() && r.verdicts[1].Outcome.verdict() && !a.Never && (a.Confidence < 0 || sure(a.Confidence) < bound) {
						asked++
					}
				}
				if asked != step.Asked {
					t.Errorf("%s: bound %s asks about %d pictures, want %d", name, cells[i], asked, step.Asked)
				}
			}
		}
	}
}
