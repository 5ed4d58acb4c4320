//go:build crashpoints

package crash

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Variable names the point at which the process is killed, and the how manieth
// passage of it: "after-store:3".
const Variable = "ONCEOVER_TEST_CRASH"

var (
	target, left = parse(os.Getenv(Variable))
)

func parse(value string) (string, *atomic.Int64) {
	name, count, _ := strings.Cut(value, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		n = 1
	}
	var a atomic.Int64
	a.Store(n)
	return name, &a
}

// Point kills the process with SIGKILL if it is the place that Variable names.
func Point(name string) {
	if name == target && left.Add(-1) == 0 {
		fmt.Fprintln(os.Stderr, "crash point", name)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	}
}
