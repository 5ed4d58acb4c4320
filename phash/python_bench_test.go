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
//	ONCEOVER_TEST_PYTHON=… go test -run '^$' -bench Python -benchtime 11x -cpu 1 -count 6 ./phash | tee new.txt
//	benchstat -col /by new.txt
//
// The times are medians over the rounds that -benchtime asks for. On a busy machine the processor times, cpu-ns/op, say more.
// ONCEOVER_TEST_PYTHON is the path of a Python that has imagehash.
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
		name = "of=" + strings.TrimSuffix(name, ".jpg")
		var all [][2][]timing // theirs and ours, of each run of the first benchmark, which does both
		b.Run(name+"/by=python", func(b *testing.B) {
			var theirs, ours []timing
			for b.Loop() {
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
			all = append(all, [2][]timing{theirs, ours})
			b.ReportMetric(medianWall(theirs), "ns/op")
			b.ReportMetric(medianCPU(theirs), "cpu-ns/op")
		})
		run := -1
		b.Run(name+"/by=go", func(b *testing.B) {
			if b.N == 1 { // the first call of each run
				run++
			}
			if run >= len(all) {
				b.Skip("the benchmark of Python did not run")
			}
			theirs, ours := all[run][0], all[run][1]
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
