package celery

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"onceover/internal/testenv"
)

func utf16Bytes(text string, big bool) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(text)) {
		if big {
			out = append(out, byte(u>>8), byte(u))
		} else {
			out = append(out, byte(u), byte(u>>8))
		}
	}
	return out
}

// TestContentEncodingsAsPython reads each body under each name of an encoding, whether
// it is in it or not.
func TestContentEncodingsAsPython(t *testing.T) {
	python := testenv.Python(t, "kombu")
	var bodies [][]byte
	for _, text := range []string{`["a"]`, `["ab"]`, `["é"]`, `["한글"]`, `["a😀"]`} {
		bodies = append(bodies, []byte(text), []byte("\ufeff"+text), utf16Bytes(text, false), utf16Bytes(text, true),
			utf16Bytes("\ufeff"+text, false), utf16Bytes("\ufeff"+text, true))
	}
	bodies = append(bodies, []byte("[\"\xe9\"]"), []byte("[\"\xed\xa0\x80\"]"), []byte("[\"\xe9"), utf16Bytes("[\"\ufffd\"]", false), utf16Bytes(`["`, false),
		append(utf16Bytes(`["`, false), 0x3d, 0xd8, '"', 0, ']', 0), append(utf16Bytes(`["`, false), 0x3d, 0xd8))
	type body struct{ base64, encoding string }
	var all []body
	for _, b := range bodies {
		for _, name := range []string{
			"utf-8", "UTF-8", "utf8", "utf_8", "us-ascii", "ascii", "binary", "utf-8-sig", "latin-1", "Latin1", "iso-8859-1", "ISO_8859-1", "l1",
			"utf-16", "UTF16", "utf-16-le", "UTF-16LE", "utf_16_be",
		} {
			all = append(all, body{base64.StdEncoding.EncodeToString(b), name})
		}
	}
	pairs := make([][2]string, len(all))
	for i, b := range all {
		pairs[i] = [2]string{b.base64, b.encoding}
	}
	in, err := json.Marshal(pairs)
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	cmd := exec.Command(python, "testdata/read_bodies.py")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, complaint.String())
	}
	var want []any
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for i, b := range all {
		raw, _ := base64.StdEncoding.DecodeString(b.base64)
		doc, reason, err := decodeContent(ContentTypeJSON, b.encoding, "", raw)
		var got any
		if err == nil {
			err = json.Unmarshal(doc, &got)
		} else if reason != ReasonBody {
			t.Errorf("%q as %s: got the reason %s for %v", raw, b.encoding, reason, err)
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("%q as %s: %v (-Python's +ours):\n%s", raw, b.encoding, err, diff)
		}
		if want[i] != nil {
			taken++
		}
	}
	t.Logf("%d bodies, of which Python takes %d", len(all), taken)
	if taken < 100 || len(all)-taken < 100 {
		t.Errorf("Python takes %d of %d bodies: expected at least 100 on either side", taken, len(all))
	}
}

func TestUnknownContentEncoding(t *testing.T) {
	if doc, _, err := decodeContent(ContentTypeJSON, "euc-kr", "", []byte(`["\ud55c"]`)); string(doc) != `["\ud55c"]` || err != nil {
		t.Errorf("ASCII: got %s, %v, want it taken, as it is the same in all", doc, err)
	}
	_, reason, err := decodeContent(ContentTypeJSON, "euc-kr", "", []byte("[\"\xc7\xd1\"]"))
	if reason != ReasonContentType || err == nil || !strings.Contains(err.Error(), `"euc-kr"`) || !strings.Contains(err.Error(), "latin-1") {
		t.Errorf("got %s, %v, want it refused by name, with what is accepted", reason, err)
	}
	if _, reason, err := decodeContent(ContentTypeJSON, "", "", []byte("[\"ab\xe9\"]")); reason != ReasonBody || !strings.Contains(err.Error(), "byte 4 is not UTF-8") {
		t.Errorf("latin-1 without a name: got %s, %v, want the byte named", reason, err)
	}
}
