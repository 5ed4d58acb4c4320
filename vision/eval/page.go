package eval

import (
	_ "embed" // the page
	"fmt"
	"io"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"onceover/internal/page"
)

var (
	//go:embed report.html
	pageText string
	//go:embed report.css
	pageStyle string

	reportPage = page.New(pageText, pageStyle, "")
)

// pageData is what the template shows.
type pageData struct {
	Report     *Report
	Facts      []string
	Figures    [][]string
	Models     []pageModel
	Comparison []string
	Steps      [][]string
	Curve      *curve
	Wrong      []pageRow
	WrongAll   int
}

type pageModel struct {
	*ModelReport
	Number      int
	Classes     [][]string
	MoreClasses int        // answers that are no label and are not shown
	Matrix      []pageLine // nil if there are too many classes
	Pairs       []Pair
	More        int // pairs that are not shown
	Bins        []pageBin
}

// pageLine is a line of the matrix.
type pageLine struct {
	Number int
	Name   string
	Cells  []pageCell
}

type pageCell struct {
	N    int
	Heat string // the name of a style: h0 to h9 by the share of the line
	Hit  bool
}

type pageBin struct {
	Range, Mean, Right string
	N                  int
	Accuracy           float64
}

// pageRow is a picture that a model was wrong about, or that has no verdict.
type pageRow struct {
	page.Picture
	Label   string
	Answers []pageAnswer
}

type pageAnswer struct {
	Model, Text string
	Class, Mark string // by whether it is right; neither where there is no verdict
}

// HTML writes the report as one page that loads nothing and needs no script, with small copies of at most most of the
// pictures that a model was wrong about, or that have no verdict: those with the surest wrong answers first. They are drawn
// by thumb, which is called from several goroutines. The page is as private as the pictures. program names who made it.
func (rep *Report) HTML(w io.Writer, thumb func(Item) page.Thumb, most int, program string) error {
	p := pageData{Report: rep, Facts: rep.facts(), Figures: rep.figures()}
	for i := range rep.Models {
		p.Models = append(p.Models, pageOf(i, &rep.Models[i]))
	}
	if c := rep.Comparison; c != nil && c.N > 0 {
		a, b := rep.Models[0].Model, rep.Models[1].Model
		p.Comparison = []string{
			fmt.Sprintf("Both right: %d. Only %s: %d. Only %s: %d. Neither: %d.", c.BothRight, a, c.OnlyFirst, b, c.OnlySecond, c.Neither),
			fmt.Sprintf("Accuracy of %s less that of %s: %s points (95 %%: %s to %s).", b, a, points(c.Improvement.Mean), points(c.Improvement.Low), points(c.Improvement.High)),
			fmt.Sprintf("Exact McNemar p = %s.", pValue(c.McNemar)),
		}
		priced := rep.Models[0].Priced && rep.Models[1].Priced
		p.Steps = rep.steps(priced)
		p.Curve = rep.curve(priced)
	}
	wrong := rep.wrong()
	p.WrongAll = len(wrong)
	p.Wrong = make([]pageRow, min(len(wrong), most))
	var draw errgroup.Group
	draw.SetLimit(runtime.GOMAXPROCS(0))
	for n := range p.Wrong {
		r, out := wrong[n], &p.Wrong[n]
		out.Name, out.Label = r.item.ID, r.item.Label
		for i, v := range r.verdicts {
			mark := [2]string{"wrong", "✗"}
			switch {
			case r.right(i):
				mark = [2]string{"right", "✓"}
			case !v.Outcome.verdict():
				mark = [2]string{"soft", "–"}
			}
			out.Answers = append(out.Answers, pageAnswer{rep.Models[i].Model, says(v), mark[0], mark[1]})
		}
		draw.Go(func() error { out.Thumb = thumb(r.item); return nil })
	}
	_ = draw.Wait() // nil
	return reportPage.Write(w, p, program, rep.At)
}

