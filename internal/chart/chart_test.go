package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func svg(t *testing.T, c Chart) string {
	t.Helper()
	var out bytes.Buffer
	if err := c.Write(&out); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(out.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("got no XML: %v\n%s", err, out.String())
		}
	}
	return out.String()
}

func TestLines(t *testing.T) {
	text := svg(t, Chart{Title: "Rate", X: "seconds", Y: "jobs/s", Series: []Series{
		{Name: "a", Points: []Point{{0, 0}, {5, 100}, {10, 50}}},
		{Name: "b", Points: []Point{{0, 100}}},
	}})
	// 0 is at the lower left corner, 10 and 100 are at the edges: the axes end there.
	for _, want := range []string{
		`<path d="M70,250 L347,34 L624,142"`, `<circle cx="70" cy="34"`,
		`aria-label="Rate; jobs/s by seconds. a: from 0 to 50. b: from 100 to 100"`, `>100</text>`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("got %s\nwant %s in it", text, want)
		}
	}
}

// TestLogarithmic has values that cannot be drawn.
func TestLogarithmic(t *testing.T) {
	text := svg(t, Chart{LogX: true, LogY: true, Series: []Series{
		{Name: "a", Points: []Point{{0, 1}, {1, 10}, {10, 100}, {100, math.NaN()}, {100, math.Inf(1)}, {100, 1000}}},
	}})
	if want := `<path d="M70,178 L347,106 L624,34"`; !strings.Contains(text, want) {
		t.Errorf("got %s\nwant %s in it", text, want)
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Errorf("got %s\nwant numbers only", text)
	}
}

// TestNothing has nothing to draw, and text that is no markup.
func TestNothing(t *testing.T) {
	text := svg(t, Chart{Title: `<script>alert("a")</script>`, Series: []Series{{Name: "&"}, {Name: "b", Points: []Point{{3, 7}}}}})
	if strings.Contains(text, "<script") {
		t.Errorf("got %s", text)
	}
}

// TestKey has names that do not fit into one line.
func TestKey(t *testing.T) {
	name := strings.Repeat("n", 40)
	text := svg(t, Chart{Series: []Series{{Name: name}, {Name: name}, {Name: "c"}}})
	for _, want := range []string{`viewBox="0 0 640 338"`, `<path d="M70,306 h22"`, `<path d="M70,324 h22"`, `<path d="M394,324 h22"`} {
		if !strings.Contains(text, want) {
			t.Errorf("got %s\nwant %s in it", text, want)
		}
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.25: "0.25", 0.001: "0.001", 1.5: "1.5", 20: "20", 100: "100", 123.4: "123", 1000: "1k", 1500: "1.5k",
		20_000: "20k", 1e6: "1M", -1500: "-1.5k", 2e9: "2G",
	} {
		if got := Short(v); got != want {
			t.Errorf("Short(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestAxis(t *testing.T) {
	for _, c := range []struct {
		log    bool
		values []float64
		want   []float64
	}{
		{false, []float64{0, 7}, []float64{0, 2, 4, 6, 8}},
		{false, []float64{3, 3}, []float64{3, 4, 5, 6}},
		{true, []float64{3, 200}, []float64{1, 10, 100, 1000}},
		{true, []float64{-1, 0}, []float64{1, 10}},
		{false, nil, []float64{0, 1}},
	} {
		got := axisOf(c.log, c.values).marks()
		if len(got) != len(c.want) {
			t.Errorf("axisOf(%v, %v): got marks %v, want %v", c.log, c.values, got, c.want)
			continue
		}
		for i, v := range got {
			if math.Abs(v-c.want[i]) > 1e-9 {
				t.Errorf("axisOf(%v, %v): got marks %v, want %v", c.log, c.values, got, c.want)
				break
			}
		}
	}
}
