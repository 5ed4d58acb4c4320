package redact

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"plain", "no such file: a.jpg", "no such file: a.jpg"},
		{"URL without secrets", "https://store.example/a.jpg is missing", "https://store.example/a.jpg is missing"},
		{"signed", "GET https://store.example/a.jpg?X-Amz-Signature=secret&b=1: 403", "GET https://store.example/a.jpg?… 403"},
		{"fragment", "https://store.example/a#secret", "https://store.example/a?…"},
		{"user", "amqp://user:secret@mq.example:5672/vhost", "amqp://mq.example:5672/vhost"},
		{"password alone", "redis://:secret@cache.example:6379/5", "redis://cache.example:6379/5"},
		{"upper case", "HTTPS://U:secret@Store.example/A?secret", "https://Store.example/A?…"},
		{"data", "data:image/png;base64,c2VjcmV0", "data:image/png;… (8 bytes)"},
		{"data in upper case", "DATA:,secret", "data:… (6 bytes)"},
		{"no data URL", "invalid data: expected a number", "invalid data: expected a number"},
		{"repr", `('https://s.example/a?secret', "https://s.example/b?secret", 3)`, `('https://s.example/a?…', "https://s.example/b?…", 3)`},
		{"repr of a dict", `{'url': 'https://u:secret@s.example/a', 'd': 'data:,secret'}`, `{'url': 'https://s.example/a', 'd': 'data:… (6 bytes)'}`},
		{"JSON", `{"url":"https://s.example/a?secret"}`, `{"url":"https://s.example/a?…"}`},
		{"repr that was cut", `('https://s.example/a?X-Amz-Signature=secre...`, `('https://s.example/a?…`},
		{"several lines", "https://a.example/?secret\nhttps://b.example/?secret", "https://a.example/?…\nhttps://b.example/?…"},
		{"in brackets", "<https://a.example/?secret>", "<https://a.example/?…>"},
		{"S3", "s3://bucket/key?versionId=secret", "s3://bucket/key?…"},
		{"not parsable", "https://[::1/a?secret", "invalid URL (21 bytes)"},
		{"bad escape", "https://s.example/%zz?secret", "invalid URL (28 bytes)"},
		{"query in the query", "https://s.example/?u=https://t.example/?secret", "https://s.example/?…"},
		{"glued", `urlhttps://s.example/a?secret`, `urlhttps://s.example/a?…`},
	}
	for _, tt := range tests {
		got := Text(tt.in)
		if strings.Contains(got, "secret") || strings.Contains(got, "c2VjcmV0") {
			t.Errorf("%s: got %q, which has the secret", tt.name, got)
		} else if got != tt.want && !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if twice := Text(got); strings.Contains(twice, "secret") {
			t.Errorf("%s: got %q the second time", tt.name, twice)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("https://u:p@s.example/a?b#c data:,x")
	f.Add("data:\xff,\xff https://\xff?\xff")
	f.Fuzz(func(t *testing.T, in string) {
		out := Text(in)
		if utf8.ValidString(in) && !utf8.ValidString(out) {
			t.Errorf("%q: got %q, which is no UTF-8", in, out)
		}
	})
}
