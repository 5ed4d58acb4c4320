package eval

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"onceover/vision"
)

// Answers that are none, as the matrix has them.
const (
	answerRefused = "(refused)"
	answerBroken  = "(broken)"
)

// Setup is what a report is of, beside the verdicts.
type Setup struct {
	Labels       string // where the labels come from, for people
	ResultsFile  string
	Field, Lang  string
	Confidence   string // the field that states how sure an answer is
	Unclassified string // the answer that says that the model cannot tell
	Items        []Item // distinct
	Copies       int    // further files of the same bytes
	Unlabelled   int    // pictures without a correction, where labels are corrections
	Judged       int    // pictures whose label is that of one that shows the same, see Spread
	Models       []Model
	MaxCost      int64 // micro-dollars; 0: no limit
	At           time.Time
}

// Report is what an evaluation has found. Its JSON is stable.
type Report struct {
	Labels      string        `json:"labels"`
	Results     string        `json:"results"`
	Field       string        `json:"field"`
	Lang        string        `json:"lang"`
	Pictures    int           `json:"pictures"`
	Classes     int           `json:"classes"`
	Copies      int           `json:"copies"`
	Unlabelled  int           `json:"unlabelled"`
	Judged      int           `json:"judged"`
	MaxMicroUSD int64         `json:"max_microusd,omitempty"`
	Models      []ModelReport `json:"models"`
	Comparison  *Comparison   `json:"comparison"` // nil for one model
	Cascade     []Step        `json:"cascade"`    // the second model asked where the first is less sure; nil for one model
	At          string        `json:"at"`

	rows []row // for the pages with pictures
}

// ModelReport is what was found of one model.
type ModelReport struct {
	Model         string   `json:"model"`
	PromptVersion string   `json:"prompt_version"`
	AnsweredBy    []string `json:"answered_by"`

	N            int      `json:"n"` // pictures with a verdict; the figures below are of these
	Right        int      `json:"right"`
	Accuracy     float64  `json:"accuracy"`
	Wilson       Interval `json:"accuracy_interval"`
	MacroF1      float64  `json:"macro_f1"`
	Unclassified int      `json:"unclassified"`
	Refused      int      `json:"refused"`
	Broken       int      `json:"broken"`
	OffList      int      `json:"off_list"`
	// Pictures without a verdict: nothing came, nothing is known, or they were not asked about.
	Failed int `json:"failed"`
	Lost   int `json:"lost"`
	Open   int `json:"open"`

	PerClass []Class `json:"per_class"`
	Matrix   *Matrix `json:"matrix"`
	Confused []Pair  `json:"confused"`

	WithConfidence int          `json:"with_confidence"` // answers that state one: calibration is of these
	ECE            float64      `json:"ece"`
	ECEInterval    Interval     `json:"ece_interval"`
	Brier          float64      `json:"brier"`
	BrierInterval  Interval     `json:"brier_interval"`
	Reliability    []Bin        `json:"reliability"`
	Calibration    *Calibration `json:"calibration"`      // nil if none can be fitted
	CalibrationWhy string       `json:"calibration_none"` // why there is none

	Priced         bool     `json:"priced"`
	Cost           Cost     `json:"cost"`                      // of all that is in the results file
	CostPerPicture *float64 `json:"cost_per_picture_microusd"` // what the pictures of the report took, by N; nil if there is no price, or no verdict
	CostPerRight   *float64 `json:"cost_per_right_microusd"`

	P50 float64 `json:"p50_ms"` // of the answers
	P95 float64 `json:"p95_ms"`
}

// Missing returns how many pictures have no verdict.
func (m ModelReport) Missing() int { return m.Failed + m.Lost + m.Open }

// Comparison is what two models made of the same pictures.
type Comparison struct {
	N           int        `json:"n"` // pictures with a verdict of both
	BothRight   int        `json:"both_right"`
	OnlyFirst   int        `json:"only_first"`
	OnlySecond  int        `json:"only_second"`
	Neither     int        `json:"neither"`
	McNemar     float64    `json:"mcnemar_p"`  // exact, two-sided
	Improvement Difference `json:"difference"` // accuracy of the second model less that of the first
}

// row is a picture with what each model made of it.
type row struct {
	item     Item
	verdicts []Verdict // by model; the zero value where there is none
}

func (r row) right(model int) bool {
	v := r.verdicts[model]
	return v.Outcome == Answered && v.Answer == r.item.Label
}

// Score makes the report of the verdicts in a results file. A picture counts with the label that it has now.
func Score(s Setup, results *Results) *Report {
	rep := &Report{Labels: s.Labels, Results: s.ResultsFile, Field: s.Field, Lang: s.Lang, Pictures: len(s.Items), Copies: s.Copies,
		Unlabelled: s.Unlabelled, Judged: s.Judged, MaxMicroUSD: s.MaxCost, At: s.At.UTC().Format(time.RFC3339)}
	labels := map[string]bool{}
	for _, it := range s.Items {
		labels[it.Label] = true
		r := row{item: it, verdicts: make([]Verdict, len(s.Models))}
		for i, m := range s.Models {
			r.verdicts[i], _ = results.Verdict(it.Digest, m.Name)
		}
		rep.rows = append(rep.rows, r)
	}
	rep.Classes = len(labels)
	for i, m := range s.Models {
		rep.Models = append(rep.Models, scoreModel(s, rep.rows, i, m, results.Cost(m.Name)))
	}
	if len(s.Models) == 2 {
		rep.compare()
	}
	return rep
}

