package celery

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// TestContentRecorded decodes what kombu wrote (testdata/record_content.py).
func TestContentRecorded(t *testing.T) {
	data, err := os.ReadFile("testdata/content.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Name            string
		ContentType     string `json:"content_type"`
		ContentEncoding string `json:"content_encoding"`
		Compression     string
		Body            string `json:"body_base64"`
		Want            any
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Fatalf("got %d recorded bodies", len(all))
	}
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			body, err := base64.StdEncoding.DecodeString(c.Body)
			if err != nil {
				t.Fatal(err)
			}
			doc, _, err := decodeContent(c.ContentType, c.ContentEncoding, c.Compression, body)
			if err != nil {
				t.Fatal(err)
			}
			var got any
			if err := json.Unmarshal(doc, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.Want, got); diff != "" {
				t.Errorf("(-Python's +ours):\n%s", diff)
			}
		})
	}
}

func TestContent(t *testing.T) {
	const (
		jsonType, yamlType, packType = "application/json", "application/x-yaml", "application/x-msgpack"
	)
	for _, tt := range []struct {
		name, contentType, body string
		want                    string // JSON, or a reason and a word of the error
	}{
		{"NaN and infinities", jsonType, `[NaN, [Infinity], {"a": -Infinity}, "NaN Infinity \" NaN"]`, `[null, [1e999], {"a": -1e999}, "NaN Infinity \" NaN"]`},
		{"big integer", jsonType, `[123456789012345678901234567890]`, `[123456789012345678901234567890]`},
		{"half a NaN", jsonType, `[Na]`, "body: not application/json"},
		{"charset", "application/json; charset=utf-8", `[]`, `[]`},
		{"yaml 1.1 booleans", yamlType, "[yes, No, ON, off, true, 'yes', y]", `[true,false,true,false,true,"yes","y"]`},
		{"yaml numbers", yamlType, "[0x1F, 12345678901234567890123, 1_000, .inf, -.inf, .nan, 1.5]", `[31,12345678901234567890123,1000,1e999,-1e999,null,1.5]`},
		{"yaml alias", yamlType, "[&a [1], *a]", `[[1],[1]]`},
		{"yaml bomb", yamlType, bomb(), "body: aliases"},
		{"yaml python tag", yamlType, "!!python/object/apply:os.system ['true']", "body: tag"},
		{"yaml own tag", yamlType, "[!x 1]", "body: tag"},
		{"two yaml documents", yamlType, "--- 1\n--- 2\n", "body: more than one"},
		{"empty yaml", yamlType, "", "body: empty"},
		{"yaml bytes", yamlType, "[!!binary aGV5]", `[{"__type__":"bytes","__value__":"hey"}]`},
		{"msgpack integer keys", packType, "\x81\x01\xa1x", `{"1":"x"}`},
		{"msgpack floats", packType, "\x92\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00", `[1e999,0.5]`},
		{"msgpack rest", packType, "\x90\x90", "body: follow"},
		{"msgpack huge array", packType, "\xdd\xff\xff\xff\xff", "body: ends"},
		{"msgpack extension", packType, "\xd4\x07\x00", "body: type"},
		{"msgpack list as key", packType, "\x81\x90\x01", "body: key"},
		{"msgpack empty", packType, "", "body: ends"},
		{"pickle", "application/x-python-serialize", "\x80\x04", "content-type: pickle"},
		{"text", "text/plain", "x", "content-type: text/plain"},
	} {
		doc, reason, err := decodeContent(tt.contentType, "utf-8", "", []byte(tt.body))
		if err != nil {
			want, word, _ := strings.Cut(tt.want, ": ")
			if string(reason) != want || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %s: %v, want %s", tt.name, reason, err, tt.want)
			}
			continue
		}
		if string(doc) != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, doc, tt.want)
		}
	}
}

// bomb is a YAML document of a few hundred bytes that stands for 10^9 values.
func bomb() string {
	var b strings.Builder
	b.WriteString("- &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 8 {
		from, to := string(rune('0'+i)), string(rune('1'+i))
		b.WriteString("- &a" + to + " [" + strings.Repeat("*a"+from+", ", 9) + "*a" + from + "]\n")
	}
	return b.String()
}

func TestCompression(t *testing.T) {
	squeeze := func(data []byte) []byte {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, err := w.Write(data)
		if closeErr := w.Close(); err != nil || closeErr != nil {
			t.Fatal(err, closeErr)
		}
		return b.Bytes()
	}
	var real bytes.Buffer
	w := gzip.NewWriter(&real)
	_, err := w.Write([]byte("[1]"))
	if closeErr := w.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
	if doc, _, err := decodeContent(ContentTypeJSON, "", "gzip", real.Bytes()); string(doc) != "[1]" || err != nil {
		t.Errorf("a real gzip stream: got %s, %v", doc, err)
	}
	good := squeeze([]byte("[1,2,3]"))
	for name, tt := range map[string]struct {
		compression string
		body        []byte
		reason      Reason
		word        string
	}{
		"truncated": {"application/x-gzip", good[:len(good)-4], ReasonBody, "unexpected EOF"},
		"no stream": {"application/zstd", []byte("[1]"), ReasonBody, "zstd"},
		"unknown":   {"application/x-lzma", good, ReasonContentType, "expected gzip"},
	} {
		if doc, reason, err := decodeContent(ContentTypeJSON, "", tt.compression, tt.body); err == nil || reason != tt.reason || !strings.Contains(err.Error(), tt.word) {
			t.Errorf("%s: got %.20s, %s, %v, want %s with %q", name, doc, reason, err, tt.reason, tt.word)
		}
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, err := w.Write(make([]byte, 1<<20))
	if closeErr := w.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
	open, err := compressor("zlib")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := decompress(open, b.Bytes(), 1<<20); len(out) != 1<<20 || err != nil {
		t.Errorf("at the limit: got %d bytes, %v", len(out), err)
	}
	if _, err := decompress(open, b.Bytes(), 1<<20-1); err == nil || !strings.Contains(err.Error(), "more than 1048575 bytes") {
		t.Errorf("beyond it: got %v", err)
	}
}

func FuzzContent(f *testing.F) {
	f.Add("application/json", "", "", []byte(`[NaN, "NaN"]`))
	f.Add("application/json", "latin-1", "", []byte("[\"\xe9\"]"))
	f.Add("application/json", "utf-16", "", []byte("\xff\xfe[\x00\"\x00=\xd8\x00\xde\"\x00]\x00"))
	f.Add("application/x-yaml", "", "", []byte("a: [yes, 0x1F, 2030-01-02, !!binary aGV5]"))
	f.Add("application/x-msgpack", "binary", "", []byte("\x82\xa1a\xc4\x01\xff\x01\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"))
	f.Add("application/json", "", "application/x-bz2", []byte("BZh9"))
	f.Add("application/json", "", "application/zstd", []byte("\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, contentType, encoding, compression string, body []byte) {
		doc, reason, err := decodeContent(contentType, encoding, compression, body)
		switch {
		case err == nil && (!json.Valid(doc) || !utf8.Valid(doc)):
			t.Fatalf("not JSON: %q", doc)
		case err != nil && reason == "":
			t.Fatalf("%v has no reason", err)
		}
	})
}
