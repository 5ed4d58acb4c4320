package main

import (
	"strings"
	"testing"
)

func TestParsePairs(t *testing.T) {
	t.Parallel()
	got, err := parsePairs(" 4.3+valkey-9  3.10+redis-7.0 ")
	if err != nil || len(got) != 2 || got[0] != (pair{"4.3", "valkey-9"}) || got[1].String() != "3.10+redis-7.0" {
		t.Errorf("got %v, %v, want the two pairs", got, err)
	}
	for _, text := range []string{"", " ", "4.3", "4.3+", "+valkey-9", "4.0+redis-8.0 4.3"} {
		if got, err := parsePairs(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
	if _, err := parsePairs(allPairs); err != nil {
		t.Error(err)
	}
}

func TestReadTests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, out string
		ok        bool
		want      string
	}{
		{"passed", "ok    p   1s  2 tests\n\n60 tests passed, 0 failed, 0 skipped\n", true, "60 passed"},
		{"passed, some not compared", "\n60 tests passed, 0 failed, 2 skipped\n", true, "60 passed, 2 skipped"},
		{"failed", "    a_test.go:1: loud\n--- FAIL: TestA (0.0s)\n    --- FAIL: TestA/b (0.0s)\n\n5 tests passed, 2 failed, 0 skipped\n", false,
			"**2 failed**, 5 passed, 0 skipped: `TestA`, `TestA/b`"},
		{"failed in many", strings.Repeat("--- FAIL: T (0s)\n", 13) + "0 tests passed, 13 failed, 0 skipped\n", false,
			"**13 failed**, 0 passed, 0 skipped: " + strings.Repeat("`T`, ", 12) + "…"},
		{"a package did not build", "x.go:1: no\n\n7 tests passed, 0 failed, 0 skipped\n", false, "**0 failed**, 7 passed, 0 skipped"},
		{"cut off", "ok p", false, "**did not end**"},
	} {
		if got := readTests(c.out, c.ok); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReadViolence(t *testing.T) {
	t.Parallel()
	const sums = "  analyze  120  120\n      all  240  250\n"
	for _, c := range []struct {
		out  string
		ok   bool
		want string
	}{
		{sums + "faults: none\n", true, "240 jobs, no fault"},
		{sums + "FAULT: a\nFAULT: b\n", false, "**faults: 2**"},
		{"", false, "**did not end**"},
		{"", true, "**did not end**"},
		{sums, false, "**did not end**"},
	} {
		if got := readViolence(c.out, c.ok); got != c.want {
			t.Errorf("%q, %v: got %q, want %q", c.out, c.ok, got, c.want)
		}
	}
}

// TestPage writes two pairs and then one of them again.
func TestPage(t *testing.T) {
	t.Parallel()
	first := page("", []row{
		{pair: "4.3+valkey-9", rabbit: "4.3.6", redis: "valkey 9.1.2", date: "2026-01-01"},
		{pair: "3.10+redis-7.0", rabbit: "3.10.8", redis: "redis 7.0.15", passed: true, date: "2026-01-01"},
	})
	second := page(first, []row{{pair: "4.3+valkey-9", rabbit: "4.3.7", passed: true, date: "2026-02-02"}})
	var got []string
	for line := range strings.Lines(second) {
		if pair, ok := rowOf(line); ok {
			got = append(got, pair)
		}
	}
	if strings.Join(got, " ") != "3.10+redis-7.0 4.3+valkey-9" {
		t.Errorf("pairs: got %q, want both, once and sorted", got)
	}
	for text, want := range map[string]bool{
		"| 3.10+redis-7.0 | 3.10.8 | redis 7.0.15 |  |  | passed |  |  | 2026-01-01 |\n": true, "4.3.7": true, "4.3.6": false, "**failed**": false,
	} {
		if strings.Contains(second, text) != want {
			t.Errorf("%q in the page: got %v, want %v:\n%s", text, !want, want, second)
		}
	}
	if !strings.Contains(first, "| 4.3.6 | valkey 9.1.2 |  |  | **failed** |") {
		t.Errorf("failed pair: got %s, want a row that says so", first)
	}
}
