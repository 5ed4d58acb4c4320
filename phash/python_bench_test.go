//go:build unix

package phash

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkPython times Python's hash and this package's in turns, on JPEG files of 12 and 0.8 megapixels, from file to hash. Each
// is reported as a benchmark, with the ratio of the two as a metric of the latter:
//
//	ONCEOVER_TEST_PYTHON=… go test -run '^$' -bench Python -cpu 1 -count 6 ./phash | tee new.txt
//	benchstat -col /by new.txt
//
// The times are medians of rounds, whatever -benchtime says. On a busy machine the processor times, cpu-ns/op, say more. ONCEOVER_TEST_PYTHON is the path of a Python that has imagehash.
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
		var theirs, ours []timing
		for range rounds {
			if _, err := fmt.Fprintln(questions, file); err != nil {
				b.Fatal(err)
			}
			var t timing
			var want string
			if _, err := fmt.Fscanln(answers, &t.wall, &t.cpu, &want); err != nil {
				b.Fatal(err)
			}
			theirs = append(theirs, t)

			start, used := time.Now(), processorTime(b)
			data, err := os.ReadFile(file)
			if err != nil {
				b.Fatal(err)
			}
			got, err := Sum(data)
			ours = append(ours, timing{time.Since(start), processorTime(b) - used})
			if err != nil || got.String() != want {
				b.Fatalf("%s: got %v, %v, want %s", name, got, err, want)
			}
		}
		name = strings.TrimSuffix(name, ".jpg")
		b.Run("of="+name+"/by=python", func(b *testing.B) {
			b.ReportMetric(medianWall(theirs), "ns/op")
			b.ReportMetric(medianCPU(theirs), "cpu-ns/op")
		})
		b.Run("of="+name+"/by=go", func(b *testing.B) {
			b.ReportMetric(medianWall(ours), "ns/op")
			b.ReportMetric(medianCPU(ours), "cpu-ns/op")
			b.ReportMetric(medianWall(ours)/medianWall(theirs), "of-python")
			b.ReportMetric(medianCPU(ours)/medianCPU(theirs), "of-python-cpu")
		})
	}
}

// A timing is how long one hash took: by the clock, and of processors.
type timing struct{ wall, cpu time.Duration }

func medianWall(rounds []timing) float64 {
	slices.SortFunc(rounds, func(a, b timing) int { return cmp.Compare(a.wall, b.wall) })
	return float64(rounds[len(rounds)/2].wall)
}

func medianCPU(rounds []timing) float64 {
	slices.SortFunc(rounds, func(a, b timing) int { return cmp.Compare(a.cpu, b.cpu) })
	return float64(rounds[len(rounds)/2].cpu)
}

// processorTime returns what the process has used.
func processorTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
