package redisretry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Options reads a Redis URL as Celery and redis-py take them (celery/backends/redis.py,
// redis/connection.py, parse_url) for a client that stands behind guards: its own
// retries are off, so that a guard sees an outage at once and no try is multiplied, and a
// deadline of a context ends a command that waits for a server which does not answer.
//
//	redis://[user:password@]host:port/db     rediss://…, with TLS
//	redis+socket:///path?virtual_host=db     unix:///path?db=db
//
// The parameters that it takes are in docs/configuration.md. The error names what is
// wrong, and never has a password in it. Files of certificates are read at once.
func Options(rawURL string) (*redis.Options, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	o := optionReader{socket: u.scheme == "socket", secure: u.scheme == "rediss"}
	rest, err := o.read(u.query)
	if err != nil {
		return nil, err
	}
	opt, err := clientOptions(rest)
	if err != nil {
		return nil, err
	}
	opt.Network, opt.Addr = u.network()
	opt.Username, opt.Password = cmp.Or(o.username, u.user), cmp.Or(o.password, u.password)
	if opt.DB, err = o.database(u); err != nil {
		return nil, err
	}
	if o.secure {
		if opt.TLSConfig, err = o.tls.config(u.host); err != nil {
			return nil, err
		}
	}
	o.apply(opt)
	opt.MaxRetries = -1
	opt.DialerRetries = 1
	opt.ContextTimeoutEnabled = true
	return opt, nil
}

// OnDB returns the URL with another database. The error is that of [Options].
func OnDB(rawURL string, db int) (string, error) {
	if _, err := Options(rawURL); err != nil {
		return "", err
	}
	u, err := parseURL(rawURL)
	if err != nil {
		return "", err
	}
	delete(u.query, "db")
	delete(u.query, "virtual_host")
	base, _, _ := strings.Cut(rawURL, "#")
	base, _, _ = strings.Cut(base, "?")
	if u.scheme == "socket" {
		u.query.Set("db", strconv.Itoa(db))
	} else {
		base = strings.TrimSuffix(base, u.rawPath) + "/" + strconv.Itoa(db)
	}
	if len(u.query) == 0 {
		return base, nil
	}
	return base + "?" + u.query.Encode(), nil
}

// redisURL is a URL with its parts unquoted. Python splits more simply than net/url: a
// password may have any character but / ? and #.
type redisURL struct {
	scheme         string // redis, rediss or socket
	user, password string
	host, port     string
	rawPath        string
	query          url.Values
}

func parseURL(raw string) (u redisURL, err error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return u, errors.New("it is not a URL: expected redis://host:port/db")
	}
	if u.scheme, err = plainScheme(scheme); err != nil {
		return u, err
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	if u.query, err = url.ParseQuery(query); err != nil {
		return u, errors.New("the parameters cannot be read: expected name=value&name=value, with special characters as %XX")
	}
	if at := strings.IndexByte(rest, '/'); at >= 0 {
		rest, u.rawPath = rest[:at], rest[at:]
	}
	server := rest
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		u.user, u.password, server = unquote(user), unquote(password), rest[at+1:]
	}
	hostPort, err := url.Parse("//" + server)
	inQuery := u.query.Has("username") || u.query.Has("password")
	if err != nil || hostPort.Host != server || server == rest && !inQuery && strings.Contains(query+fragment, "@") {
		return u, errors.New("host and port cannot be read: expected host:port; /, ? and # in a password are written as %2F, %3F and %23")
	}
	u.host, u.port = hostPort.Hostname(), hostPort.Port()
	if u.scheme == "socket" && strings.Trim(u.rawPath, "/") == "" {
		return u, errors.New("it has no path of a socket: expected one such as redis+socket:///run/redis.sock")
	}
	return u, nil
}

// plainScheme is redis, rediss or socket. What Celery is given may begin with the name
// of the backend and a plus, before the URL that the backend gets.
func plainScheme(scheme string) (string, error) {
	backend, inner, named := strings.Cut(scheme, "+")
	switch {
	case scheme == "unix":
		return "socket", nil
	case scheme == "redis" || scheme == "rediss":
		return scheme, nil
	case named && (backend == "redis" || backend == "rediss") && slices.Contains([]string{"redis", "rediss", "socket"}, inner):
		return inner, nil
	}
	return "", errors.New("the scheme is not one of Redis: expected redis://, rediss://, redis+socket:// or unix://")
}

func (u *redisURL) network() (network, addr string) {
	if u.scheme == "socket" {
		return "unix", "/" + strings.TrimPrefix(unquote(u.rawPath), "/")
	}
	return "tcp", net.JoinHostPort(cmp.Or(u.host, "localhost"), cmp.Or(u.port, "6379"))
}

