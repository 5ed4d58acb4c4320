package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"onceover/rabbit"
)

// management is what RabbitMQ's management API said (rabbitmq_management, /api/index.html).
type management struct {
	asked    bool
	err      error
	overview struct {
		DisableStats bool `json:"disable_stats"`
	}
	nodes  []node
	queues map[string]queueDetail
}

type node struct {
	Name       string
	Running    bool
	MemAlarm   bool     `json:"mem_alarm"`
	DiskAlarm  bool     `json:"disk_free_alarm"`
	Partitions []string `json:"partitions"`
	FilesUsed  int      `json:"fd_used"`
	FilesTotal int      `json:"fd_total"`
}

type queueDetail struct {
	Type    string
	Members []string
	Online  []string
	Policy  struct {
		DeliveryLimit   *int `json:"delivery-limit"`
		MessageTTL      *int `json:"message-ttl"`
		ConsumerTimeout *int `json:"consumer-timeout"` // milliseconds
	} `json:"-"`
}

// UnmarshalJSON reads a queue, whose policy is a list if there is none.
func (q *queueDetail) UnmarshalJSON(doc []byte) error {
	type plain queueDetail
	if err := json.Unmarshal(doc, (*plain)(q)); err != nil {
		return err
	}
	var policy struct {
		Of json.RawMessage `json:"effective_policy_definition"`
	}
	if err := json.Unmarshal(doc, &policy); err != nil {
		return err
	}
	_ = json.Unmarshal(policy.Of, &q.Policy) // [] for none
	return nil
}

func askManagement(ctx context.Context, s Subject) (m management) {
	if s.Management == "" {
		return m
	}
	m.asked, m.queues = true, map[string]queueDetail{}
	get := func(path string, to any) {
		if m.err == nil {
			m.err = getJSON(ctx, s.Management, path, to)
		}
	}
	get("/api/overview", &m.overview)
	get("/api/nodes", &m.nodes)
	vhost := "/"
	if uri, err := rabbit.ParseURL(s.Settings.Worker.BrokerURLs[0]); err == nil {
		vhost = uri.Vhost
	}
	for _, name := range s.Settings.Worker.Queues {
		var q queueDetail
		err := getJSON(ctx, s.Management, "/api/queues/"+url.PathEscape(vhost)+"/"+url.PathEscape(name), &q)
		var status *statusError
		switch {
		case err == nil:
			m.queues[name] = q
		case errors.As(err, &status) && status.code == http.StatusNotFound: // another check says so
		case m.err == nil:
			m.err = err
		}
	}
	return m
}

// statusError is an answer that is no success.
type statusError struct {
	path string
	code int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("GET %s: %d %s", e.path, e.code, http.StatusText(e.code))
}

// getJSON reads a document of at most 4 MB. User and password of base are sent as they are in a URL.
func getJSON(ctx context.Context, base, path string, to any) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return errors.New("the management URL is none: expected http://user:password@host:15672")
	}
	user := u.User
	u.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(u.String(), "/")+path, nil)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	if user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, errors.Unwrap(err)) // without the URL
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &statusError{path, resp.StatusCode}
	}
	const most = 4 << 20
	if err := json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(to); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// managed makes a check of what the management API says.
func managed(look func(*facts) []Finding) func(*facts) []Finding {
	return func(f *facts) []Finding {
		switch {
		case !f.management.asked:
			return unknown("give --management-url to have it looked at")
		case f.management.err != nil:
			return unknown(f.management.err.Error())
		}
		return look(f)
	}
}

// nodes makes a check of each node.
func nodes(look func(n node) *Finding) func(*facts) []Finding {
	return managed(func(f *facts) (out []Finding) {
		for _, n := range f.management.nodes {
			if one := look(n); one != nil {
				one.Subject = n.Name
				out = append(out, *one)
			}
		}
		return out
	})
}

