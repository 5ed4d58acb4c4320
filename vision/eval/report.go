package eval

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	matrixClasses = 15 // up to which the matrix is shown; beyond, the most frequent pairs are
	pairsShown    = 15
	stepsShown    = 11
)

// JSON writes the report as one line of JSON.
func (rep *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(rep)
}

// Text writes the report for people. Names of classes stand last in their lines, so that their width does not matter.
func (rep *Report) Text(w io.Writer) error {
	var out strings.Builder
	for _, f := range rep.facts() {
		fmt.Fprintln(&out, f)
	}
	fmt.Fprintln(&out)
	table(&out, rep.figures())
	for i := range rep.Models {
		rep.modelText(&out, &rep.Models[i])
	}
	if rep.Comparison != nil {
		rep.comparisonText(&out)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// facts says in words what was looked at.
func (rep *Report) facts() []string {
	out := []string{
		fmt.Sprintf("labels   %s: %s of %s", plain(rep.Labels), count(rep.Pictures, "picture", "pictures"), count(rep.Classes, "class", "classes")),
		fmt.Sprintf("field    %s, answers in %s", plain(rep.Field), plain(rep.Lang)),
		fmt.Sprintf("results  %s", plain(rep.Results)),
	}
	if rep.Copies > 0 {
		out = append(out, fmt.Sprintf("copies   %s left out: the same bytes with the same label", count(rep.Copies, "file", "files")))
	}
	if rep.Unlabelled > 0 {
		out = append(out, fmt.Sprintf("left out %s without a correction in the cache", count(rep.Unlabelled, "picture", "pictures")))
	}
	if rep.Judged > 0 {
		out = append(out, fmt.Sprintf("judged   %s with the label of one that shows the same", count(rep.Judged, "picture", "pictures")))
	}
	return out
}

// figures is the table of the models: a row of names, then one for each figure.
func (rep *Report) figures() [][]string {
	rows := [][]string{{""}}
	for _, m := range rep.Models {
		rows[0] = append(rows[0], plain(m.Model))
	}
	add := func(name string, of func(m *ModelReport) string) {
		row, any := []string{name}, false
		for i := range rep.Models {
			v := of(&rep.Models[i])
			any = any || v != ""
			if v == "" {
				v = "-"
			}
			row = append(row, v)
		}
		if any {
			rows = append(rows, row)
		}
	}
	add("prompt version", func(m *ModelReport) string { return m.PromptVersion })
	add("answered by", func(m *ModelReport) string {
		if len(m.AnsweredBy) == 1 && m.AnsweredBy[0] == m.Model {
			return ""
		}
		return plain(strings.Join(m.AnsweredBy, ", "))
	})
	add("pictures", func(m *ModelReport) string { return strconv.Itoa(m.N) })
	add("without a verdict", func(m *ModelReport) string {
		if m.Missing() == 0 {
			return ""
		}
		return fmt.Sprintf("%d (%d failed, %d lost, %d open)", m.Missing(), m.Failed, m.Lost, m.Open)
	})
	add("accuracy", func(m *ModelReport) string { return percent(m.Accuracy) })
	add("  95 % interval", func(m *ModelReport) string { return percents(m.Wilson) })
	add("macro-F1", func(m *ModelReport) string { return share(m.MacroF1) })
	part := func(n func(m *ModelReport) int) func(m *ModelReport) string {
		return func(m *ModelReport) string {
			return fmt.Sprintf("%s (%d)", percent(float64(n(m))/max(1, float64(m.N))), n(m))
		}
	}
	add("unclassified", part(func(m *ModelReport) int { return m.Unclassified }))
	add("refused", part(func(m *ModelReport) int { return m.Refused }))
	add("broken", part(func(m *ModelReport) int { return m.Broken }))
	add("off the list", func(m *ModelReport) string {
		if m.OffList == 0 {
			return ""
		}
		return part(func(m *ModelReport) int { return m.OffList })(m)
	})
	calibrated := func(of func(m *ModelReport) string) func(m *ModelReport) string {
		return func(m *ModelReport) string {
			if m.WithConfidence == 0 {
				return ""
			}
			return of(m)
		}
	}
	add("ECE", calibrated(func(m *ModelReport) string { return share(m.ECE) }))
	add("  95 % interval", calibrated(func(m *ModelReport) string { return shares(m.ECEInterval) }))
	add("  calibrated, held out", func(m *ModelReport) string {
		if m.Calibration == nil {
			return ""
		}
		return share(m.Calibration.HeldOutECE)
	})
	add("Brier", calibrated(func(m *ModelReport) string { return share(m.Brier) }))
	add("  95 % interval", calibrated(func(m *ModelReport) string { return shares(m.BrierInterval) }))
	priced := func(of func(m *ModelReport) string) func(m *ModelReport) string {
		return func(m *ModelReport) string {
			if !m.Priced {
				return ""
			}
			return of(m)
		}
	}
	add("cost", priced(func(m *ModelReport) string { return Dollars(float64(m.Cost.MicroUSD)) }))
	add("  and in doubt, at most", priced(func(m *ModelReport) string {
		if m.Cost.Uncounted == 0 {
			return ""
		}
		return fmt.Sprintf("%s (%s)", Dollars(float64(m.Cost.AssumedMicroUSD)), count(m.Cost.Uncounted, "call", "calls"))
	}))
	add("  per picture", priced(func(m *ModelReport) string { return dollarsOf(m.CostPerPicture) }))
	add("  per correct picture", priced(func(m *ModelReport) string { return dollarsOf(m.CostPerRight) }))
	add("tokens in", func(m *ModelReport) string { return grouped(m.Cost.PromptTokens) })
	add("tokens out", func(m *ModelReport) string { return grouped(m.Cost.CompletionTokens) })
	add("latency p50", func(m *ModelReport) string { return ms(m.P50) })
	add("latency p95", func(m *ModelReport) string { return ms(m.P95) })
	return rows
}

// table writes rows in columns, the first of which is of names.
func table(out *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 {
				line.WriteString(cell + pad)
			} else {
				line.WriteString("   " + pad + cell)
			}
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
	}
}

func (rep *Report) modelText(out *strings.Builder, m *ModelReport) {
	if m.N == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s, per class\n", plain(m.Model))
	fmt.Fprintln(out, "    N  PRECISION  RECALL     F1  CLASS")
	classes, more := m.classes()
	for _, c := range classes {
		fmt.Fprintf(out, "%5d  %9s  %6s  %5s  %s\n", c.N, shareOf(c.Precision), shareOf(c.Recall), share(c.F1), plain(c.Name))
	}
	if more > 0 {
		fmt.Fprintf(out, "       and %s no label\n", count(more, "more answer that is", "more answers that are"))
	}
	if len(m.Matrix.Classes) <= matrixClasses {
		fmt.Fprintf(out, "\n%s, label by answer\n", plain(m.Model))
		for i := range m.Matrix.Classes {
			fmt.Fprintf(out, "%5s", "#"+strconv.Itoa(i+1))
		}
		fmt.Fprintln(out)
		for i, row := range m.Matrix.Counts {
			for _, n := range row {
				cell := "."
				if n > 0 {
					cell = strconv.Itoa(n)
				}
				fmt.Fprintf(out, "%5s", cell)
			}
			fmt.Fprintf(out, "  #%d %s\n", i+1, plain(m.Matrix.Classes[i]))
		}
	} else if len(m.Confused) > 0 {
		fmt.Fprintf(out, "\n%s, what is taken for what\n", plain(m.Model))
		for _, p := range m.Confused[:min(len(m.Confused), pairsShown)] {
			fmt.Fprintf(out, "%5d  %s: %s\n", p.N, plain(p.Label), plain(p.Answer))
		}
		if more := len(m.Confused) - pairsShown; more > 0 {
			fmt.Fprintf(out, "       and %s\n", count(more, "more pair", "more pairs"))
		}
	}
	if m.WithConfidence > 0 {
		fmt.Fprintf(out, "\n%s, stated confidence and how many are right\n", plain(m.Model))
		fmt.Fprintln(out, "CONFIDENCE       N    MEAN   RIGHT")
		for _, b := range m.Reliability {
			if b.N > 0 {
				fmt.Fprintf(out, "%.2f – %.2f  %6d  %6s  %6s\n", b.Low, b.High, b.N, share(b.Confidence), share(b.Accuracy))
			}
		}
	}
	if m.CalibrationWhy != "" {
		fmt.Fprintf(out, "%s\n", plain(m.CalibrationWhy))
	}
}

// classes are those that are shown: all labels, and the first of the answers that are none. A field of free text has many.
func (m *ModelReport) classes() (shown []Class, more int) {
	n := min(len(m.PerClass), m.Matrix.Labels+pairsShown)
	return m.PerClass[:n], len(m.PerClass) - n
}

func (rep *Report) comparisonText(out *strings.Builder) {
	a, b, c := plain(rep.Models[0].Model), plain(rep.Models[1].Model), rep.Comparison
	fmt.Fprintf(out, "\n%s and %s, about %s\n", a, b, count(c.N, "picture", "pictures"))
	if c.N == 0 {
		return
	}
	fmt.Fprintf(out, "both right %d, only %s %d, only %s %d, neither %d\n", c.BothRight, a, c.OnlyFirst, b, c.OnlySecond, c.Neither)
	d := c.Improvement
	fmt.Fprintf(out, "accuracy of %s less that of %s: %s points (95 %%: %s to %s); exact McNemar p = %s\n", b, a, points(d.Mean), points(d.Low), points(d.High), pValue(c.McNemar))
	priced := rep.Models[0].Priced && rep.Models[1].Priced
	fmt.Fprintf(out, "\n%s asked where %s is less sure\n", b, a)
	table(out, rep.steps(priced))
}

// steps is the table of the cascade, with a row for each model alone.
func (rep *Report) steps(priced bool) [][]string {
	rows := [][]string{{"BOUND", "CALIBRATED", "ASKED", "ACCURACY", "95 % INTERVAL", "COST PER PICTURE"}}
	for _, s := range Thin(rep.Cascade, stepsShown) {
		rows = append(rows, s.cells(priced))
	}
	for i := range rep.Models {
		rows = append(rows, rep.alone(i).cells(priced))
	}
	return rows
}

// alone is one of two models by itself, over the pictures that both have a verdict about.
func (rep *Report) alone(i int) aloneStep {
	s := aloneStep{name: plain(rep.Models[i].Model) + " alone"}
	for _, r := range rep.rows {
		if r.verdicts[0].Outcome.verdict() && r.verdicts[1].Outcome.verdict() {
			s.N++
			s.Right += hits(r.right(i))
			s.CostPerPicture += float64(costOf(r.verdicts[i]))
		}
	}
	s.Accuracy, s.Interval = float64(s.Right)/max(1, float64(s.N)), Wilson(s.Right, s.N)
	s.CostPerPicture /= max(1, float64(s.N))
	return s
}

type aloneStep struct {
	name string
	Step
}

func (s aloneStep) cells(priced bool) []string {
	c := s.Step.cells(priced)
	c[0], c[1], c[2] = s.name, "", ""
	return c
}

// cells is a step as a row of a table.
func (s Step) cells(priced bool) []string {
	bound, calibrated, cost := "always", "-", "-"
	if s.Bound <= 1 {
		bound = boundIn(s.after, s.Bound)
	}
	if s.Calibrated != nil {
		calibrated = boundIn(s.afterCalibrated, *s.Calibrated)
	}
	if priced {
		cost = Dollars(s.CostPerPicture)
	}
	return []string{bound, calibrated, percent(float64(s.Asked) / float64(s.N)), percent(s.Accuracy), percents(s.Interval), cost}
}
