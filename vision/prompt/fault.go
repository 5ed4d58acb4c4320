package prompt

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a folder.
type Fault struct {
	File string
	Line int // 0 if it is about the whole file
	Text string
}

// String returns "file:line: text".
func (f Fault) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text)
}

// Faults is the error of a folder that cannot be used: everything that is wrong, by file and line.
type Faults []Fault

// Error has a line for each fault.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// faults collects those of a folder.
type faults struct {
	file string // that is being read
	all  Faults
}

func (f *faults) add(line int, format string, args ...any) {
	f.all = append(f.all, Fault{f.file, line, fmt.Sprintf(format, args...)})
}

// err returns all faults in order, nil if there are none.
func (f *faults) err() error {
	if len(f.all) == 0 {
		return nil
	}
	slices.SortStableFunc(f.all, func(a, b Fault) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return f.all
}
