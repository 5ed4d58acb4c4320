package ratelimit_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"onceover/internal/ratelimit"
	"onceover/internal/testenv"
)

const client = "198.51.100.9" // who is at the other end

// trusted are the proxies of the tables.
var trusted = []string{"10.0.0.0/8", "2001:db8::7", " ::ffff:172.16.0.0/108"}

// forged is what clients and proxies write.
var forged = []struct {
	name, peer string
	headers    []string // of X-Forwarded-For
	want       string
}{
	{"no proxy", client + ":4711", nil, client},
	{"a header without a proxy", client + ":4711", []string{"203.0.113.1"}, client},
	{"many headers without a proxy", client + ":4711", []string{"10.0.0.1", "10.0.0.2, 127.0.0.1"}, client},
	{"a proxy's address in the header", client + ":4711", []string{"10.0.0.5"}, client},
	{"a proxy that says nothing", "10.0.0.5:80", nil, "10.0.0.5"},
	{"a proxy", "10.0.0.5:80", []string{client}, client},
	{"a client that wrote a header of its own", "10.0.0.5:80", []string{"203.0.113.1, " + client}, client},
	{"the same in a header field of its own", "10.0.0.5:80", []string{"203.0.113.1", client}, client},
	{"a client that names a proxy", "10.0.0.5:80", []string{"10.0.0.6, " + client}, client},
	{"a client that names itself a proxy's neighbour", "10.0.0.5:80", []string{client + ", 10.9.9.9"}, client},
	{"two proxies", "10.0.0.5:80", []string{client + ", 10.0.0.6"}, client},
	{"two proxies and a forged start", "10.0.0.5:80", []string{"127.0.0.1, ::1, " + client + ",10.0.0.6"}, client},
	{"proxies only", "10.0.0.5:80", []string{"10.0.0.7, 10.0.0.6"}, "10.0.0.7"},
	{"a proxy that is not trusted", "192.0.2.200:80", []string{client}, "192.0.2.200"},
	{"an untrusted proxy behind a trusted one", "10.0.0.5:80", []string{client + ", 192.0.2.200"}, "192.0.2.200"},
	{"IPv4 in IPv6 form", "[::ffff:10.0.0.5]:80", []string{"::ffff:" + client}, client},
	{"a port", "10.0.0.5:80", []string{client + ":5555"}, client},
	{"IPv6", "[2001:db8::7]:80", []string{"2001:DB8:0:0::1"}, "2001:db8::1"},
	{"IPv6 with brackets", "10.0.0.5:80", []string{"[2001:db8::1]"}, "2001:db8::1"},
	{"IPv6 with a port", "10.0.0.5:80", []string{"[2001:db8::1]:443"}, "2001:db8::1"},
	{"a zone", "10.0.0.5:80", []string{"fe80::1%eth0"}, "fe80::1"},
	{"a zone of the peer", "[fe80::1%eth0]:80", nil, "fe80::1"},
	{"not an address, last", "10.0.0.5:80", []string{client + ", unknown"}, "10.0.0.5"},
	{"not an address, before", "10.0.0.5:80", []string{"203.0.113.1, unknown, 10.0.0.6"}, "10.0.0.6"},
	{"nothing between commas", "10.0.0.5:80", []string{client + ", ,"}, "10.0.0.5"},
	{"an empty header", "10.0.0.5:80", []string{""}, "10.0.0.5"},
	{"leading zeros", "10.0.0.5:80", []string{"198.051.100.009"}, "10.0.0.5"},
	{"a name", "10.0.0.5:80", []string{"localhost"}, "10.0.0.5"},
	{"a number", "10.0.0.5:80", []string{"3325256713"}, "10.0.0.5"},
	{"a quoted address", "10.0.0.5:80", []string{`"` + client + `"`}, "10.0.0.5"},
	{"brackets around IPv4", "10.0.0.5:80", []string{"[" + client + "]"}, "10.0.0.5"},
	{"an open bracket", "10.0.0.5:80", []string{"[2001:db8::1"}, "10.0.0.5"},
	{"a hundred thousand proxies", "10.0.0.5:80", []string{client + strings.Repeat(",10.0.0.6", 100_000)}, client},
	{"a peer without an address", "@", []string{client}, "invalid IP"},
}

// others are headers that nobody believes.
var others = http.Header{
	"X-Real-Ip": {"203.0.113.66"}, "Forwarded": {"for=203.0.113.66"}, "True-Client-Ip": {"203.0.113.66"}, "Cf-Connecting-Ip": {"203.0.113.66"},
}

