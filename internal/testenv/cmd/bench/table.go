package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// table is a part of the report.
type table struct {
	title string
	note  string // above the table
	head  []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// markdown is the table as it is printed, and as it stands in the documentation.
func (t *table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", t.title)
	if t.note != "" {
		fmt.Fprintf(&b, "%s\n\n", t.note)
	}
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	line := func(row []string) {
		for i, cell := range row {
			fmt.Fprintf(&b, "| %-*s ", widths[i], cell)
		}
		b.WriteString("|\n")
	}
	line(t.head)
	for _, w := range widths {
		b.WriteString("|" + strings.Repeat("-", w+2))
	}
	b.WriteString("|\n")
	for _, row := range t.rows {
		line(row)
	}
	return b.String() + "\n"
}

// Marks between which a page has what a run has measured.
const (
	pageBegin = "<!-- begin: make bench -->\n"
	pageEnd   = "<!-- end: make bench -->\n"
)

// writePage puts the report of a run into a page, in place of the one before.
func writePage(path, report string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(pageBegin))
	_, after, ended := bytes.Cut(rest, []byte(pageEnd))
	if !ok || !ended {
		return fmt.Errorf("%s has no place for the report: expected the lines %s and %s", path, strings.TrimSpace(pageBegin), strings.TrimSpace(pageEnd))
	}
	return os.WriteFile(path, slices.Concat(before, []byte(pageBegin), []byte(report), []byte(pageEnd), after), 0o644) //nolint:gosec // documentation
}

// spread is the least, the median, and the largest of some values.
type spread [3]float64

func spreadOf[T any](all []T, of func(T) float64) spread {
	values := make([]float64, len(all))
	for i, v := range all {
		values[i] = of(v)
	}
	return spreadOver(values)
}

// ratios are those of each round.
func ratios[T any](all, to []T, of func(T) float64) spread {
	values := make([]float64, len(all))
	for i, v := range all {
		values[i] = of(v) / of(to[i])
	}
	return spreadOver(values)
}

func spreadOver(values []float64) spread {
	slices.Sort(values)
	return spread{values[0], values[len(values)/2], values[len(values)-1]}
}

// text is the three values; one that was measured once is written once.
func (s spread) text(format string) string {
	if s[0] == s[2] {
		return fmt.Sprintf(format, s[0])
	}
	return fmt.Sprintf(strings.Join([]string{format, format, format}, " / "), s[0], s[1], s[2])
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }
