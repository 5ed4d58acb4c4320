//go:build unix && !aix && !solaris

package eval

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps other processes from a file until unlock is called or this process ends.
func lock(file *os.File) (unlock func() error, err error) {
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	return func() error { return unix.Flock(int(file.Fd()), unix.LOCK_UN) }, nil
}

// syncDir waits until a new name in a folder is on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
