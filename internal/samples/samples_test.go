package samples

import (
	"bytes"
	"image"
	_ "image/jpeg"
	_ "image/png"
	"io/fs"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "golang.org/x/image/webp"
)

const (
	maxFileBytes   = 60 << 10 // every file is embedded in the binary and fetched by the demo
	maxFolderBytes = 500_000  // all of them together
	brokenFile     = "broken.jpg"
)

// files returns the content of every embedded picture by name.
func files(t *testing.T) map[string][]byte {
	t.Helper()
	entries, err := fs.ReadDir(FS(), ".")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, e := range entries {
		data, err := fs.ReadFile(FS(), e.Name())
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = data
	}
	return found
}

// TestJobsAndFilesAgree finds a job without its file, a file that no job uses, and two jobs of one name.
func TestJobsAndFilesAgree(t *testing.T) {
	t.Parallel()
	used, names, missing := map[string]bool{}, map[string]bool{}, 0
	for _, j := range Jobs() {
		if names[j.Name] {
			t.Errorf("job name %q: got it twice, want it once", j.Name)
		}
		names[j.Name] = true
		if j.Note == "" {
			t.Errorf("job %q: got no note, want one", j.Name)
		}
		if j.File == "" {
			missing++
			continue
		}
		if again := j.Note == "same file again"; again != used[j.File] {
			t.Errorf("job %q: got note %q, file listed before: %v", j.Name, j.Note, used[j.File])
		}
		used[j.File] = true
	}
	if missing != 1 {
		t.Errorf("jobs without a file: got %d, want 1", missing)
	}
	got := slices.Sorted(maps.Keys(used))
	want := slices.Sorted(maps.Keys(files(t)))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files named by jobs (-embedded +named):\n%s", diff)
	}
}

func TestFilesAreSmall(t *testing.T) {
	t.Parallel()
	total := 0
	for name, data := range files(t) {
		total += len(data)
		if len(data) > maxFileBytes {
			t.Errorf("%s: got %d bytes, want at most %d", name, len(data), maxFileBytes)
		}
	}
	if total > maxFolderBytes {
		t.Errorf("all files: got %d bytes, want at most %d", total, maxFolderBytes)
	}
}

// TestOnlyTheBrokenFileFails also asks that its header is sound: the fault must be one that only decoding finds.
func TestOnlyTheBrokenFileFails(t *testing.T) {
	t.Parallel()
	for name, data := range files(t) {
		if _, _, err := image.DecodeConfig(bytes.NewReader(data)); err != nil {
			t.Errorf("%s: header: got error %v, want none", name, err)
		}
		_, _, err := image.Decode(bytes.NewReader(data))
		if broken := name == brokenFile; broken != (err != nil) {
			t.Errorf("%s: decode: got error %v, want an error: %v", name, err, broken)
		}
	}
}
