package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"onceover/internal/config"
)

// endpoint is what an endpoint of the model said when it was asked for its models, which costs nothing.
type endpoint struct {
	name, model string
	err         error
	status      int
	models      []string // nil if it has no such list
	took        time.Duration
}

func askModel(ctx context.Context, s *config.Settings) []endpoint {
	out := make([]endpoint, len(s.Models))
	var asking sync.WaitGroup
	for i, e := range s.Models {
		asking.Go(func() { out[i] = askEndpoint(ctx, e) })
	}
	asking.Wait()
	return out
}

// endpointTime is how long an endpoint may take.
const endpointTime = 3 * time.Second

func askEndpoint(ctx context.Context, e config.Endpoint) (out endpoint) {
	out.name, out.model = e.Name, e.Model
	ctx, cancel := context.WithTimeout(ctx, endpointTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(e.BaseURL, "/")+"/models", nil)
	if err != nil {
		out.err = errors.New("its URL is none")
		return out
	}
	if e.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+e.APIKey)
	}
	client := http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the key is for this host
	}
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		out.err = errors.Unwrap(err) // without the URL
		return out
	}
	defer resp.Body.Close()
	out.took, out.status = time.Since(began), resp.StatusCode
	if resp.StatusCode != http.StatusOK {
		return out
	}
	var list struct{ Data []struct{ ID string } }
	const most = 4 << 20
	if json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(&list) == nil {
		for _, m := range list.Data {
			out.models = append(out.models, m.ID)
		}
	}
	return out
}

var modelChecks = []check{
	{"model.reachable", "the model's endpoint answers and takes the key", func(f *facts) (out []Finding) {
		for _, e := range f.model {
			one := Finding{Subject: e.name, Severity: Error}
			switch {
			case e.err != nil:
				one.Found, one.Remedy = fmt.Sprintf("it does not answer: %v", e.err), "correct ONCEOVER_VISION_URL, or let this machine reach it"
			case e.status == http.StatusUnauthorized:
				one.Found, one.Remedy = "it refuses the key (401)", "set ONCEOVER_VISION_API_KEY to a key that is alive"
			case e.status == http.StatusForbidden: // a key may be good for completions alone
				one.Severity, one.Found = Unknown, "not known: the key may not list the models (403), and may still be good for pictures: onceover vision check asks one"
			case e.status >= 500:
				one.Severity, one.Found, one.Remedy = Warning, fmt.Sprintf("it answers %d", e.status), "ask again later; onceover vision check says more"
			default:
				continue
			}
			out = append(out, one)
		}
		return out
	}},
	{"model.name", "the endpoint has the model", func(f *facts) (out []Finding) {
		for _, e := range f.model {
			if len(e.models) == 0 || hasModel(e.models, e.model) {
				continue
			}
			out = append(out, Finding{Subject: e.name, Severity: Warning, Found: fmt.Sprintf("%s is not among the %d models that it lists", e.model, len(e.models)),
				Remedy: "correct ONCEOVER_VISION_MODEL, or have onceover vision check ask it"})
		}
		return out
	}},
}

// hasModel reports whether a list has a model. Some servers name the default tag of a model, and some leave it out.
func hasModel(list []string, model string) bool {
	for _, m := range list {
		if m == model || m == model+":latest" || strings.TrimPrefix(m, "models/") == model {
			return true
		}
	}
	return false
}
