package main

import "syscall"

// endsWithParent has a process end when this one does, however that is.
func endsWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
