package remote

import (
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"onceover/celery"
)

// celeryVersion is told as the program's: monitors know by it what a worker can
// do.
const celeryVersion = "5.6.2"

// software is what worker-* events say of the program. Monitors know
// "py-celery".
func software() map[string]any {
	system := "Linux" // as Python's platform.system()
	switch runtime.GOOS {
	case "darwin":
		system = "Darwin"
	case "freebsd":
		system = "FreeBSD"
	}
	return map[string]any{"sw_ident": "py-celery", "sw_ver": celeryVersion, "sw_sys": system}
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// hoursWest is how far a zone is behind UTC, in whole hours rounded down, as
// celery.utils.time.utcoffset has it: Seoul -9, India -6.
func hoursWest(t time.Time) int {
	_, east := t.Zone()
	return int(math.Floor(float64(-east) / 3600))
}

// loadAverage is that of the machine over 1, 5 and 15 minutes; zeros where it is
// not known.
func loadAverage() [3]float64 {
	var out [3]float64
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return out
	}
	for i, field := range strings.Fields(string(text)) {
		if i == len(out) {
			break
		}
		out[i], _ = strconv.ParseFloat(field, 64) // 0 like what is not known
	}
	return out
}

// usage is that of the process, with Python's names of the fields. As there,
// maxrss is in KiB on Linux and in bytes on macOS.
func usage() any {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return "N/A"
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Nano()) / 1e9 }
	return map[string]any{
		"utime": seconds(u.Utime), "stime": seconds(u.Stime), "maxrss": u.Maxrss, "ixrss": u.Ixrss, "idrss": u.Idrss,
		"isrss": u.Isrss, "minflt": u.Minflt, "majflt": u.Majflt, "nswap": u.Nswap, "inblock": u.Inblock,
		"oublock": u.Oublock, "msgsnd": u.Msgsnd, "msgrcv": u.Msgrcv, "nsignals": u.Nsignals, "nvcsw": u.Nvcsw, "nivcsw": u.Nivcsw,
	}
}

// memsample is the resident memory, as Celery shows it; null where it is not
// known.
func memsample(*Remote, arguments) (any, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil, nil
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return nil, nil
	}
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		return nil, nil
	}
	return humanBytes(float64(pages * os.Getpagesize())), nil
}

// humanBytes is a size to five digits, such as 48.52MB (celery/utils/debug.py).
func humanBytes(n float64) string {
	unit := "B"
	for _, larger := range []string{"KB", "MB", "GB"} {
		if n < 1024 {
			break
		}
		n, unit = n/1024, larger
	}
	return fmt.Sprintf("%.5g%s", n, unit)
}

func memdump(r *Remote, a arguments) (any, error) {
	sample, _ := memsample(r, a) // it has no error
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return fmt.Sprintf("resident %v, heap in use %s, goroutines %d, garbage collections %d\n",
		sample, humanBytes(float64(m.HeapInuse)), runtime.NumGoroutine(), m.NumGC), nil
}

// objgraph needs a library of Python.
func objgraph(*Remote, arguments) (any, error) {
	return nil, celery.NewException("ImportError", "Requires the objgraph library", nil)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
