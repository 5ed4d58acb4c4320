package loadtest

import (
	_ "embed" // the page
	"html/template"
	"io"

	"onceover/internal/chart"
	"onceover/internal/page"
)

var (
	//go:embed page.html
	pageText string
	//go:embed page.css
	pageStyle string

	reportPage = page.New(pageText, pageStyle, "")
)

// WriteHTML writes the report as a page of one file, with charts.
func (r *Report) WriteHTML(w io.Writer) error {
	data := struct {
		*Report
		Charts []template.HTML
	}{Report: r}
	for _, c := range r.charts() {
		drawing, err := c.HTML()
		if err != nil {
			return err
		}
		data.Charts = append(data.Charts, drawing)
	}
	return reportPage.Write(w, data, r.Program, r.At.Format("2006-01-02 15:04 MST"))
}

func (r *Report) charts() []chart.Chart {
	over := func(name string, of func(Second) float64) chart.Series {
		s := chart.Series{Name: name}
		for _, sec := range r.Series {
			s.Points = append(s.Points, chart.Point{X: sec.At, Y: of(sec)})
		}
		return s
	}
	quantiles := chart.Chart{Title: "How long jobs took", X: "share of the jobs, %", Y: "seconds", LogY: true}
	for _, row := range r.Kinds {
		s := chart.Series{Name: row.Kind}
		for q, v := range row.Curve {
			s.Points = append(s.Points, chart.Point{X: float64(q), Y: v})
		}
		quantiles.Series = append(quantiles.Series, s)
	}
	return []chart.Chart{
		{Title: "Jobs that ended", X: "seconds", Y: "jobs/s", Series: []chart.Series{over("all", func(s Second) float64 { return s.PerSecond })}},
		{Title: "Jobs that wait or are at work", X: "seconds", Y: "jobs", Series: []chart.Series{over("sent, not ended", func(s Second) float64 { return float64(s.Waiting) })}},
		{Title: "From sent to answered", X: "seconds", Y: "seconds", LogY: true, Series: []chart.Series{
			over("half of the jobs", func(s Second) float64 { return s.P50 }), over("99 of 100", func(s Second) float64 { return s.P99 }),
		}},
		quantiles,
	}
}

// Seconds is called by the template.
func (Row) Seconds(v float64) string { return Time(v) }

// Figure is called by the template.
func (Row) Figure(v float64) string { return Figure(v) }
