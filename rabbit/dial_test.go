package rabbit

import (
	"slices"
	"testing"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	for raw, vhost := range map[string]string{
		"amqp://guest:guest@h:5672//": "/", "amqp://h": "/", "amqp://h/": "/", "amqp://h/prod": "prod",
		"pyamqp://u:p@h:5672/%2Fprod": "/prod", "amqps://h//": "/",
	} {
		uri, err := ParseURL(raw)
		if err != nil || uri.Vhost != vhost {
			t.Errorf("%s: got vhost %q, %v, want %q", raw, uri.Vhost, err, vhost)
		}
	}
}

func TestSplitURLs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		list string
		want []string
	}{
		{"amqp://u:p@a//", []string{"amqp://u:p@a//"}},
		{"amqp://u:p@a:5672//;amqp://u:q@b:5672//", []string{"amqp://u:p@a:5672//", "amqp://u:q@b:5672//"}},
		{" amqp://a// ; pyamqp://b// ;", []string{"amqp://a//", "pyamqp://b//"}},
		{"amqp://a//, amqps://b//", []string{"amqp://a//", "amqps://b//"}},
		{"amqp://u:p,w@a//,amqp://b/v,w", []string{"amqp://u:p,w@a//", "amqp://b/v,w"}},
		{"", nil},
		{";;", nil},
	} {
		if got := SplitURLs(tt.list); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.list, got, tt.want)
		}
	}
}
