package phash

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkPython times Python's hash and this package's in turns, on JPEG files of 12 and 0.8 megapixels, from file to hash. Each
// is reported as a benchmark, with the ratio of the two as a metric of the latter:
//
//	ONCEOVER_TEST_PYTHON=… go test -run '^$' -bench Python -cpu 1 -count 6 ./phash | tee new.txt
//	benchstat -col /by new.txt
//
// The times are medians of rounds, whatever -benchtime says. ONCEOVER_TEST_PYTHON is the path of a Python that has imagehash.
func BenchmarkPython(b *testing.B) {
	python := os.Getenv("ONCEOVER_TEST_PYTHON")
	if python == "" {
		b.Skip("ONCEOVER_TEST_PYTHON is not set: no comparison with Python's imagehash")
	}
	dir := b.TempDir()
	cmd := exec.CommandContext(b.Context(), python, "testdata/timing.py", filepath.Join(goldenDir, "jpeg-420-1024x768.jpg"), dir)
	cmd.Stderr = os.Stderr
	questions, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		questions.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	}()
	answers := bufio.NewReader(stdout)
	names, err := answers.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}

	for _, name := range strings.Fields(names) {
		file := filepath.Join(dir, name)
		rounds := 11
		if strings.HasPrefix(name, "1024") {
			rounds = 51
		}
		var theirs, ours []time.Duration
		for range rounds {
			if _, err := fmt.Fprintln(questions, file); err != nil {
				b.Fatal(err)
			}
			var ns time.Duration
			var want string
			if _, err := fmt.Fscanln(answers, &ns, &want); err != nil {
				b.Fatal(err)
			}
			theirs = append(theirs, ns)

			start := time.Now()
			data, err := os.ReadFile(file)
			if err != nil {
				b.Fatal(err)
			}
			got, err := Sum(data)
			ours = append(ours, time.Since(start))
			if err != nil || got.String() != want {
				b.Fatalf("%s: got %v, %v, want %s", name, got, err, want)
			}
		}
		median := func(d []time.Duration) float64 {
			slices.Sort(d)
			return float64(d[len(d)/2])
		}
		name = strings.TrimSuffix(name, ".jpg")
		b.Run("of="+name+"/by=python", func(b *testing.B) {
			b.ReportMetric(median(theirs), "ns/op")
		})
		b.Run("of="+name+"/by=go", func(b *testing.B) {
			b.ReportMetric(median(ours), "ns/op")
			b.ReportMetric(median(ours)/median(theirs), "of-python")
		})
	}
}
