package celery

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// MaxBodyBytes is the longest body that is taken, after decompression: the
// longest message that RabbitMQ takes.
const MaxBodyBytes = 128 << 20

// decodeContent returns a body as valid JSON, whatever it was serialised and
// compressed with. The reason is ReasonContentType for what is not accepted and
// ReasonBody for what cannot be decoded.
//
// NaN, which Python writes into JSON and JSON does not know, becomes null, and
// its infinities become 1e999 and -1e999, which Python reads as such.
func decodeContent(contentType, encoding, compression string, body []byte) (json.RawMessage, Reason, error) {
	decode, err := serializer(contentType)
	if err != nil {
		return nil, ReasonContentType, err
	}
	open, err := compressor(compression)
	if err != nil {
		return nil, ReasonContentType, err
	}
	if open != nil {
		if body, err = decompress(open, body, MaxBodyBytes); err != nil {
			return nil, ReasonBody, fmt.Errorf("the body, compressed with %s: %w", compression, err)
		}
	}
	if len(body) > MaxBodyBytes {
		return nil, ReasonBody, fmt.Errorf("the body has %d bytes: expected at most %d", len(body), MaxBodyBytes)
	}
	if body, err = toUTF8(body, encoding); err != nil {
		return nil, ReasonContentType, err
	}
	doc, err := decode(body)
	if err != nil {
		return nil, ReasonBody, fmt.Errorf("the body is not %s: %w", mediaType(contentType), err)
	}
	return doc, "", nil
}

// serializer returns the decoder of a content type.
func serializer(contentType string) (func([]byte) (json.RawMessage, error), error) {
	switch mediaType(contentType) {
	case ContentTypeJSON:
		return decodeJSON, nil
	case "application/x-yaml", "application/yaml", "text/yaml", "text/x-yaml":
		return decodeYAML, nil
	case "application/x-msgpack", "application/msgpack", "application/vnd.msgpack":
		return decodeMsgpack, nil
	case "application/x-python-serialize":
		return nil, errors.New("content type application/x-python-serialize (pickle) is never accepted, as it can run any code: " +
			"set task_serializer = \"json\"")
	}
	return nil, fmt.Errorf("content type %q is not accepted: expected %s, application/x-yaml or application/x-msgpack "+
		"(set task_serializer = \"json\")", clip(contentType, 64), ContentTypeJSON)
}

// compressor returns the decompressor of kombu's name of it, nil for none. What
// Celery calls gzip is a zlib stream; a real gzip stream is taken, too.
func compressor(name string) (func(io.Reader) (io.Reader, error), error) {
	switch name {
	case "":
		return nil, nil
	case "application/x-gzip", "gzip", "zlib":
		return func(r io.Reader) (io.Reader, error) {
			buffered := r.(*bytes.Reader)
			var magic [2]byte
			if _, err := buffered.ReadAt(magic[:], 0); err == nil && magic == [2]byte{0x1f, 0x8b} {
				return gzip.NewReader(r)
			}
			return zlib.NewReader(r)
		}, nil
	case "application/x-bz2", "application/x-bzip2", "bzip2", "bzip":
		return func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }, nil
	case "application/zstd", "zstd", "zstandard":
		return func(r io.Reader) (io.Reader, error) {
			return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBodyBytes))
		}, nil
	case "application/x-brotli", "brotli":
		return func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil }, nil
	}
	return nil, fmt.Errorf("compression %q is not accepted: expected gzip, bzip2, zstd or brotli (or leave task_compression unset)", clip(name, 64))
}

// decompress reads all of it, if it is no longer than limit.
func decompress(open func(io.Reader) (io.Reader, error), body []byte, limit int64) ([]byte, error) {
	r, err := open(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if z, ok := r.(*zstd.Decoder); ok {
		defer z.Close()
	}
	out, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(out)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return out, nil
}

// decodeJSON accepts JSON as Python writes it.
func decodeJSON(body []byte) (json.RawMessage, error) {
	if err := checkUTF8(body); err != nil {
		return nil, err
	}
	if json.Valid(body) {
		return body, nil
	}
	doc := withoutNonFinite(body)
	if !json.Valid(doc) {
		var v any
		return nil, json.Unmarshal(body, &v) // says where it is wrong
	}
	return doc, nil
}

// withoutNonFinite replaces the literals NaN, Infinity and -Infinity outside of
// strings.
func withoutNonFinite(body []byte) []byte {
	out := make([]byte, 0, len(body))
	quoted := false
	for i := 0; i < len(body); i++ {
		c := body[i]
		switch {
		case quoted && c == '\\' && i+1 < len(body):
			out = append(out, c, body[i+1])
			i++
			continue
		case c == '"':
			quoted = !quoted
		case !quoted && c == 'N' && bytes.HasPrefix(body[i:], []byte("NaN")):
			out = append(out, "null"...)
			i += len("NaN") - 1
			continue
		case !quoted && c == 'I' && bytes.HasPrefix(body[i:], []byte("Infinity")):
			out = append(out, "1e999"...)
			i += len("Infinity") - 1
			continue
		}
		out = append(out, c)
	}
	return out
}
