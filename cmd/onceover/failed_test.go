package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// TestDocuments cuts what is imported into records, good and bad.
func TestDocuments(t *testing.T) {
	const good = `{"id":"a","state":"FAILURE","reason":"failed","last":"2026-11-28T10:00:00Z","message":{"queue":"q","body":"e30="}}`
	pretty := strings.NewReplacer(`{"`, "{\n  \"", `,"`, ",\n  \"", `}`, "\n}").Replace(`{"id":"a","state":"FAILURE"}`)
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"\n \r\n", ""},
		{good, "1+"},
		{good + "\r\n\n" + good + "\n", "1+ 3+"},
		{"text\n" + good + "\n\x00\xff\n" + good, "1- 2+ 3- 4+"},
		{good[:40] + "\n" + good + "\n" + good[40:] + "\n" + good, "1- 2+ 3- 4+"},
		{`{"id":"a","message":` + "\n" + good + "\n}\n" + good, "1- 2+ 3- 4+"},
		{`{"id":"a","message":` + "\n  " + good + "\n}\n" + good, "1- 2+ 3- 4+"},
		{"{\n" + good + "\n\"\n" + good + "\n{", "1- 2+ 3- 4+ 5-"},
		{pretty + "\n" + good, "1? 5+"},
		{good + good + "\n" + good, "1- 2+"},
		{"null\n[]\n" + good + "\n\ufeff" + good, "1- 2- 3+ 4-"},
		{strings.Repeat("{\n", 200) + good, strings.Join(each(200, "-"), " ") + " 201+"},
	} {
		docs := documents{lines: bufio.NewReader(strings.NewReader(tt.in))}
		var got []string
		for {
			line, doc, err := docs.next()
			if errors.Is(err, io.EOF) {
				break
			}
			mark := "-"
			if string(doc) == pretty {
				mark = "?"
			} else if _, err := parseRecord(doc); err == nil {
				mark = "+"
			}
			got = append(got, fmt.Sprint(line)+mark)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%.200q: got %s, want %s", tt.in, s, tt.want)
		}
	}
}

// each returns the numbers up to n with a mark.
func each(n int, mark string) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(i+1)+mark)
	}
	return out
}
