package redisretry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tlsFiles are the parameters of redis-py that begin with ssl_ (SSLConnection).
type tlsFiles struct {
	certReqs          string
	anyHost           bool
	caCerts, caPath   string
	caData            string
	certfile, keyfile string
	minVersion        uint16
}

// set takes a parameter; known is false if it is none of these.
func (f *tlsFiles) set(name, value string) (known bool, err error) {
	switch name {
	case "ssl_cert_reqs":
		f.certReqs = strings.ToLower(strings.TrimPrefix(value, "CERT_"))
		if !slices.Contains([]string{"required", "optional", "none", "CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", ""}, value) {
			err = errors.New("expected required, optional or none, or CERT_REQUIRED, CERT_OPTIONAL or CERT_NONE")
		}
	case "ssl_check_hostname":
		f.anyHost = slices.Contains([]string{"0", "F", "FALSE", "N", "NO"}, strings.ToUpper(value))
	case "ssl_ca_certs":
		f.caCerts = value
	case "ssl_ca_path":
		f.caPath = value
	case "ssl_ca_data":
		f.caData = value
	case "ssl_certfile":
		f.certfile = value
	case "ssl_keyfile":
		f.keyfile = value
	case "ssl_min_version":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 16)
		if f.minVersion = uint16(n); err != nil || f.minVersion < tls.VersionTLS10 || f.minVersion > tls.VersionTLS13 {
			err = errors.New("expected Python's number of a version, such as 771 for TLS 1.2 or 772 for 1.3")
		}
	case "ssl_password":
		err = errors.New("an encrypted key is not accepted: expected one without a password, as openssl pkey writes it")
	default:
		return false, nil
	}
	return true, err
}

// config makes the configuration for connections to host. As in Python a client checks
// the server's certificate with optional as with required.
func (f *tlsFiles) config(host string) (*tls.Config, error) {
	c := &tls.Config{ServerName: cmp.Or(host, "localhost"), MinVersion: max(f.minVersion, tls.VersionTLS12)}
	var err error
	if c.RootCAs, err = f.authorities(); err != nil {
		return nil, err
	}
	if f.certfile != "" || f.keyfile != "" {
		// As in Python, one file may have both.
		pair, err := tls.LoadX509KeyPair(f.certfile, cmp.Or(f.keyfile, f.certfile))
		if err != nil {
			return nil, fmt.Errorf("parameters ssl_certfile and ssl_keyfile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	switch {
	case f.certReqs == "none":
		c.InsecureSkipVerify = true
	case f.anyHost:
		c.InsecureSkipVerify = true // of what VerifyConnection does not
		c.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, c.RootCAs) }
	}
	return c, nil
}

// verifyChain checks a certificate without its name.
func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, cert := range s.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
	return err
}

// authorities are those of the system, and those that are given; nil if none is given.
func (f *tlsFiles) authorities() (*x509.CertPool, error) {
	if f.caCerts == "" && f.caPath == "" && f.caData == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // the system has none
	}
	if f.caData != "" && !pool.AppendCertsFromPEM([]byte(f.caData)) {
		return nil, errors.New("parameter ssl_ca_data: there is no certificate in PEM in it")
	}
	if f.caCerts != "" {
		pem, err := os.ReadFile(f.caCerts)
		if err != nil {
			return nil, fmt.Errorf("parameter ssl_ca_certs: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("parameter ssl_ca_certs: there is no certificate in PEM in %s", f.caCerts)
		}
	}
	if f.caPath == "" {
		return pool, nil
	}
	return pool, appendFolder(pool, f.caPath)
}

func appendFolder(pool *x509.CertPool, folder string) error {
	files, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("parameter ssl_ca_path: %w", err)
	}
	found := false
	for _, file := range files {
		// Links to folders and the like are none of certificates.
		if pem, err := os.ReadFile(filepath.Join(folder, file.Name())); err == nil && pool.AppendCertsFromPEM(pem) {
			found = true
		}
	}
	if !found {
		return fmt.Errorf("parameter ssl_ca_path: no file of %s has a certificate in PEM", folder)
	}
	return nil
}
