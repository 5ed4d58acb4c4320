package tasks

import "syscall"

// lowerPriority makes the calling thread yield to the others. On Linux a thread
// has a nice value of its own, and id 0 is the calling thread (setpriority(2),
// "C library/kernel differences"). Where it is not allowed, nothing is lost.
func lowerPriority() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10) }
