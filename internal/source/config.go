package source

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"onceover/internal/redact"
)

// maxMaxBytes bounds Config.MaxBytes: a larger value is a slip of units, and one worker holds many pictures at once.
const maxMaxBytes = 1 << 30

// Config says what may be fetched and within which limits. Take [DefaultConfig] and change fields; the zero value is refused.
type Config struct {
	// Allow lists the hosts, IP addresses and CIDRs that may be dialled although they are not public (ONCEOVER_IMAGE_ALLOW).
	// An address or CIDR permits dialling it whatever the host is called; a host name permits whatever address it resolves to.
	// Names match exactly but for case: "minio" permits neither "minio." nor "a.minio". Default: none.
	Allow []string

	// Root is the absolute path of the folder below which file:// may read (ONCEOVER_IMAGE_ROOT). Default: "", which refuses file://.
	Root string

	// MaxBytes is the most bytes a picture may have, 1 to 1 GiB. Default: 20 MB (20,000,000).
	MaxBytes int64

	// ConnectTimeout bounds name resolution plus TCP connect, and once more the TLS handshake. Default: 5 s.
	ConnectTimeout time.Duration

	// HeaderTimeout bounds the wait from the request's end to the end of the response header. Default: 10 s.
	HeaderTimeout time.Duration

	// BodyTimeout bounds the time from the header to the last byte of the body. Default: 30 s.
	BodyTimeout time.Duration

	// S3 is where s3:// URLs are read from. Default: Amazon S3, anonymously.
	S3 S3Config
}

// DefaultConfig returns the defaults that Config's fields name.
func DefaultConfig() Config {
	return Config{
		MaxBytes:       20_000_000,
		ConnectTimeout: 5 * time.Second,
		HeaderTimeout:  10 * time.Second,
		BodyTimeout:    30 * time.Second,
	}
}

// Validate reports every fault at once, each naming its field, or nil. It does not touch network or disk.
func (c Config) Validate() error {
	var faults []error
	if _, err := parseAllow(c.Allow); err != nil {
		faults = append(faults, err)
	}
	if c.Root != "" && !filepath.IsAbs(c.Root) {
		faults = append(faults, fmt.Errorf("source: Root: got %q, want an absolute path", c.Root))
	}
	if c.MaxBytes < 1 || c.MaxBytes > maxMaxBytes {
		faults = append(faults, fmt.Errorf("source: MaxBytes: got %d, want 1 to %d", c.MaxBytes, maxMaxBytes))
	}
	for _, t := range []struct {
		field string
		value time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout},
		{"HeaderTimeout", c.HeaderTimeout},
		{"BodyTimeout", c.BodyTimeout},
	} {
		if t.value <= 0 {
			faults = append(faults, fmt.Errorf("source: %s: got %v, want more than 0", t.field, t.value))
		}
	}
	if err := c.S3.validate(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// S3Config says where s3:// URLs are read from and as whom. It prints without its secrets.
type S3Config struct {
	// Endpoint is the base URL of the S3 service, such as "http://minio:9000", without a path. Default: "", which is Amazon S3.
	Endpoint string

	// Region is the region that requests are signed for. Default: "", which asks Amazon for each bucket's region once, and is
	// us-east-1 for any other endpoint.
	Region string

	// AccessKeyID and SecretAccessKey sign the requests. Default: both "", which reads anonymously.
	AccessKeyID     string `json:"-"`
	SecretAccessKey string `json:"-"`

	// SessionToken goes with temporary credentials. Default: "", which sends none.
	SessionToken string `json:"-"`
}

// S3ConfigFromEnv fills an S3Config from the variables that the AWS tools read: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
// AWS_SESSION_TOKEN, AWS_REGION before AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL_S3 before AWS_ENDPOINT_URL. Profiles, instance
// roles and web identities are not looked at. getenv is called as os.Getenv would be.
func S3ConfigFromEnv(getenv func(string) string) S3Config {
	first := func(names ...string) string {
		for _, name := range names {
			if v := getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	return S3Config{
		Endpoint:        first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
		Region:          first("AWS_REGION", "AWS_DEFAULT_REGION"),
		AccessKeyID:     getenv("AWS_ACCESS_KEY_ID"),
		SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"),
		SessionToken:    getenv("AWS_SESSION_TOKEN"),
	}
}

// String describes c without credentials: logs print configurations.
func (c S3Config) String() string {
	credentials := "anonymous"
	if c.AccessKeyID != "" {
		credentials = "[redacted]"
	}
	endpoint := "Amazon S3"
	if c.Endpoint != "" {
		endpoint = redact.URL(c.Endpoint)
	}
	return fmt.Sprintf("{endpoint: %s, region: %q, credentials: %s}", endpoint, c.Region, credentials)
}

// GoString is String, so that %#v keeps the secrets too.
func (c S3Config) GoString() string { return c.String() }

func (c S3Config) validate() error {
	var faults []error
	if c.Endpoint != "" {
		if _, err := c.endpointURL(); err != nil {
			faults = append(faults, err)
		}
	}
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		faults = append(faults, errors.New("source: S3.AccessKeyID and S3.SecretAccessKey: only one of the two is set, want both or neither"))
	}
	if c.SessionToken != "" && c.AccessKeyID == "" {
		faults = append(faults, errors.New("source: S3.SessionToken: set without S3.AccessKeyID, want both or neither"))
	}
	return errors.Join(faults...)
}

// endpointURL parses c.Endpoint. The error does not repeat it: someone may have written credentials into it.
func (c S3Config) endpointURL() (*url.URL, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("source: S3.Endpoint: want http://HOST[:PORT] or https://HOST[:PORT], without path, query and credentials")
	}
	return u, nil
}

// allowList is Config.Allow, sorted by what an entry is matched with.
type allowList struct {
	hosts  map[string]bool // in lower case; matched with the host as written in the URL
	v4, v6 []netip.Prefix  // matched with the address dialled
}

// parseAllow reads the entries of Config.Allow and reports all that are neither a host name, an address nor a CIDR.
func parseAllow(entries []string) (allowList, error) {
	list := allowList{hosts: make(map[string]bool)}
	var faults []error
	for _, entry := range entries {
		prefix, err := parsePrefix(entry)
		switch {
		case err == nil && prefix.Addr().Is4():
			list.v4 = append(list.v4, prefix)
		case err == nil:
			list.v6 = append(list.v6, prefix)
		case isHostName(entry):
			list.hosts[strings.ToLower(entry)] = true
		default:
			faults = append(faults, fmt.Errorf("source: Allow: got %q, want a host name (ASCII, no port), an IP address or a CIDR such as 10.1.0.0/16", entry))
		}
	}
	return list, errors.Join(faults...)
}

// parsePrefix reads an address or a CIDR. IPv4-mapped forms become IPv4, which is what gets dialled.
func parsePrefix(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a CIDR", s)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// isHostName says whether s could be the host of a URL: letters, digits, hyphens, underscores and dots, and not only digits and
// dots, because such an entry is a mistyped address.
func isHostName(s string) bool {
	letters := false
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			letters = true
		case r >= '0' && r <= '9', r == '-', r == '_', r == '.':
		default:
			return false
		}
	}
	return letters && len(s) <= 253
}