// says is a verdict in words.
func says(v Verdict) string {
	switch v.Outcome {
	case "":
		return "not asked"
	case Answered:
		if v.Confidence == nil {
			return v.Answer
		}
		return fmt.Sprintf("%s, %.2f", v.Answer, *v.Confidence)
	}
	return fmt.Sprintf("%s: %s", v.Outcome, v.Error)
}

func pageOf(i int, m *ModelReport) pageModel {
	out := pageModel{ModelReport: m, Number: i + 1}
	classes, more := m.classes()
	out.MoreClasses = more
	for _, c := range classes {
		out.Classes = append(out.Classes, []string{c.Name, fmt.Sprint(c.N), shareOf(c.Precision), shareOf(c.Recall), share(c.F1)})
	}
	if len(m.Matrix.Classes) <= matrixClasses {
		for i, row := range m.Matrix.Counts {
			line := pageLine{Number: i + 1, Name: m.Matrix.Classes[i]}
			sum := 0
			for _, n := range row {
				sum += n
			}
			for j, n := range row {
				line.Cells = append(line.Cells, pageCell{n, fmt.Sprintf("h%d", min(9, 10*n/max(1, sum))), i == j})
			}
			out.Matrix = append(out.Matrix, line)
		}
	} else {
		out.Pairs = m.Confused[:min(len(m.Confused), pairsShown)]
		out.More = len(m.Confused) - len(out.Pairs)
	}
	for _, b := range m.Reliability {
		if b.N > 0 {
			out.Bins = append(out.Bins, pageBin{fmt.Sprintf("%.2f – %.2f", b.Low, b.High), share(b.Confidence), share(b.Accuracy), b.N, b.Accuracy})
		}
	}
	return out
}

// curve is the cascade drawn: accuracy over the cost of a picture or, without prices, over the share of pictures that the
// second model is asked about.
type curve struct {
	Line                   string // the points of an SVG polyline
	Alone                  []dot  // the two models by themselves
	Left, Right, Low, High string
	Under                  string // what the x axis is
}

type dot struct {
	X, Y float64
	Name string
}

const (
	curveWidth, curveHeight = 480, 240
	curveMargin             = 12
)

func (rep *Report) curve(priced bool) *curve {
	at := func(s Step) float64 {
		if priced {
			return s.CostPerPicture
		}
		return float64(s.Asked) / float64(s.N)
	}
	steps := append([]Step{}, rep.Cascade...)
	for i := range rep.Models {
		s := rep.alone(i).Step
		s.Asked = i * s.N
		steps = append(steps, s)
	}
	left, right, low, high := at(steps[0]), at(steps[0]), steps[0].Accuracy, steps[0].Accuracy
	for _, s := range steps {
		left, right, low, high = min(left, at(s)), max(right, at(s)), min(low, s.Accuracy), max(high, s.Accuracy)
	}
	scale := func(v, from, to float64, length int) float64 {
		if to == from {
			return float64(length) / 2
		}
		return curveMargin + (v-from)/(to-from)*float64(length-2*curveMargin)
	}
	x := func(s Step) float64 { return scale(at(s), left, right, curveWidth) }
	y := func(s Step) float64 { return curveHeight - scale(s.Accuracy, low, high, curveHeight) }
	c := &curve{Low: percent(low), High: percent(high), Left: percent(left), Right: percent(right), Under: "pictures that the second model is asked about"}
	if priced {
		c.Left, c.Right, c.Under = Dollars(left), Dollars(right), "cost per picture"
	}
	var line strings.Builder
	for _, s := range rep.Cascade {
		fmt.Fprintf(&line, "%.1f,%.1f ", x(s), y(s))
	}
	c.Line = strings.TrimSpace(line.String())
	for i, s := range steps[len(rep.Cascade):] {
		c.Alone = append(c.Alone, dot{x(s), y(s), rep.Models[i].Model + " alone"})
	}
	return c
}
