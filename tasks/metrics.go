package tasks

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"onceover/cache"
	"onceover/vision"
)

type metrics struct {
	stage   *prometheus.HistogramVec
	lookups *prometheus.CounterVec
	calls   *prometheus.CounterVec
	tokens  *prometheus.CounterVec
	offList *prometheus.CounterVec
	canary  *prometheus.CounterVec
	cascade *prometheus.CounterVec
	cost    prometheus.Counter
	saved   prometheus.Counter // calls
	savings prometheus.Counter // money
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		stage: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "onceover_stage_duration_seconds", Help: "Time spent in each stage of image.analyze.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"stage"}),
		lookups: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_cache_lookups_total", Help: "Pictures by how their analysis was found: exact, near, shared, or miss.",
		}, []string{"result"}),
		calls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_vision_calls_total", Help: "Requests sent to the model, by kind: vision or text.",
		}, []string{"kind"}),
		tokens: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_vision_tokens_total", Help: "Tokens that the model counted, by kind: prompt or completion.",
		}, []string{"kind"}),
		offList: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_vision_offlist_total", Help: "Answers taken although the value of a field is none of its list in the schema.",
		}, []string{"field"}),
		canary: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_cache_canary_total", Help: "Near hits of which the model was asked all the same, by distance in bits and by whether its answer differs.",
		}, []string{"distance", "differs"}),
		cascade: f.NewCounterVec(prometheus.CounterOpts{
			Name: "onceover_vision_cascade_total", Help: "Pictures of a cascade: sure, asked of the dearer model too, or failed, as that gave no answer.",
		}, []string{"result"}),
		cost: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_vision_cost_usd_total", Help: "Cost of the requests where a price is configured.",
		}),
		saved: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_vision_calls_saved_total", Help: "Requests about a picture that the cache made unnecessary.",
		}),
		savings: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_vision_cost_saved_usd_total", Help: "What the requests that were saved had cost the first time, where that is known.",
		}),
	}
}

func (m *metrics) spent(kind string, u vision.Usage) {
	m.calls.WithLabelValues(kind).Add(float64(u.Calls))
	m.tokens.WithLabelValues("prompt").Add(float64(u.PromptTokens))
	m.tokens.WithLabelValues("completion").Add(float64(u.CompletionTokens))
	m.cost.Add(float64(u.CostMicroUSD) / 1e6)
}

func (m *metrics) tookOffList(fields []string) {
	for _, name := range fields {
		m.offList.WithLabelValues(name).Inc()
	}
}

// cascaded counts how a cascade came to an answer.
func (m *metrics) cascaded(a *vision.Answer) {
	if a.Cascade != "" {
		m.cascade.WithLabelValues(string(a.Cascade)).Inc()
	}
}

// answered counts how the analysis of a picture was found.
func (m *metrics) answered(a *cache.Answer) {
	m.lookups.WithLabelValues(string(a.Kind)).Inc()
	if a.Kind != cache.Fresh {
		m.saved.Inc()
		m.savings.Add(float64(a.CostMicroUSD) / 1e6)
	}
}
