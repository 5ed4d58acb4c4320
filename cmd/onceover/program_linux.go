package main

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseProgram gives back the pages of the program file that were mapped for the start: a worker that waits touches few of them, and
// what is touched again is mapped again (MADV_DONTNEED on clean pages of a file, madvise(2)). Of what may be written nothing is touched.
func releaseProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line) // as in proc_pid_maps(5): 00400000-01632000 r-xp 00000000 fe:00 1234 /usr/bin/onceover
		if len(f) < 6 || f[5] != program || strings.Contains(f[1], "w") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			continue
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil || end <= start {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED) // pages that stay do no harm
	}
}
