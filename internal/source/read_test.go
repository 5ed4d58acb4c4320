package source

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestReadAll(t *testing.T) {
	t.Parallel()
	const limit = 3 << 20
	content := bytes.Repeat([]byte("0123456789abcdef"), limit/16)
	readers := map[string]func(io.Reader) io.Reader{
		"plain":         func(r io.Reader) io.Reader { return r },
		"half":          iotest.HalfReader,
		"data with EOF": iotest.DataErrReader,
	}
	for name, reader := range readers {
		for _, n := range []int64{1, firstRead - 1, firstRead, firstRead + 1, limit} {
			// Announced truly, not at all, too small (a file that grows) and too large.
			for _, size := range []int64{n, -1, 0, n / 2, limit} {
				got, err := readAll(reader(bytes.NewReader(content[:n])), size, limit)
				if err != nil || !bytes.Equal(got, content[:n]) {
					t.Errorf("%s: %d bytes announced as %d: got %d bytes and error %v", name, n, size, len(got), err)
				}
			}
		}
		for _, size := range []int64{-1, 10, limit - 1} {
			_, err := readAll(reader(bytes.NewReader(content)), size, limit-1)
			wantKind(t, err, TooLarge, "")
		}
	}
}

// TestReadAllTrustsNoAnnouncement: a server that announces much and sends little must not make us reserve what it announced.
func TestReadAllTrustsNoAnnouncement(t *testing.T) {
	t.Parallel()
	asked := 0
	cut := errors.New("cut")
	_, err := readAll(readerFunc(func(p []byte) (int, error) {
		asked = max(asked, len(p))
		return 10, cut
	}), 20_000_000, 20_000_000)
	if !errors.Is(err, cut) {
		t.Errorf("got error %v, want the reader's", err)
	}
	if asked > firstRead {
		t.Errorf("got a buffer of %d bytes, want at most %d before anything has arrived", asked, firstRead)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
