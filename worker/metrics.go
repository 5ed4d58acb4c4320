package worker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Outcomes of a job, as counted.
const (
	outcomeSuccess   = "success"
	outcomeFailure   = "failure"
	outcomeRetry     = "retry"
	outcomeRevoked   = "revoked"
	outcomeIgnored   = "ignored"   // by the task's own wish
	outcomeReplaced  = "replaced"  // another signature took its place
	outcomeDuplicate = "duplicate" // finished before, only acknowledged
	outcomeReturned  = "returned"  // given back to its queue
	outcomeRefused   = "refused"   // cannot be run, kept as failed
	outcomeParked    = "parked"    // due later, published anew then
	outcomeResumed   = "resumed"   // its process died and its message ran out: published once more
	outcomeDead      = "dead"      // dead-lettered by the broker, kept as failed
)

type metrics struct {
	jobs          *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	brokerLost    prometheus.Counter
	consumersLost prometheus.Counter
	blocked       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, inFlight, scheduled, dropped func() float64) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "onceover_jobs_scheduled", Help: "Deliveries held until their ETA.",
	}, scheduled)
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "onceover_events_dropped_total", Help: "Events not sent because the broker was slower than they came.",
	}, dropped)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "onceover_jobs_in_flight", Help: "Deliveries being worked on.",
	}, inFlight)
	return &metrics{
		jobs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_jobs_total", Help: "Jobs by task and outcome; a retry counts besides the final outcome.",
		}, []string{"task", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "onceover_job_duration_seconds", Help: "From delivery to acknowledgement, the wait for a slot included.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300},
		}, []string{"task"}),
		brokerLost: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_broker_reconnects_total", Help: "How often the broker connection was lost and had to be made anew.",
		}),
		consumersLost: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_broker_consumers_lost_total", Help: "How often the broker has ended a consumer: its queue is gone, or its consumer time-out has passed.",
		}),
		blocked: f.NewGauge(prometheus.GaugeOpts{
			Name: "onceover_broker_blocked", Help: "1 while the broker takes no messages (a memory or disk alarm).",
		}),
	}
}

// taskLabel is the label of a task: its name if it is registered, so that nobody outside can make
// up labels.
func (w *Worker) taskLabel(name string) string {
	if _, ok := w.tasks[name]; ok {
		return name
	}
	return "unknown"
}
