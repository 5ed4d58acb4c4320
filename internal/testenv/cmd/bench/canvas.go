package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// callbacks measures jobs with a callback each, beside jobs without.
func callbacks(ctx context.Context, b *bench, o options) ([]*table, error) {
	t := &table{title: "Callbacks", note: fmt.Sprintf("%d hits without and with a callback each, which goes to a queue that nobody consumes and is confirmed before the result is stored (not by Celery); %d rounds in turn.", o.jobs, o.rounds),
		head: []string{"worker", "jobs/s without", "with", "with, of without", "CPU s for 1,000 without", "with"}}
	all := b.candidates
	without, with := make([][]measured, len(all)), make([][]measured, len(all))
	for round := range o.rounds {
		for i, c := range all {
			for _, callback := range []bool{false, true} {
				m, err := b.measure(ctx, c, load{jobs: o.jobs, callback: callback, profiled: callback && round == o.rounds-1})
				if err != nil {
					return nil, fmt.Errorf("%s: %w", c.name, err)
				}
				if callback {
					with[i] = append(with[i], m)
				} else {
					without[i] = append(without[i], m)
				}
			}
		}
	}
	rate := func(m measured) float64 { return m.rate }
	cpu := func(m measured) float64 { return m.cpu * 1000 / float64(o.jobs) }
	for i, c := range all {
		t.add(c.name, spreadOf(without[i], rate).text("%.0f"), spreadOf(with[i], rate).text("%.0f"), ratios(with[i], without[i], rate).text("%.2f"),
			spreadOf(without[i], cpu).text("%.3f"), spreadOf(with[i], cpu).text("%.3f"))
	}
	return []*table{t}, nil
}

// chords measures a chord of hits, from the first result to that of the body.
func chords(ctx context.Context, b *bench, o options) ([]*table, error) {
	t := &table{title: "Chord", note: fmt.Sprintf("A chord of %d hits, sent by Celery before the worker starts; from the first result to that of the body; %d rounds in turn.", o.parts, o.rounds),
		head: []string{"worker", "seconds", "of Celery's"}}
	if b.python == "" {
		t.note += " Not measured: there is no Python."
		return []*table{t}, nil
	}
	all := b.whole()
	took := make([][]float64, len(all))
	for range o.rounds {
		for i, c := range all {
			seconds, err := b.chord(ctx, c, o.parts)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			took[i] = append(took[i], seconds)
		}
	}
	same := func(v float64) float64 { return v }
	for i, c := range all {
		t.add(c.name, spreadOf(took[i], same).text("%.2f"), ratios(took[i], took[len(all)-1], same).text("%.2f"))
	}
	return []*table{t}, nil
}

// sendChord sends a chord of so many hits, and prints the id of its body.
const sendChord = `
import sys
from celery import chord
from bench_app import analyze

parts, phash = int(sys.argv[1]), sys.argv[2]
part = analyze.si(image_url="https://pictures.invalid/a.jpg", phash=phash).set(queue="bench")
print(chord([part.clone() for _ in range(parts)])(part.clone()).id)
`

func (b *bench) chord(ctx context.Context, c *candidate, parts int) (seconds float64, err error) {
	var body string
	if err := b.fill(ctx, load{before: func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, b.python, "-c", sendChord, fmt.Sprint(parts), picture)
		cmd.Dir, cmd.Env = b.dir, b.env
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("send the chord: %w", err)
		}
		body = strings.TrimSpace(string(out))
		return nil
	}}); err != nil {
		return 0, err
	}
	w, err := b.launch(c)
	if err != nil {
		return 0, err
	}
	defer w.Kill()
	_, began, err := b.until(ctx, w, 1, 2*time.Millisecond)
	if err != nil {
		return 0, err
	}
	_, end, err := b.until(ctx, w, parts+1, 2*time.Millisecond)
	if err != nil {
		return 0, err
	}
	if _, err := w.stop(); err != nil {
		return 0, err
	}
	doc, err := b.results.Get(ctx, "celery-task-meta-"+body).Result()
	if err != nil || !strings.Contains(doc, `"SUCCESS"`) {
		return 0, fmt.Errorf("the body of the chord ended as %q, want SUCCESS (%v)", doc, err)
	}
	return end.Sub(began).Seconds(), nil
}