func scoreModel(s Setup, rows []row, i int, m Model, cost Cost) ModelReport {
	out := ModelReport{Model: m.Name, PromptVersion: m.Analyzer.PromptVersion(m.Lang), AnsweredBy: []string{}, Priced: m.Price != nil, Cost: cost}
	var labels, answers []string
	var points []Point
	var times []float64
	var spent int64 // for these pictures, those without a verdict included
	for _, r := range rows {
		v := r.verdicts[i]
		spent += costOf(v)
		answer := v.Answer
		switch v.Outcome {
		case "":
			out.Open++
			continue
		case Failed:
			out.Failed++
			continue
		case Lost:
			out.Lost++
			continue
		case Refused:
			out.Refused++
			answer = answerRefused
		case Broken:
			out.Broken++
			answer = answerBroken
		case Answered:
			times = append(times, v.MS)
			if v.Confidence != nil {
				points = append(points, Point{*v.Confidence, r.right(i)})
			}
			if v.Answer == s.Unclassified {
				out.Unclassified++
			}
			if v.OffList {
				out.OffList++
			}
			if !slices.Contains(out.AnsweredBy, v.AnsweredBy) {
				out.AnsweredBy = append(out.AnsweredBy, v.AnsweredBy)
			}
		}
		labels, answers = append(labels, r.item.Label), append(answers, answer)
	}
	slices.Sort(out.AnsweredBy)
	out.Matrix = Confusion(labels, answers)
	out.Right, out.N = out.Matrix.Right()
	out.Accuracy = float64(out.Right) / max(1, float64(out.N))
	out.Wilson, out.MacroF1 = Wilson(out.Right, out.N), out.Matrix.MacroF1()
	out.PerClass, out.Confused = out.Matrix.PerClass(), out.Matrix.Confused()
	out.calibrate(s, m, points)
	slices.Sort(times)
	out.P50, out.P95 = Quantile(times, 0.5), Quantile(times, 0.95)
	if out.Priced {
		out.CostPerPicture, out.CostPerRight = perOne(spent, out.N), perOne(spent, out.Right)
	}
	return out
}

func perOne(sum int64, n int) *float64 {
	if n == 0 {
		return nil
	}
	v := float64(sum) / float64(n)
	return &v
}

// calibrate judges the stated confidence.
func (m *ModelReport) calibrate(s Setup, asked Model, points []Point) {
	m.WithConfidence = len(points)
	m.ECE, m.Brier, m.Reliability = ECE(points), Brier(points), Reliability(points)
	m.ECEInterval, m.BrierInterval = Bootstrap(points)
	c, err := Calibrate(asked.asked(), m.PromptVersion, s.Field, points, s.At)
	if errors.Is(err, ErrNoCalibration) {
		m.CalibrationWhy = err.Error()
		return
	}
	c.Confidence = s.Confidence
	m.Calibration = &c
}

// compare judges two models over the pictures that both have a verdict about.
func (rep *Report) compare() {
	c := &Comparison{}
	var differences []float64
	var both []Asked
	for _, r := range rep.rows {
		first, second := r.verdicts[0], r.verdicts[1]
		if !first.Outcome.verdict() || !second.Outcome.verdict() {
			continue
		}
		both = append(both, askedOf(r))
		differences = append(differences, float64(hits(r.right(1))-hits(r.right(0))))
		c.N++
		switch {
		case r.right(0) && r.right(1):
			c.BothRight++
		case r.right(0):
			c.OnlyFirst++
		case r.right(1):
			c.OnlySecond++
		default:
			c.Neither++
		}
	}
	c.McNemar, c.Improvement = McNemar(c.OnlyFirst, c.OnlySecond), PairedDifference(differences)
	rep.Comparison = c
	rep.Cascade = Cascade(both)
	for i, s := range rep.Cascade {
		if cal := rep.Models[0].Calibration; cal != nil && s.Bound <= 1 {
			v := cal.Apply(s.Bound)
			rep.Cascade[i].Calibrated = &v
			if s.after >= 0 {
				rep.Cascade[i].afterCalibrated = cal.Apply(s.after)
			}
		}
	}
}

// askedOf says what vision.Chain would make of a picture.
func askedOf(r row) Asked {
	first, second := r.verdicts[0], r.verdicts[1]
	a := Asked{Confidence: -1, FirstRight: r.right(0), SecondRight: r.right(1), FirstCost: costOf(first), SecondCost: costOf(second)}
	if first.Confidence != nil {
		a.Confidence = *first.Confidence
	}
	left := vision.MaxPaid - first.Paid
	switch {
	case first.Outcome != Answered || left <= 0: // a fault ends the job, and so do the calls that it may pay for
		a.Never = true
	case second.Outcome != Answered || second.Paid > left:
		a.SecondRight = a.FirstRight // the first answer counts after all
		if second.Paid > left {
			a.SecondCost = a.SecondCost * int64(left) / int64(second.Paid)
		}
	}
	return a
}

func costOf(v Verdict) int64 {
	if v.CostMicroUSD == nil {
		return 0
	}
	return *v.CostMicroUSD
}

// wrong returns the pictures that a model was wrong about, or asked about without a verdict: those with the surest wrong
// answer of any model first.
func (rep *Report) wrong() []row {
	var out []row
	for _, r := range rep.rows {
		for i, v := range r.verdicts {
			if v.Outcome != "" && !r.right(i) {
				out = append(out, r)
				break
			}
		}
	}
	slices.SortStableFunc(out, func(a, b row) int {
		return cmp.Or(cmp.Compare(surest(b), surest(a)), cmp.Compare(a.item.ID, b.item.ID))
	})
	return out
}

// surest is the highest confidence of a wrong answer.
func surest(r row) float64 {
	c := -1.0
	for i, v := range r.verdicts {
		if !r.right(i) && v.Confidence != nil {
			c = max(c, *v.Confidence)
		}
	}
	return c
}
