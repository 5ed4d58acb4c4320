package main

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestReleaseProgram gives back most of the pages of the program, and runs on.
func TestReleaseProgram(t *testing.T) {
	mapped := func() int {
		t.Helper()
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^RssFile:\s+(\d+) kB`).FindSubmatch(status)
		if m == nil {
			t.Fatalf("got no RssFile, which Linux has since 4.5:\n%s", status)
		}
		n, _ := strconv.Atoi(string(m[1]))
		return n
	}
	before := mapped()
	releaseProgram()
	if after := mapped(); after > before*3/4 {
		t.Errorf("got %d kB of the program in memory, and %d before: want less by a quarter at least", after, before)
	}
}
