package doctor

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestDocs compares the checks with their sections in the docs.
func TestDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^### (\S+)$`).FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1])
	}
	var have []string
	for _, c := range checks() {
		if slices.Contains(have, c.id) {
			t.Errorf("%s is there twice", c.id)
		}
		if c.well == "" {
			t.Errorf("%s does not say what is so if all is well", c.id)
		}
		have = append(have, c.id)
	}
	have = append(have, "probe.job")
	if slices.Sort(have); len(have) < 25 {
		t.Errorf("got %d checks", len(have))
	}
	slices.Sort(documented)
	if !slices.Equal(have, documented) {
		t.Errorf("got the checks\n%q, documented are\n%q", have, documented)
	}
}
