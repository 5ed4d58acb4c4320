package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"onceover/rabbit"
)

// consumerTimeout is how long RabbitMQ lets a delivery be unacknowledged, unless it is told otherwise (consumer_timeout, since 3.8.17).
const consumerTimeout = 30 * time.Minute

// mostGrace is how long Kubernetes' Cluster Autoscaler waits for a pod at most, unless it is told otherwise (--max-graceful-termination-sec).
const mostGrace = 10 * time.Minute

var settingsChecks = []check{
	{"settings.unknown", "every ONCEOVER_ variable is known", func(f *facts) (out []Finding) {
		for _, w := range f.Warnings {
			out = append(out, Finding{Severity: Warning, Found: w, Remedy: "correct its name, or take it out"})
		}
		return out
	}},
	{"settings.time_limits", "jobs end before RabbitMQ takes their messages back", func(f *facts) []Finding {
		w := f.Settings.Worker
		switch {
		case w.TimeLimit == 0:
			return []Finding{{Severity: Warning, Found: "no time limit is set: a job that hangs holds its message until RabbitMQ takes it back, after 30 minutes unless it is told otherwise",
				Remedy: "set ONCEOVER_TIME_LIMIT"}}
		case w.TimeLimit >= consumerTimeout:
			return []Finding{{Severity: Warning, Found: fmt.Sprintf("a job may take %v (time-limit), and RabbitMQ takes its message back after %v unless it is told otherwise", w.TimeLimit, consumerTimeout),
				Remedy: "set consumer_timeout of RabbitMQ higher than the time limit, or ONCEOVER_TIME_LIMIT lower"}}
		}
		return nil
	}},
	{"settings.grace", "a worker that is stopped is waited for", func(f *facts) []Finding {
		if grace := f.Settings.Worker.Grace; grace > mostGrace {
			return []Finding{{Severity: Warning, Found: fmt.Sprintf("jobs in flight have %v after SIGTERM (grace), and Kubernetes' Cluster Autoscaler kills a pod after %v unless it is told otherwise", grace, mostGrace),
				Remedy: "set ONCEOVER_GRACE lower, or --max-graceful-termination-sec higher, and terminationGracePeriodSeconds above both"}}
		}
		return nil
	}},
	{"settings.http", "probes and Prometheus can reach the worker", func(f *facts) []Finding {
		addr := f.Settings.HTTPAddr
		host, _, err := net.SplitHostPort(addr)
		switch {
		case addr == "":
			return []Finding{{Severity: Warning, Found: "http-addr is off: nobody can ask for health or metrics", Remedy: "set ONCEOVER_HTTP_ADDR"}}
		case f.Getenv("KUBERNETES_SERVICE_HOST") == "" || err != nil || !isLoopback(host):
			return nil
		}
		return []Finding{{Severity: Error, Found: fmt.Sprintf("http-addr is %s, which nothing outside of the pod's containers can reach: its probes fail", addr), Remedy: "set ONCEOVER_HTTP_ADDR=0.0.0.0:8080"}}
	}},
	{"settings.allow", "pictures are fetched from where they may be", func(f *facts) (out []Finding) {
		for _, entry := range f.Settings.Image.Allow {
			if why := tooWide(entry); why != "" {
				out = append(out, Finding{Severity: Warning, Subject: entry, Found: "image-allow has " + entry + ", so a job may have the worker read " + why, Remedy: "name the hosts of pictures one by one"})
			}
		}
		return out
	}},
	{"settings.image_root", "the folder of pictures can be read", func(f *facts) []Finding {
		switch err := f.machine.root; {
		case errors.Is(err, errHangs):
			return unknown("image-root: " + err.Error())
		case err != nil:
			return []Finding{{Severity: Error, Found: fmt.Sprintf("image-root cannot be read: %v", err), Remedy: "mount it, or give the worker's user the right to read it"}}
		}
		return nil
	}},
	{"settings.model", "a vision model is configured, or none is wished for", func(f *facts) []Finding {
		if len(f.Settings.Models) == 0 && !f.Settings.Offline {
			return []Finding{{Severity: Warning, Found: "no vision model is configured: pictures are measured, not analysed", Remedy: "set ONCEOVER_VISION_URL and ONCEOVER_VISION_MODEL, or ONCEOVER_MODELS; or ONCEOVER_OFFLINE=true if that is wished for"}}
		}
		return nil
	}},
	{"settings.guest", "no server elsewhere is asked as guest", func(f *facts) (out []Finding) {
		for _, raw := range f.Settings.Worker.BrokerURLs {
			uri, err := rabbit.ParseURL(raw)
			if err == nil && uri.Username == "guest" && !isLoopback(uri.Host) {
				out = append(out, Finding{Severity: Warning, Subject: uri.Host, Found: "the user is guest, whom RabbitMQ lets in from its own machine only, unless it is told otherwise", Remedy: "make a user of its own: rabbitmqctl add_user, and set_permissions as docs/operations.md says"})
			}
		}
		return out
	}},
	{"settings.tls", "TLS verifies who answers", func(f *facts) (out []Finding) {
		for _, r := range rolesOf(f.Settings) {
			if u, err := url.Parse(r.url); err == nil && u.Scheme == "rediss" && strings.TrimPrefix(strings.ToLower(u.Query().Get("ssl_cert_reqs")), "cert_") == "none" {
				out = append(out, Finding{Severity: Warning, Subject: r.name, Found: "ssl_cert_reqs=none: whoever is on the way can read and change what is said", Remedy: "name the authority by ssl_ca_certs, and take ssl_cert_reqs out"})
			}
		}
		return out
	}},
	{"settings.databases", "each role of Redis has a database of its own", func(f *facts) (out []Finding) {
		roles := rolesOf(f.Settings)
		for i, r := range roles {
			for _, o := range roles[:i] {
				if r.opt != nil && o.opt != nil && r.opt.Addr == o.opt.Addr && r.opt.DB == o.opt.DB {
					out = append(out, Finding{Severity: Warning, Subject: r.name, Found: fmt.Sprintf("%s and %s share database %d of %s: who empties one empties the other", r.name, o.name, r.opt.DB, r.opt.Addr),
						Remedy: "leave " + r.variable + " out, so that it follows ONCEOVER_REDIS_URL, or name another database"})
				}
			}
		}
		return out
	}},
	{"settings.time_zone", "the time zone is known", func(f *facts) []Finding {
		if tz := f.Getenv("TZ"); !isZone(tz) {
			return []Finding{{Severity: Warning, Found: fmt.Sprintf("TZ is %q, which is no time zone: times are shown in UTC", tz), Remedy: "name one of the IANA data base, such as Asia/Seoul"}}
		}
		return nil
	}},
}

// isZone reports whether a value of TZ names a time zone to Go's runtime, which takes a file, too.
func isZone(tz string) bool {
	tz = strings.TrimPrefix(tz, ":")
	if strings.HasPrefix(tz, "/") {
		_, err := os.Stat(tz)
		return err == nil
	}
	_, err := time.LoadLocation(tz)
	return err == nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// tooWide says what an entry of the allow list opens that no picture is behind, "" if it is narrow.
func tooWide(entry string) string {
	addr, err := netip.ParseAddr(entry)
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	if err != nil {
		if prefix, err = netip.ParsePrefix(entry); err != nil {
			return ""
		}
	}
	for what, inside := range map[string]string{
		"the keys of a cloud's metadata server": "169.254.169.254", "those of AWS's metadata server": "fd00:ec2::254",
	} {
		if prefix.Contains(netip.MustParseAddr(inside)) {
			return what
		}
	}
	switch addr := prefix.Addr(); {
	case addr.Is4() && prefix.Bits() < 16, addr.Is6() && prefix.Bits() < 48:
		return "any service of that network"
	}
	return ""
}
