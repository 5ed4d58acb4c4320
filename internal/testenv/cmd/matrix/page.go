package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// row is what became of a pair; its texts are cells of the table.
type row struct {
	pair, rabbit, redis, celery, python, tests, violence, date string
	passed                                                     bool
}

func (r row) line() string {
	result := "passed"
	if !r.passed {
		result = "**failed**"
	}
	return fmt.Sprintf("| %s |\n", strings.Join([]string{r.pair, r.rabbit, r.redis, r.celery, r.python, result, r.tests, r.violence, r.date}, " | "))
}

const (
	pageStart = `# Tested with

Made by ` + "`make matrix`" + `; do not edit. It runs the tests of ` + "`worker`, `failed` and `e2e`" + ` and a violence run on each pair of servers.
"passed" means that all of them passed on that day. ` + "`scripts/test`" + ` runs everything on the machine's own servers and a selection on the newest.

`
	// Seen with 3.10.8, 4.0.5 and 4.3.6.
	pageEnd = `
## What differs between releases of RabbitMQ

| | 3.10 | 4.0 | 4.3 |
|---|---|---|---|
| delivery limit of a quorum queue that sets none | none | 20 | 20 |
| ` + "`basic.reject`" + ` with requeue counts towards the limit | yes | yes | yes |
| ` + "`basic.nack`" + ` with requeue counts towards the limit | yes | yes | no, only ` + "`x-acquired-count`" + ` grows |
| transient queue that is not exclusive, as Celery's remote control declares | allowed | allowed | allowed |
`
	tableStart = `| pair | RabbitMQ | Redis or Valkey | Celery | Python | result | tests | violence | date |
|---|---|---|---|---|---|---|---|---|
`
)

func table(rows []row) string {
	text := tableStart
	for _, r := range rows {
		text += r.line()
	}
	return text
}

// writePage writes rows into the page, in place of those of the same pairs.
func writePage(path string, rows []row) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(page(string(old), rows)), 0o644)
}

// page returns the page with rows in place of those of the same pairs in old.
func page(old string, rows []row) string {
	lines := make(map[string]string)
	for line := range strings.Lines(old) {
		if pair, ok := rowOf(line); ok {
			lines[pair] = line
		}
	}
	for _, r := range rows {
		lines[r.pair] = r.line()
	}
	sorted := make([]string, 0, len(lines))
	for _, line := range lines {
		sorted = append(sorted, line)
	}
	slices.Sort(sorted)
	return pageStart + tableStart + strings.Join(sorted, "") + pageEnd
}

// rowOf returns the pair of a line of the table.
func rowOf(line string) (string, bool) {
	cells := strings.Split(line, "|")
	if len(cells) < 3 {
		return "", false
	}
	pair := strings.TrimSpace(cells[1])
	return pair, strings.Contains(pair, "+")
}
