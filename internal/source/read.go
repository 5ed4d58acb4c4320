package source

import "io"

// firstRead is the buffer that a body gets before its first byte has arrived, in bytes. A typical photo (2-5 MB) then takes four
// doublings, and 100 servers that announce much and send nothing hold 50 MB together, not 2 GB.
const firstRead = 512 << 10

// readAll reads r to its end, but at most maxBytes bytes; more is TooLarge, none is Unusable. size is the announced length or -1. It is
// used to refuse early and to spare memory, never trusted: the buffer at most doubles beyond what has arrived.
func readAll(r io.Reader, size, maxBytes int64) ([]byte, error) {
	if size > maxBytes {
		return nil, errTooLarge(maxBytes)
	}
	// One byte more than expected, so that the read that meets the end needs no larger buffer.
	room := maxBytes + 1
	if size >= 0 {
		room = size + 1
	}
	buf := make([]byte, 0, min(room, firstRead))
	for {
		if len(buf) == cap(buf) {
			next := min(2*int64(cap(buf)), maxBytes+1)
			if int64(cap(buf)) < room {
				next = min(next, room)
			}
			grown := make([]byte, len(buf), next)
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > maxBytes:
			return nil, errTooLarge(maxBytes)
		case err == io.EOF && len(buf) == 0:
			return nil, errEmpty()
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return nil, err
		}
	}
}
