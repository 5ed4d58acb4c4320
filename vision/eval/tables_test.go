package eval

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// fixture is what testdata/make_tables.py writes: answers, and what scikit-learn, statsmodels and NumPy make of them.
type fixture struct {
	Columns struct {
		Gold        []string
		A, B        []string
		ConfidenceA []*float64 `json:"confidence_a"`
		ConfidenceB []*float64 `json:"confidence_b"`
		MSA         []float64  `json:"ms_a"`
		MSB         []float64  `json:"ms_b"`
		CostA       []int64    `json:"cost_a"`
		CostB       []int64    `json:"cost_b"`
	}
	Models []struct {
		Accuracy         float64
		Wilson           [2]float64
		MacroF1          float64 `json:"macro_f1"`
		Classes          []string
		Precision        []*float64
		Recall           []*float64
		F1               []float64
		N                []int
		Matrix           [][]int
		Points           int
		ECE, Brier       float64
		ECEInterval      [2]float64 `json:"ece_interval"`
		BrierInterval    [2]float64 `json:"brier_interval"`
		ReliabilityRight []float64  `json:"reliability_right"`
		ReliabilityMean  []float64  `json:"reliability_mean"`
		P50, P95         float64
		Platt            *[2]float64
		ApplyAt          []float64 `json:"apply_at"`
		Apply            []float64
		ECEHeldOut       float64 `json:"ece_held_out"`
	}
	Pairs      [2][2]int
	McNemar    float64
	Difference [3]float64
	Cascade    []struct {
		Bound, Accuracy, Cost float64
		Asked                 int
	}
}

// tables are the five fixtures by name.
func tables(t *testing.T) map[string]fixture {
	t.Helper()
	names, err := filepath.Glob("testdata/table-*.json")
	if err != nil || len(names) != 5 {
		t.Fatalf("got %d tables, %v, want 5", len(names), err)
	}
	out := map[string]fixture{}
	for _, name := range names {
		doc, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var tab fixture
		if err := json.Unmarshal(doc, &tab); err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(name)] = tab
	}
	return out
}

// rows makes of a fixture what a results file would hold.
func (tab fixture) rows() []row {
	var out []row
	for i, gold := range tab.Columns.Gold {
		r := row{item: Item{Label: gold}}
		for m := range 2 {
			answers, confidence, ms, cost := tab.Columns.A, tab.Columns.ConfidenceA, tab.Columns.MSA, tab.Columns.CostA
			if m == 1 {
				answers, confidence, ms, cost = tab.Columns.B, tab.Columns.ConfidenceB, tab.Columns.MSB, tab.Columns.CostB
			}
			v := Verdict{Outcome: Answered, Answer: answers[i], Confidence: confidence[i], MS: ms[i], CostMicroUSD: &cost[i]}
			switch answers[i] {
			case answerRefused:
				v.Outcome, v.Answer, v.Confidence = Refused, "", nil
			case answerBroken:
				v.Outcome, v.Answer, v.Confidence = Broken, "", nil
			}
			r.verdicts = append(r.verdicts, v)
		}
		out = append(out, r)
	}
	return out
}

// TestTables compares every figure of the report with what the Python libraries say, to 1e-9.
func TestTables(t *testing.T) {
	t.Parallel()
	for name, tab := range tables(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := checker{t}
			rep := &Report{rows: tab.rows()}
			for i, want := range tab.Models {
				m := scoreModel(Setup{Field: "category"}, rep.rows, i, fakeModel("m", nil), Cost{})
				rep.Models = append(rep.Models, m)
				c.near("accuracy", m.Accuracy, want.Accuracy)
				c.interval("Wilson", m.Wilson, want.Wilson)
				c.near("macro-F1", m.MacroF1, want.MacroF1)
				c.near("ECE", m.ECE, want.ECE)
				c.near("Brier", m.Brier, want.Brier)
				c.interval("ECE", m.ECEInterval, want.ECEInterval)
				c.interval("Brier", m.BrierInterval, want.BrierInterval)
				c.near("p50", m.P50, want.P50)
				c.near("p95", m.P95, want.P95)
				if m.WithConfidence != want.Points {
					t.Errorf("answers with a confidence: got %d, want %d", m.WithConfidence, want.Points)
				}
				if !slices.Equal(m.Matrix.Classes, want.Classes) {
					t.Fatalf("classes: got %v, want %v", m.Matrix.Classes, want.Classes)
				}
				for k, class := range m.PerClass {
					if class.N != want.N[k] || !slices.Equal(m.Matrix.Counts[k], want.Matrix[k]) {
						t.Errorf("%s: got %d of %v, want %d of %v", class.Name, class.N, m.Matrix.Counts[k], want.N[k], want.Matrix[k])
					}
					c.maybe("precision of "+class.Name, class.Precision, want.Precision[k])
					c.maybe("recall of "+class.Name, class.Recall, want.Recall[k])
					c.near("F1 of "+class.Name, class.F1, want.F1[k])
				}
				bins := slices.DeleteFunc(slices.Clone(m.Reliability), func(b Bin) bool { return b.N == 0 })
				if len(bins) != len(want.ReliabilityMean) {
					t.Fatalf("bins: got %d, want %d", len(bins), len(want.ReliabilityMean))
				}
				for k, b := range bins {
					c.near("bin's mean", b.Confidence, want.ReliabilityMean[k])
					c.near("bin's accuracy", b.Accuracy, want.ReliabilityRight[k])
				}
				if want.Platt == nil {
					if m.Calibration != nil {
						t.Errorf("got a calibration of %d answers, want none", m.WithConfidence)
					}
					continue
				}
				if m.Calibration == nil {
					t.Fatalf("got no calibration: %s", m.CalibrationWhy)
				}
				c.near("a", m.Calibration.A, want.Platt[0])
				c.near("b", m.Calibration.B, want.Platt[1])
				for k, at := range want.ApplyAt {
					c.near("calibrated confidence", m.Calibration.Apply(at), want.Apply[k])
				}
				c.near("held-out ECE", m.Calibration.HeldOutECE, want.ECEHeldOut)
			}
			rep.compare()
			got := rep.Comparison
			if pairs := [2][2]int{{got.BothRight, got.OnlyFirst}, {got.OnlySecond, got.Neither}}; pairs != tab.Pairs {
				t.Errorf("pairs: got %v, want %v", pairs, tab.Pairs)
			}
			c.near("McNemar", got.McNemar, tab.McNemar)
			if tab.McNemar > 0 {
				c.near("McNemar, relative", got.McNemar/tab.McNemar, 1)
			}
			c.near("difference", got.Improvement.Mean, tab.Difference[0])
			c.interval("difference", got.Improvement.Interval, [2]float64{tab.Difference[1], tab.Difference[2]})
			if len(rep.Cascade) != len(tab.Cascade) {
				t.Fatalf("cascade: got %d steps, want %d", len(rep.Cascade), len(tab.Cascade))
			}
			for k, s := range rep.Cascade {
				want := tab.Cascade[k]
				if k > 0 { // the first bound is 0, whatever the lowest confidence
					c.near("bound", s.Bound, want.Bound)
				}
				c.near("accuracy of the cascade", s.Accuracy, want.Accuracy)
				c.near("cost of the cascade", s.CostPerPicture, want.Cost)
				if s.Asked != want.Asked {
					t.Errorf("step %d: got %d asked, want %d", k, s.Asked, want.Asked)
				}
			}
		})
	}
}
