package main

import (
	"bytes"
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// releaseProgram gives back the pages of the program file that the start has touched (MADV_DONTNEED, madvise(2)). Whatever is touched
// again is read from the file again, so that pages which were ever written have to stay: data, what the loader has relocated in a
// program that is independent of its position, and breakpoints of a debugger.
func releaseProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range cleanMappings(smaps, program) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED) // pages that stay do no harm
	}
}

// A mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// The lines of smaps that are looked for: 00400000-01632000 r-xp 00000000 fe:00 1234    /usr/bin/onceover
var (
	mappingLine   = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)$`)
	anonymousLine = regexp.MustCompile(`^Anonymous: +0 kB$`)
)

// cleanMappings returns the mappings of a file that cannot be written and have no page that is not the file's, out of
// /proc/pid/smaps (proc_pid_smaps(5)).
func cleanMappings(smaps []byte, file string) (all []mapping) {
	var at mapping
	for line := range bytes.Lines(smaps) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if f := mappingLine.FindSubmatch(line); f != nil {
			at = mapping{}
			start, err := strconv.ParseUint(string(f[1]), 16, strconv.IntSize)
			end, endErr := strconv.ParseUint(string(f[2]), 16, strconv.IntSize)
			if err == nil && endErr == nil && string(f[4]) == file && f[3][1] != 'w' {
				at = mapping{uintptr(start), uintptr(end)}
			}
		} else if at.end > at.start && anonymousLine.Match(line) {
			all = append(all, at)
			at = mapping{}
		}
	}
	return all
}
