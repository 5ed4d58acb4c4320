package loadtest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "# HELP go_goroutines Number.\n# TYPE go_goroutines gauge\ngo_goroutines 12\nprocess_cpu_seconds_total 0.5\nonceover_jobs{task=\"a\"} 3\nrss 1.5e+07\n")
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	m, err := Metrics(t.Context(), addr)
	if err != nil || len(m) != 3 || m["go_goroutines"] != 12 || m["process_cpu_seconds_total"] != 0.5 || m["rss"] != 1.5e7 {
		t.Errorf("got %v, %v", m, err)
	}
	status = http.StatusServiceUnavailable
	if m, err := Metrics(t.Context(), addr); err == nil {
		t.Errorf("of a worker that refuses: got %v", m)
	}
}
