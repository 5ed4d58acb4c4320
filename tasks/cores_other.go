//go:build !linux

package tasks

// lowerPriority does nothing: threads have no priority of their own here.
func lowerPriority() {}
