package testenv

import "syscall"

// ownGroup makes a process the leader of its own group, so that a Ctrl-C at the
// terminal does not reach it, and ends it when the thread that started it ends.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
