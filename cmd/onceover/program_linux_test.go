package main

import (
	"os"
	"regexp"
	"slices"
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

// TestCleanMappings leaves out what is not the program's, what may be written, and what was written, as a loader does it.
func TestCleanMappings(t *testing.T) {
	t.Parallel()
	const smaps = `00400000-01632000 r-xp 00000000 fe:00 1234                               /opt/on ce/over
Size:              18632 kB
Rss:                8600 kB
Anonymous:             0 kB
LazyFree:              0 kB
01632000-02000000 r--p 01232000 fe:00 1234                               /opt/on ce/over
Anonymous:             8 kB
02000000-02100000 r--p 01c00000 fe:00 1234                               /opt/on ce/over
Anonymous:             0 kB
02100000-02200000 rw-p 01d00000 fe:00 1234                               /opt/on ce/over
Anonymous:             0 kB
02200000-02300000 r--p 00000000 fe:00 99                                 /opt/other
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0 
Anonymous:             0 kB
7ffd5000-7ffd6000 r-xp 00000000 00:00 0                                  [vdso]
Anonymous:             0 kB
`
	got := cleanMappings([]byte(smaps), "/opt/on ce/over")
	if want := []mapping{{0x400000, 0x1632000}, {0x2000000, 0x2100000}}; !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}
