package source

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// TestGuard goes through the addresses one by one, in the form in which the dialer hands them over. It pins what the library and
// its tables cover, so that an update cannot take something away unseen.
func TestGuard(t *testing.T) {
	t.Parallel()
	allow, err := parseAllow([]string{"10.20.0.0/16", "192.168.1.5", "fd12::/16", "::ffff:172.16.0.0/112", "minio"})
	if err != nil {
		t.Fatal(err)
	}
	guard := newGuard(allow)
	tests := []struct {
		addr, what string
		ok         bool
	}{
		{"0.0.0.0", "unspecified", false},
		{"0.1.2.3", "this network", false},
		{"10.0.0.1", "private", false},
		{"100.64.0.1", "CGNAT", false},
		{"100.100.100.200", "metadata of Alibaba", false},
		{"127.0.0.1", "loopback", false},
		{"127.255.255.254", "loopback", false},
		{"168.63.129.16", "virtual IP of Azure", false},
		{"169.254.0.1", "link-local", false},
		{"169.254.169.254", "metadata", false},
		{"169.254.170.2", "credentials of ECS", false},
		{"172.17.1.1", "private", false},
		{"172.31.255.255", "private", false},
		{"192.0.0.192", "metadata of Oracle", false},
		{"192.0.2.1", "documentation", false},
		{"192.88.99.1", "6to4 relay", false},
		{"192.168.0.1", "private", false},
		{"198.18.0.1", "benchmarking", false},
		{"224.0.0.1", "multicast", false},
		{"239.255.255.250", "multicast", false},
		{"240.0.0.1", "reserved", false},
		{"255.255.255.255", "broadcast", false},
		{"::", "unspecified", false},
		{"::1", "loopback", false},
		{"::7f00:1", "IPv4-compatible", false},
		{"::ffff:127.0.0.1", "IPv4-mapped", false},
		{"::ffff:93.184.216.34", "IPv4-mapped", false},
		{"::ffff:0:7f00:1", "IPv4-translated", false},
		{"64:ff9b::7f00:1", "NAT64", false},
		{"64:ff9b::a9fe:a9fe", "NAT64 of the metadata address", false},
		{"64:ff9b:1::1", "local NAT64", false},
		{"100::1", "discard", false},
		{"2001::1", "Teredo", false},
		{"2001:db8::1", "documentation", false},
		{"2002:7f00:1::", "6to4", false},
		{"3fff::1", "documentation", false},
		{"5f00::1", "segment routing", false},
		{"fc00::1", "unique local", false},
		{"fd00:ec2::254", "metadata", false},
		{"fe80::1", "link-local", false},
		{"fe80::1%eth0", "link-local with zone", false},
		{"2606:4700::1111%eth0", "public with zone", false},
		{"fec0::1", "site-local", false},
		{"ff02::1", "multicast", false},

		{"93.184.216.34", "public", true},
		{"172.32.0.1", "public", true},
		{"100.128.0.1", "public", true},
		{"2606:4700::1111", "public", true},

		{"10.20.30.40", "allowed CIDR", true},
		{"10.21.0.1", "beside an allowed CIDR", false},
		{"192.168.1.5", "allowed address", true},
		{"192.168.1.6", "beside an allowed address", false},
		{"fd12:1::1", "allowed CIDR", true},
		{"fd13::1", "beside an allowed CIDR", false},
		{"172.16.0.9", "allowed in IPv4-mapped form", true},
	}
	for _, tt := range tests {
		network := "tcp4"
		if strings.Contains(tt.addr, ":") {
			network = "tcp6"
		}
		for _, port := range []string{"80", "6379"} {
			err := guard.Safe(network, net.JoinHostPort(tt.addr, port), nil)
			if (err == nil) != tt.ok {
				t.Errorf("%s (%s), port %s: got error %v, want allowed %v", tt.addr, tt.what, port, err, tt.ok)
			}
		}
	}
}

