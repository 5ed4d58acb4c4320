package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// machine is the machine, or the container, that the doctor runs on: where the worker does, if it was asked so.
type machine struct {
	files  uint64 // that a process may open; 0 if that is not known
	memory uint64 // bytes that it may use; 0 if there is no limit, or that is not known
	root   error  // why the folder of pictures cannot be read
	disks  []disk
}

// disk is a folder that is written to.
type disk struct {
	setting, path string
	free, size    uint64 // bytes
	err           error
}

func lookAtMachine(ctx context.Context, s Subject) machine {
	m := machine{files: openFiles(), memory: memoryLimit("/sys/fs/cgroup")}
	if folder := s.Settings.Uploads; filepath.IsAbs(folder) {
		d := inTime(ctx, func() disk { return lookAtDisk(folder) }, disk{err: errHangs})
		d.setting, d.path = "uploads", folder
		m.disks = append(m.disks, d)
	}
	if root := s.Settings.Image.Root; root != "" {
		m.root = inTime(ctx, func() error { return readable(root) }, errHangs)
	}
	return m
}

// errHangs is that a file system does not answer, as one of NFS does not whose server is away.
var errHangs = errors.New("its file system does not answer")

// inTime returns what look returns, or late if ctx ends before.
func inTime[T any](ctx context.Context, look func() T, late T) T {
	done := make(chan T, 1)
	go func() { done <- look() }()
	select {
	case found := <-done:
		return found
	case <-ctx.Done():
		return late
	}
}

func lookAtDisk(folder string) (d disk) {
	if d.free, d.size, d.err = space(folder); d.err == nil {
		d.err = writable(folder)
	}
	return d
}

// readable reads one name of a folder, which may have many.
func readable(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// memoryLimit reads that of the control group, version 2 or 1; 0 if there is none.
func memoryLimit(root string) uint64 {
	for _, name := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil || n >= 1<<62 { // "max", or what stands for it
			return 0
		}
		return n
	}
	return 0
}

// writable makes a file in a folder, and removes it.
func writable(folder string) error {
	f, err := os.CreateTemp(folder, ".onceover-doctor-*")
	if err != nil {
		return err
	}
	f.Close() // it is empty
	return os.Remove(f.Name())
}

// ownMemory is what a worker needs besides message bodies, in bytes: the program, the index of the cache, and a picture for each core.
const ownMemory = 256 << 20

// filesOf is about how many files a worker opens: connections for downloads and the model of each job, and of four roles of Redis.
func filesOf(concurrency int) uint64 {
	return uint64(2*concurrency + 4*min(max(concurrency/4, 8), 64) + 100)
}

var machineChecks = []check{
	{"machine.files", "enough files may be open", func(f *facts) []Finding {
		need := filesOf(f.Settings.Worker.Concurrency)
		if f.machine.files == 0 || f.machine.files >= need {
			return nil
		}
		return []Finding{{Severity: Warning, Found: fmt.Sprintf("a process may open %d files, and a worker of concurrency %d may need %d", f.machine.files, f.Settings.Worker.Concurrency, need),
			Remedy: "raise the limit (ulimit -n, LimitNOFILE of systemd, ulimits of compose), or set ONCEOVER_CONCURRENCY lower"}}
	}},
	{"machine.memory", "message bodies have room", func(f *facts) []Finding {
		limit, held := f.machine.memory, uint64(f.Settings.Worker.HeldBytes)
		if limit == 0 || held+ownMemory <= limit {
			return nil
		}
		return []Finding{{Severity: Warning, Found: fmt.Sprintf("the container has %d MiB, and message bodies alone may take %d MiB (held-bytes): large messages get it killed", limit>>20, held>>20),
			Remedy: fmt.Sprintf("raise the memory limit to %d MiB, or set ONCEOVER_HELD_BYTES lower", (held+ownMemory)>>20)}}
	}},
	{"machine.disk", "folders have room and can be written", func(f *facts) (out []Finding) {
		for _, d := range f.machine.disks {
			switch {
			case errors.Is(d.err, errHangs):
				out = append(out, Finding{Severity: Unknown, Subject: d.setting, Found: "not known: " + d.path + ": " + d.err.Error()})
			case errors.Is(d.err, syscall.EROFS):
				out = append(out, Finding{Severity: Warning, Subject: d.setting, Found: d.path + " is mounted read-only: a worker can read pictures there, and a gateway can keep none", Remedy: "leave it so for a worker, with ONCEOVER_UPLOADS for the gateway alone; or mount it read-write"})
			case d.err != nil:
				out = append(out, Finding{Severity: Error, Subject: d.setting, Found: fmt.Sprintf("%s cannot be written: %v", d.path, d.err), Remedy: "make the folder, and give the gateway's user the right to write there"})
			case d.size > 0 && (d.free < d.size/20 || d.free < 1<<30):
				out = append(out, Finding{Severity: Warning, Subject: d.setting, Found: fmt.Sprintf("%s has %d MiB left of %d", d.path, d.free>>20, d.size>>20), Remedy: "make room, or set ONCEOVER_UPLOADS_KEEP lower"})
			}
		}
		return out
	}},
}
