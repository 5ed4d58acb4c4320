//go:build linux || darwin

package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestFolders has folders that can be read and written, that cannot, and one that hangs: nobody writes to the pipe that stands for it.
func TestFolders(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	hangs, none := filepath.Join(folder, "pipe"), filepath.Join(folder, "none")
	if err := syscall.Mkfifo(hangs, 0o600); err != nil {
		t.Fatal(err)
	}
	look := func(root, uploads string) machine {
		s := settings(t)
		s.Settings.Image.Root, s.Settings.Uploads = root, uploads
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return lookAtMachine(ctx, s)
	}
	if m := look(folder, folder); m.root != nil || m.disks[0].err != nil || m.disks[0].path != folder || m.disks[0].size == 0 {
		t.Errorf("got %+v of a good folder", m)
	}
	if m := look(t.TempDir(), none); m.root != nil || !errors.Is(m.disks[0].err, os.ErrNotExist) {
		t.Errorf("got %+v of an empty folder, and of none", m)
	}
	if m := look(none, ""); !errors.Is(m.root, os.ErrNotExist) {
		t.Errorf("got %+v of no folder", m)
	}
	if m := look(hangs, ""); !errors.Is(m.root, errHangs) {
		t.Errorf("got %+v of a folder that hangs", m)
	}
	pipe, err := os.OpenFile(hangs, os.O_RDWR, 0) // what hangs ends
	if err != nil {
		t.Fatal(err)
	}
	pipe.Close()
}
