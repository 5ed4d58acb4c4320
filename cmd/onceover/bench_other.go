//go:build !linux

package main

import "syscall"

// endsWithParent has a process end when this one does; only Linux can.
func endsWithParent() *syscall.SysProcAttr { return nil }
