package failed

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	kept     *prometheus.CounterVec
	parked   prometheus.Counter
	replayed prometheus.Counter
	held     *prometheus.GaugeVec
	evicting prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		kept: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_failed_jobs_kept_total", Help: "Failed jobs kept for replay, by reason.",
		}, []string{"reason"}),
		parked: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_jobs_parked_total", Help: "Jobs put away until they are due.",
		}),
		replayed: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_failed_jobs_replayed_total", Help: "Failed jobs that this process published anew.",
		}),
		held: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "onceover_kept_jobs", Help: "Jobs in the store, of all workers: failed, or parked.",
		}, []string{"kind"}),
		evicting: f.NewGauge(prometheus.GaugeOpts{
			Name: "onceover_failed_store_evicting", Help: "1 if the Redis of failed and parked jobs may evict them.",
		}),
	}
}