// unquote is urllib.parse.unquote: a % that begins no escape stays.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// optionReader holds the parameters that are redis-py's.
type optionReader struct {
	socket, secure        bool
	username, password    string
	db, virtualHost       *int
	timeout, connect      time.Duration
	connections, protocol int
	clientName            string
	tls                   tlsFiles
}

// ignored are parameters of redis-py without a meaning here: connections are kept alive,
// checked and dialled again in any case, and replies are bytes.
const ignored = "socket_keepalive socket_keepalive_options socket_read_size retry_on_timeout retry_on_error " +
	"health_check_interval decode_responses encoding encoding_errors legacy_responses lib_name lib_version ssl_ciphers"

// taken are the parameters that are looked at.
const taken = "db virtual_host username password socket_timeout socket_connect_timeout max_connections protocol client_name " +
	"ssl_cert_reqs ssl_check_hostname ssl_ca_certs ssl_ca_path ssl_ca_data ssl_certfile ssl_keyfile ssl_min_version"

// read takes the parameters that are redis-py's, and returns the others.
func (o *optionReader) read(query url.Values) (others url.Values, err error) {
	others = url.Values{}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		if len(values) > 1 {
			return nil, fmt.Errorf("parameter %.40q is given %d times: expected it once", name, len(values))
		}
		switch known, err := o.set(name, values[0]); {
		case values[0] == "": // Python leaves these out
		case err != nil:
			return nil, fmt.Errorf("parameter %s: %w", name, err)
		case !known:
			others[name] = values
		}
	}
	return others, nil
}

// set takes a parameter; known is false if it is none of redis-py.
func (o *optionReader) set(name, value string) (known bool, err error) {
	if strings.HasPrefix(name, "ssl_") {
		if known, err = o.tls.set(name, value); known && err == nil && !o.secure {
			err = errors.New("the URL is not one with TLS: expected rediss://")
		}
		return known || isOneOf(name, ignored), err
	}
	switch name {
	case "db":
		o.db, err = number(value)
	case "virtual_host":
		if o.virtualHost, err = number(value); err == nil && !o.socket {
			err = errors.New("it names the database of a redis+socket:// URL only: expected redis://host:port/db")
		}
	case "username":
		o.username = value
	case "password":
		o.password = value
	case "client_name":
		o.clientName = value
	case "socket_timeout":
		o.timeout, err = seconds(value)
	case "socket_connect_timeout":
		o.connect, err = seconds(value)
	case "max_connections":
		var n *int
		if n, err = number(value); err == nil {
			o.connections = *n
		}
	case "protocol":
		if value != "2" && value != "3" {
			return true, errors.New("expected 2 or 3")
		}
		o.protocol = int(value[0] - '0')
	default:
		return isOneOf(name, ignored), nil
	}
	return true, err
}

func isOneOf(name, names string) bool { return slices.Contains(strings.Fields(names), name) }

func (o *optionReader) apply(opt *redis.Options) {
	if o.timeout != 0 {
		opt.ReadTimeout, opt.WriteTimeout = o.timeout, o.timeout
	}
	if o.connect != 0 {
		opt.DialTimeout = o.connect
	}
	if o.connections != 0 {
		// Pipelines would have a pool of their own besides.
		opt.PoolSize, opt.PipelinePoolSize = o.connections, -1
	}
	opt.Protocol = cmp.Or(o.protocol, opt.Protocol)
	opt.ClientName = cmp.Or(o.clientName, opt.ClientName)
}

// database is the number of the database: the parameter, or the path.
func (o *optionReader) database(u redisURL) (int, error) {
	switch path := strings.Trim(unquote(u.rawPath), "/"); {
	case o.db != nil:
		return *o.db, nil
	case o.virtualHost != nil:
		return *o.virtualHost, nil
	case o.socket || path == "":
		return 0, nil
	default:
		n, err := number(path)
		if err != nil {
			return 0, errors.New("the path is not the number of a database: expected redis://host:port/db")
		}
		return *n, nil
	}
}

func number(value string) (*int, error) {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return nil, errors.New("expected a number of at least 0")
	}
	i := int(n)
	return &i, nil
}

func seconds(value string) (time.Duration, error) {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || !(f > 0) || f > math.MaxInt32 {
		return 0, errors.New("expected a number of seconds above 0")
	}
	return max(time.Duration(f*float64(time.Second)), time.Millisecond), nil
}

// clientOptions takes the parameters that are go-redis' own, such as read_timeout.
func clientOptions(query url.Values) (*redis.Options, error) {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		_, err := redis.ParseURL("redis://?" + url.Values{name: query[name]}.Encode())
		if err != nil && strings.Contains(err.Error(), "unexpected option") {
			return nil, fmt.Errorf("parameter %.40q is not known: expected one of %s; without effect are %s", name, taken, ignored)
		}
		if err != nil {
			return nil, fmt.Errorf("parameter %s: the value cannot be read", name)
		}
	}
	return redis.ParseURL("redis://?" + query.Encode())
}
