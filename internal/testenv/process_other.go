//go:build !linux

package testenv

import "syscall"

// ownGroup makes a process the leader of its own group, so that a Ctrl-C at the
// terminal does not reach it.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