var managementChecks = []check{
	{"management.reachable", "the management API answers", func(f *facts) []Finding {
		switch {
		case !f.management.asked:
			return unknown("give --management-url to have it looked at")
		case f.management.err != nil:
			return []Finding{{Severity: Warning, Found: f.management.err.Error(), Remedy: "rabbitmq-plugins enable rabbitmq_management; the user needs the tag monitoring"}}
		}
		return nil
	}},
	{"management.statistics", "the numbers of queues are collected", managed(func(f *facts) []Finding {
		if !f.management.overview.DisableStats {
			return nil
		}
		return []Finding{{Severity: Warning, Found: "the management plugin collects no statistics: KEDA and dashboards that ask it see empty queues", Remedy: "set management_agent.disable_metrics_collector = false; the image rabbitmq:…-management has it so"}}
	})},
	{"management.alarms", "no node is short of memory or disk", nodes(func(n node) *Finding {
		var short []string
		if n.MemAlarm {
			short = append(short, "memory")
		}
		if n.DiskAlarm {
			short = append(short, "disk")
		}
		if len(short) == 0 {
			return nil
		}
		return &Finding{Severity: Error, Found: "alarm: it is short of " + strings.Join(short, " and ") + ", and the broker takes no messages", Remedy: "free it, or raise vm_memory_high_watermark or lower disk_free_limit"}
	})},
	{"management.nodes", "all nodes of the cluster run and see each other", nodes(func(n node) *Finding {
		switch {
		case !n.Running:
			return &Finding{Severity: Error, Found: "the node does not run", Remedy: "start it, or rabbitmqctl forget_cluster_node"}
		case len(n.Partitions) > 0:
			return &Finding{Severity: Error, Found: "it does not see " + strings.Join(n.Partitions, ", "), Remedy: "mend the network; rabbitmqctl cluster_status"}
		}
		return nil
	})},
	{"management.files", "nodes may open enough files", nodes(func(n node) *Finding {
		if n.FilesTotal <= 0 || n.FilesUsed <= n.FilesTotal*8/10 {
			return nil
		}
		return &Finding{Severity: Error, Found: fmt.Sprintf("%d of %d files are open: it takes no more connections soon", n.FilesUsed, n.FilesTotal), Remedy: "raise its limit of open files"}
	})},
	{"management.quorum", "quorum queues have a majority, and one to spare", managed(func(f *facts) (out []Finding) {
		for name, q := range f.management.queues {
			switch online, all := len(q.Online), len(q.Members); {
			case q.Type != "quorum" || all == 0:
			case 2*online <= all:
				out = append(out, Finding{Severity: Error, Subject: name, Found: fmt.Sprintf("%d of its %d members are online: it takes and gives nothing", online, all), Remedy: "start the other nodes"})
			case online < all:
				out = append(out, Finding{Severity: Warning, Subject: name, Found: fmt.Sprintf("%d of its %d members are online", online, all), Remedy: "start the other nodes"})
			}
		}
		return sorted(out)
	})},
	{"management.policy", "no policy shortens what jobs need", managed(func(f *facts) (out []Finding) {
		limit := f.Settings.Worker.TimeLimit
		for name, q := range f.management.queues {
			if n := q.Policy.DeliveryLimit; n != nil && *n >= 0 && *n < 5 {
				out = append(out, Finding{Severity: Warning, Subject: name, Found: fmt.Sprintf("a policy sets delivery-limit %d: so many restarts of workers or cut connections make a job a failed one", *n), Remedy: "take it out of the policy, or set it to 20 or more"})
			}
			if n := q.Policy.ConsumerTimeout; n != nil && *n > 0 && limit.Milliseconds() >= int64(*n) {
				out = append(out, Finding{Severity: Error, Subject: name, Found: fmt.Sprintf("a policy sets consumer-timeout %d ms, and a job may take %v (time-limit): its message is taken back while it runs", *n, limit), Remedy: "set it higher than the time limit"})
			}
			if n := q.Policy.MessageTTL; n != nil && *n < 10_000 {
				out = append(out, Finding{Severity: Warning, Subject: name, Found: fmt.Sprintf("a policy sets message-ttl %d ms: jobs that wait for so long become failed ones", *n), Remedy: "take it out of the policy"})
			}
		}
		return sorted(out)
	})},
}

// sorted orders findings by what they are about.
func sorted(all []Finding) []Finding {
	slices.SortStableFunc(all, func(a, b Finding) int { return strings.Compare(a.Subject, b.Subject) })
	return all
}