func TestForgedHeaders(t *testing.T) {
	t.Parallel()
	proxies, err := ratelimit.ParseProxies(trusted)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range forged {
		r := &http.Request{RemoteAddr: tt.peer, Header: others.Clone()}
		r.Header["X-Forwarded-For"] = tt.headers
		if got := proxies.Client(r).String(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if pair, err := netip.ParseAddrPort(tt.peer); err == nil {
			if got, want := ratelimit.Proxies(nil).Client(r), pair.Addr().Unmap().WithZone(""); got != want {
				t.Errorf("%s: got %s where no proxy is trusted, want the peer %s", tt.name, got, want)
			}
		}
	}
}

// TestPythonAgrees: the example for FastAPI counts the same clients, by the same script.
func TestPythonAgrees(t *testing.T) {
	t.Parallel()
	python := testenv.Python(t, "fastapi", "redis")
	type row struct {
		Host    string   `json:"host"`
		Headers []string `json:"headers"`
	}
	var rows []row
	for _, tt := range forged {
		host := ""
		if pair, err := netip.ParseAddrPort(tt.peer); err == nil {
			host = pair.Addr().String()
		}
		rows = append(rows, row{host, tt.headers})
	}
	const prefix = 64 // of a second limit
	in, err := json.Marshal(map[string]any{"rows": rows, "trusted": trusted[:2], "prefix": prefix})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "-B", "-c", `
import json, sys, types
import ratelimit

class Redis:
    def register_script(self, text):
        return text

plan = json.load(sys.stdin)
limit = ratelimit.RateLimit(Redis(), trusted_proxies=plan["trusted"])
networks = ratelimit.RateLimit(Redis(), trusted_proxies=plan["trusted"], ipv6_prefix=plan["prefix"])
def request(row):
    return types.SimpleNamespace(
        client=types.SimpleNamespace(host=row["host"]) if row["host"] else None,
        headers=types.SimpleNamespace(getlist=lambda name: row["headers"] or []))
json.dump({"clients": [limit.client(request(r)) for r in plan["rows"]],
    "networks": [networks.client(request(r)) for r in plan["rows"]], "script": limit.take}, sys.stdout)
`)
	cmd.Dir = "../../examples/fastapi"
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var got struct {
		Clients  []string `json:"clients"`
		Networks []string `json:"networks"`
		Script   string   `json:"script"`
	}
	if err := json.Unmarshal(out, &got); err != nil || len(got.Clients) != len(forged) || len(got.Networks) != len(forged) {
		t.Fatalf("got %s, %v", out, err)
	}
	for i, tt := range forged {
		want := tt.want
		if want == "invalid IP" {
			want = "unknown"
		}
		if got.Clients[i] != want {
			t.Errorf("%s: Python counts %s, want %s", tt.name, got.Clients[i], want)
		}
		client, _ := netip.ParseAddr(tt.want)
		if want := (ratelimit.Rule{IPv6Prefix: prefix}).Key(client, endpoint); "ratelimit:ip:"+got.Networks[i]+":"+endpoint != want {
			t.Errorf("%s: Python counts the network %s in another key than %s", tt.name, got.Networks[i], want)
		}
	}
	script, err := os.ReadFile("fixed.lua")
	if err != nil {
		t.Fatal(err)
	}
	// The comment at its head apart.
	if want := string(script[bytes.Index(script, []byte("local used")):]); strings.TrimSpace(got.Script) != strings.TrimSpace(want) {
		t.Errorf("Python runs\n%s\nwant\n%s", got.Script, want)
	}
}

func TestParseProxies(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "proxy", "10.0.0.0/33", "fe80::1%eth0", "::ffff:10.0.0.0/8", "10.0.0.1:80"} {
		if got, err := ratelimit.ParseProxies([]string{text}); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
	p, err := ratelimit.ParseProxies([]string{"172.16.5.5/12", "::ffff:192.0.2.1"})
	if err != nil || len(p) != 2 || p[0].String() != "172.16.0.0/12" || p[1].String() != "192.0.2.1/32" {
		t.Errorf("got %v, %v", p, err)
	}
}

func FuzzClient(f *testing.F) {
	f.Add("10.0.0.5:80", "203.0.113.1, 10.0.0.6")
	f.Add("[::1]:80", "[2001:db8::1%x]:443,, ")
	proxies, err := ratelimit.ParseProxies([]string{"10.0.0.0/8", "::1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, peer, header string) {
		r := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {header}}}
		got := proxies.Client(r)
		if got.IsValid() && (got.Zone() != "" || got.Is4In6()) {
			t.Errorf("got %v from %q, %q, want one form of each address", got, peer, header)
		}
		if got != proxies.Client(r) {
			t.Errorf("two answers to %q, %q", peer, header)
		}
	})
}
