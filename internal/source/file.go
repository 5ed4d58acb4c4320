package source

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// checkRoot says whether files can be served from the folder root. The error names the path itself.
func checkRoot(root string) error {
	info, err := os.Stat(root)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", root)
	}
	return nil
}

// readFile returns the content of the regular file that a file URL (RFC 8089) names, which must lie below root.
func readFile(root string, u *url.URL, maxBytes int64) ([]byte, error) {
	name, err := fileName(root, u)
	if err != nil {
		return nil, err
	}
	// Opened for each file, not once: the folder may be mounted anew while we run.
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, fileError(err)
	}
	defer dir.Close()

	// Asked before opening, because opening a device can already do something, and after, because the name may have changed hands.
	info, err := dir.Stat(name)
	if err != nil {
		return nil, fileError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular()
	}
	// O_NONBLOCK: should the file have become a pipe since, opening it must not wait for a writer.
	file, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(err)
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return nil, fileError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular()
	}
	data, err := readAll(file, info.Size(), maxBytes)
	if err != nil && asError(err) == nil {
		return nil, fileError(err)
	}
	return data, err
}

// fileName returns the path below root that a file URL names. This check is by text only and gives the clear message; that links
// do not lead out is what os.Root sees to.
func fileName(root string, u *url.URL) (string, error) {
	if root == "" {
		return "", &Error{Kind: Forbidden, Msg: "file:// is refused because no folder is allowed; set ONCEOVER_IMAGE_ROOT to allow one"}
	}
	if u.Host != "" && !strings.EqualFold(u.Host, "localhost") || u.User != nil {
		return "", &Error{Kind: Forbidden, Msg: "file on another host, want file:///PATH"}
	}
	if u.Opaque != "" || u.Path == "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.ContainsRune(u.Path, 0) {
		return "", &Error{Kind: BadURL, Msg: "want file:///PATH with an absolute path, in which ? is written %3F and # is written %23"}
	}
	name, err := filepath.Rel(root, filepath.FromSlash(u.Path))
	if err != nil || !filepath.IsLocal(name) {
		return "", errOutside()
	}
	return name, nil
}

func errNotRegular() error { return &Error{Kind: Forbidden, Msg: "not a regular file"} }

func errOutside() error {
	return &Error{Kind: Forbidden, Msg: "outside the folder that ONCEOVER_IMAGE_ROOT allows"}
}

// fileError gives an error of the file system its Kind.
func fileError(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return &Error{Kind: NotFound, Msg: "no such file", Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &Error{Kind: Forbidden, Msg: "permission denied by the file system", Err: err}
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EINVAL):
		return &Error{Kind: BadURL, Msg: "not a usable file name", Err: err}
	case errors.As(err, &errno):
		return &Error{Kind: Transient, Msg: "file system: " + errno.Error(), Err: err}
	}
	// What is left is os.Root's refusal to leave the root, for which there is no sentinel.
	return errOutside()
}
