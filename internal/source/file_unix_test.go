//go:build unix

package source

import (
	"net/url"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFetchFileDoesNotWaitForAPipe: opening a named pipe blocks until someone writes into it, and nobody does.
func TestFetchFileDoesNotWaitForAPipe(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	pipe := filepath.Join(root, "pipe.png")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := readFile(root, &url.URL{Scheme: "file", Path: pipe}, 1000)
	wantKind(t, err, Forbidden, "not a regular file")
}
