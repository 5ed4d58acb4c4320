package redisretry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

// authority signs certificates into files of dir.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.file, _ = a.sign(name)
	return a
}

// sign writes a certificate for a host, the first one for the authority itself.
func (a *authority) sign(host string) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage, template.DNSNames = true, x509.KeyUsageCertSign, nil, nil
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
		a.key = key
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(host+".pem", "CERTIFICATE", der), a.write(host+".key", "PRIVATE KEY", keyDER)
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// serve starts a Redis with a certificate for host and returns its address.
func (a *authority) serve(host, authClients string) string {
	port := strconv.Itoa(testenv.FreePort(a.t))
	cert, key := a.sign(host)
	testenv.Redis(a.t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", a.file, "--tls-auth-clients", authClients)
	return "127.0.0.1:" + port
}

// TestTLS connects to real servers with TLS, where Celery connects and where it does not.
func TestTLS(t *testing.T) {
	ours, other := newAuthority(t, "ours"), newAuthority(t, "other")
	server := ours.serve("127.0.0.1", "no")
	elsewhere := ours.serve("redis.example", "no") // its certificate is not for the address
	asking := ours.serve("127.0.0.1", "yes")
	cert, key := ours.sign("client")
	foreignCert, foreignKey := other.sign("client")
	both := filepath.Join(ours.dir, "both.pem")
	if err := os.WriteFile(both, append(read(t, cert), read(t, key)...), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(addr string, parameters ...string) string {
		q := url.Values{}
		for i := 0; i < len(parameters); i += 2 {
			q.Set(parameters[i], parameters[i+1])
		}
		return "rediss://" + addr + "/1?" + q.Encode()
	}
	const reqs, ca, name, certfile, keyfile = "ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile"
	urls := []string{
		at(server, reqs, "required", ca, ours.file),
		at(server, reqs, "required", ca, other.file),
		at(server, reqs, "required"),
		at(server, reqs, "CERT_REQUIRED", ca, ours.file),
		at(server, reqs, "optional", ca, ours.file),
		at(server, reqs, "optional", ca, other.file),
		at(server, reqs, "CERT_OPTIONAL"),
		at(server, reqs, "none"),
		at(server, reqs, "CERT_NONE", ca, other.file),
		at(server, reqs, "required", "ssl_ca_data", string(read(t, ours.file))),
		at(server, reqs, "required", ca, ours.file, "ssl_min_version", "772"),
		at(elsewhere, reqs, "required", ca, ours.file),
		at(elsewhere, reqs, "required", ca, ours.file, name, "true"),
		at(elsewhere, reqs, "required", ca, ours.file, name, "false"),
		at(elsewhere, reqs, "required", ca, ours.file, name, "No"),
		at(elsewhere, reqs, "required", ca, other.file, name, "false"),
		at(elsewhere, reqs, "none"),
		at(asking, reqs, "required", ca, ours.file, certfile, cert, keyfile, key),
		at(asking, reqs, "none", certfile, cert, keyfile, key),
		at(asking, reqs, "required", ca, ours.file, certfile, both),
		at(asking, reqs, "required", ca, ours.file, certfile, foreignCert, keyfile, foreignKey),
		at(asking, reqs, "required", ca, ours.file),
	}
	connected := 0
	for i, want := range python[bool](t, urls, "--connect") {
		if err := ping(t, urls[i]); (err == nil) != want {
			t.Errorf("%s: got %v, Celery connects: %v", urls[i], err, want)
		}
		if want {
			connected++
		}
	}
	if connected < 8 || len(urls)-connected < 6 {
		t.Errorf("Celery connects with %d of %d URLs", connected, len(urls))
	}
	// Celery demands ssl_cert_reqs, redis-py takes "required" for it. A folder has to be
	// prepared by c_rehash for Python, not for us.
	for _, u := range []string{at(server, ca, ours.file), at(server, "ssl_ca_path", ours.dir)} {
		if err := ping(t, u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
	if err := ping(t, at(server)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: got %v, want its certificate refused", err)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// FuzzOptions: no URL makes it panic, and what it takes can be put on another database.
func FuzzOptions(f *testing.F) {
	for _, u := range []string{
		"redis://u:p@h:1/2?db=3", "rediss://h?ssl_cert_reqs=none&ssl_min_version=772", "redis+socket://:p@/run/r.sock?virtual_host=1&socket_timeout=1e3", "unix:///%zz", "redis://[::1]:1/%31#a?b", "redis://:%@h", "redis",
	} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		if strings.Contains(u, "ssl_c") || strings.Contains(u, "ssl_k") {
			return // it would read files
		}
		opt, err := redisretry.Options(u)
		if err != nil {
			return
		}
		moved, err := redisretry.OnDB(u, 7)
		if err != nil {
			t.Fatalf("OnDB(%q): %v", u, err)
		}
		again, err := redisretry.Options(moved)
		if err != nil || again.DB != 7 || again.Addr != opt.Addr || again.Username != opt.Username || again.Password != opt.Password || again.Network != opt.Network {
			t.Fatalf("OnDB(%q) is %q, which is read as %+v, %v", u, moved, again, err)
		}
	})
}
