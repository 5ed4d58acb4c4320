package fleet

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	answers *prometheus.CounterVec
	waited  prometheus.Histogram
	spent   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, waiting func() float64) *metrics {
	m := &metrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "onceover_vision_gate_total",
			Help: "What a call was told that wanted to begin: go, or what was in the way. One that waits asks again and again."}, []string{"endpoint", "answer"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "onceover_vision_wait_seconds",
			Help: "How long calls waited before they began.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}),
		spent: prometheus.NewCounter(prometheus.CounterOpts{Name: "onceover_vision_over_budget_total", Help: "Calls for which the budget had no room."}),
	}
	reg.MustRegister(m.answers, m.waited, m.spent, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "onceover_vision_waiting", Help: "Calls that wait in this process."}, waiting))
	return m
}
