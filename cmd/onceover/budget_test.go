package main

import (
	"bytes"
	"strings"
	"testing"

	"onceover/vision/fleet"
)

// TestBudgetOnATerminal: a user_id comes from outside, and moves no cursor.
func TestBudgetOnATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	drawBudget(&out, []fleet.Spending{{By: []fleet.Part{{Model: "m\x1b[2J", User: "a\x1b[2J\nb"}}}})
	if strings.Contains(out.String(), "\x1b") || !strings.Contains(out.String(), "a [2J b") {
		t.Errorf("got %q", out.String())
	}
}
