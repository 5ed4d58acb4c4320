package violence

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEveryPointIsKnown compares the crash points of the code with those that
// workers and commands are killed at.
func TestEveryPointIsKnown(t *testing.T) {
	t.Parallel()
	inCode := map[string]bool{}
	call := regexp.MustCompile(`crash\.Point\("([^"]+)"\)`)
	for _, pattern := range []string{"worker", "failed", "tasks", "results", "progress", "cache", "cmd/onceover"} {
		names, err := filepath.Glob(filepath.Join("..", "..", "..", filepath.FromSlash(pattern), "*.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("source files of %s: got %v, %v", pattern, names, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, m := range call.FindAllSubmatch(text, -1) {
				inCode[string(m[1])] = true
			}
		}
	}
	ours := map[string]bool{}
	for _, p := range points {
		ours[p.name] = true
	}
	for _, p := range commandPoints {
		ours[p] = true
	}
	got, want := slices.Sorted(maps.Keys(ours)), slices.Sorted(maps.Keys(inCode))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("crash points (-in the code +killed at):\n%s", diff)
	}
}