// TestFetchForbidden spells the loopback address of a real server in every way, directly and as the target of a redirect, and
// wants no request to arrive. Every name resolves to 127.0.0.1, as with a hostile name server.
func TestFetchForbidden(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		to := r.URL.Query().Get("to")
		if !strings.HasPrefix(r.Host, "allowed.test:") || to == "" {
			reached.Store(true)
			io.WriteString(w, "inside")
			return
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	})
	f := newTestFetcher(t, hooks{resolver: resolveAll(local)}, func(c *Config) { c.Allow = []string{"Allowed.test"} })
	refused := map[Kind][]string{
		Forbidden: {
			"127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "localhost.", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
			"0.0.0.0", "10.0.0.1", "169.254.169.254", "192.168.0.1", "100.64.0.1", "224.0.0.1", "１２７.0.0.1",
			"0x7f000001", "0x7f.1", "rebind.test", "allowed.test.", "sub.allowed.test", "allowed.test@127.0.0.1", "ⓛocalhost",
		},
		// Go takes these spellings neither for addresses nor for names. A resolver that does, as getaddrinfo, hands their address
		// to the same guard as any other name's.
		NotFound: {"2130706433", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "127.0.0.1."},
	}
	for kind, hosts := range refused {
		for _, host := range hosts {
			target := "http://" + host + port(s) + "/latest/meta-data/?sig=SECRET"
			for name, rawURL := range map[string]string{
				"direct":   target,
				"redirect": "http://allowed.test" + port(s) + "/?to=" + url.QueryEscape(target),
			} {
				t.Run(name+" "+host, func(t *testing.T) {
					_, err := fetch(t, f, rawURL)
					e := wantKind(t, err, kind, "/latest/meta-data/: ")
					if strings.Contains(e.Msg, "SECRET") {
						t.Errorf("error shows the query: %q", e.Msg)
					}
				})
			}
		}
	}
	if reached.Load() {
		t.Error("a request reached the server, want none")
	}
}

func TestFetchAllowed(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "picture") })
	tests := []struct {
		allow, host string
		ok          bool
	}{
		{"127.0.0.0/8", "127.0.0.1", true},
		{"127.0.0.0/8", "any.test", true},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "any.test", true},
		{"::ffff:127.0.0.1", "127.0.0.1", true},
		{"any.test", "any.test", true},
		{"ANY.test", "any.TEST", true},
		{"any.test", "other.test", false},
		{"any.test", "127.0.0.1", false},
		{"127.0.0.2", "127.0.0.1", false},
		{"::/0", "127.0.0.1", false},
	}
	for _, tt := range tests {
		f := newTestFetcher(t, hooks{resolver: resolveAll(local)}, func(c *Config) { c.Allow = []string{tt.allow} })
		_, err := fetch(t, f, "http://"+tt.host+port(s))
		if tt.ok && err != nil {
			t.Errorf("%s with %s allowed: got error %v, want none", tt.host, tt.allow, err)
		}
		if !tt.ok {
			wantKind(t, err, Forbidden, "")
		}
	}
}

func TestFetchBadURL(t *testing.T) {
	t.Parallel()
	tests := []struct {
		url  string
		kind Kind
	}{
		{"", BadURL},
		{"picture.png", BadURL},
		{"/etc/passwd", BadURL},
		{"//host/SECRET", BadURL},
		{"http://", BadURL},
		{"http:", BadURL},
		{"http:SECRET", BadURL},
		{"http://:80/", BadURL},
		{"http://user:SECRET@/", BadURL},
		{"http://user:SECRET/", BadURL}, // a password taken for a port
		{"http://127.0.0.1:0/", BadURL},
		{"http://127.0.0.1:65536/", BadURL},
		{"http://%31%32%37.0.0.1/", BadURL},
		{"http://127.0.0.1 /", BadURL},
		{"s3:bucket", BadURL},
		{"s3://", BadURL},
		{"s3://bucket", BadURL},
		{"s3://bucket/", BadURL},
		{"s3:///key", BadURL},
		{"s3://bucket/../admin", BadURL},
		{"s3://bucket/a/./b", BadURL},
		{"s3://b/key", BadURL}, // too short for a bucket
		{"ftp://host/SECRET?", Forbidden},
		{"gopher://127.0.0.1:6379/_FLUSHALL", Forbidden},
		{"javascript:SECRET", Forbidden},
		{"unix:///var/run/docker.sock", Forbidden},
	}
	f := newTestFetcher(t, hooks{}, nil)
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			t.Parallel()
			_, err := fetch(t, f, tt.url)
			e := wantKind(t, err, tt.kind, "fetch ")
			if strings.Contains(e.Msg, "SECRET") && !strings.Contains(tt.url, "/SECRET") {
				t.Errorf("error shows what it must not: %q", e.Msg)
			}
		})
	}
}
