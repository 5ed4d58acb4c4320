package eval

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// MinCalibration is how many answers a calibration is fitted to at least.
const MinCalibration = 200

// Calibration turns the confidence that a model states into the share of such answers that is right. It is valid for the
// model and the prompt that it was fitted to.
type Calibration struct {
	Version       int     `json:"version"` // of this form: 1
	Method        string  `json:"method"`  // "platt"
	Model         string  `json:"model"`
	PromptVersion string  `json:"prompt_version"`
	Field         string  `json:"field"`                      // the field whose answers were judged
	Confidence    string  `json:"confidence_field,omitempty"` // the field that states how sure an answer is; "" for confidence
	A             float64 `json:"a"`                          // the slope, more than 0
	B             float64 `json:"b"`
	N             int     `json:"n"`           // answers it was fitted to
	ECE           float64 `json:"ece"`         // of the stated confidence
	HeldOutECE    float64 `json:"ece_heldout"` // of the calibrated one, each fifth of the answers by a fit to the others
	FittedAt      string  `json:"fitted_at"`   // RFC 3339, UTC
}

// Apply returns the calibrated confidence of a stated one, both 0 to 1. It is 1/(1+exp(-(A f + B))), f being the log-odds of
// the stated confidence, and rises strictly: the order of answers stays as it is.
func (c Calibration) Apply(confidence float64) float64 { return sigmoid(c.A*logOdds(confidence) + c.B) }

// ErrNoCalibration says that no calibration can be made of these answers.
var ErrNoCalibration = errors.New("no calibration")

// ParseCalibration reads what Calibration's JSON is.
func ParseCalibration(doc []byte) (Calibration, error) {
	var c Calibration
	if err := json.Unmarshal(doc, &c); err != nil {
		return c, fmt.Errorf("calibration: %w", err)
	}
	switch {
	case c.Version != 1 || c.Method != "platt":
		return c, fmt.Errorf("calibration is version %d by %q: expected 1 by %q", c.Version, c.Method, "platt")
	case c.Model == "" || c.PromptVersion == "":
		return c, errors.New("calibration names no model or no prompt version: expected both")
	case !(c.A > 0) || math.IsInf(c.A, 0) || math.IsNaN(c.B) || math.IsInf(c.B, 0):
		return c, fmt.Errorf("calibration has a = %v, b = %v: expected numbers, the first more than 0", c.A, c.B)
	}
	return c, nil
}

// Calibrate fits a calibration to the answers of one model. The points are in an order that has nothing to do with their
// labels. The error wraps [ErrNoCalibration] if there are fewer than [MinCalibration], if all are right or all are wrong, or
// if the model is not more often right where it is surer.
func Calibrate(model, promptVersion, field string, points []Point, at time.Time) (Calibration, error) {
	if len(points) < MinCalibration {
		return Calibration{}, fmt.Errorf("%w: %d answers with a confidence, expected at least %d", ErrNoCalibration, len(points), MinCalibration)
	}
	a, b, err := Platt(points)
	if err != nil {
		return Calibration{}, err
	}
	held, err := HeldOut(points)
	if err != nil {
		return Calibration{}, err
	}
	return Calibration{Version: 1, Method: "platt", Model: model, PromptVersion: promptVersion, Field: field, A: a, B: b, N: len(points),
		ECE: ECE(points), HeldOutECE: ECE(held), FittedAt: at.UTC().Format(time.RFC3339)}, nil
}

// folds is how many parts held-out calibration divides the answers into.
const folds = 5

// HeldOut returns the points with the confidence that a calibration gives them which was fitted to the other four fifths.
// Point i is in part i mod 5.
func HeldOut(points []Point) ([]Point, error) {
	out := make([]Point, len(points))
	for fold := range folds {
		var others []Point
		for i, p := range points {
			if i%folds != fold {
				others = append(others, p)
			}
		}
		a, b, err := Platt(others)
		if err != nil {
			return nil, err
		}
		c := Calibration{A: a, B: b}
		for i := fold; i < len(points); i += folds {
			out[i] = Point{c.Apply(points[i].Confidence), points[i].Right}
		}
	}
	return out, nil
}

// Platt fits a sigmoid to the log-odds of the stated confidence, with the smoothed targets of J. Platt 1999, Probabilistic
// outputs for support vector machines: (N+ + 1)/(N+ + 2) for right answers and 1/(N- + 2) for wrong ones, so that a handful
// of answers makes nothing certain. It is solved by Newton's method with backtracking (H.-T. Lin, C.-J. Lin and R. C. Weng
// 2007). In contrast to Platt's own notation the slope a is positive where surer answers are more often right.
func Platt(points []Point) (a, b float64, err error) {
	var right float64
	for _, p := range points {
		right += p.hit()
	}
	wrong := float64(len(points)) - right
	if right == 0 || wrong == 0 {
		return 0, 0, fmt.Errorf("%w: of %d answers %.0f are right, expected right and wrong ones", ErrNoCalibration, len(points), right)
	}
	high, low := (right+1)/(right+2), 1/(wrong+2)
	f, t := make([]float64, len(points)), make([]float64, len(points))
	for i, p := range points {
		f[i], t[i] = logOdds(p.Confidence), low
		if p.Right {
			t[i] = high
		}
	}
	// The loss -t log p - (1-t) log(1-p) of the log-odds x is log(1+e^x) - t x.
	loss := func(a, b float64) (sum float64) {
		for i := range f {
			x := a*f[i] + b
			sum += max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) - t[i]*x
		}
		return sum
	}
	b = math.Log((right + 1) / (wrong + 1))
	now := loss(a, b)
	for range 100 {
		var ga, gb, haa, hab, hbb float64
		for i := range f {
			p := sigmoid(a*f[i] + b)
			d, w := p-t[i], p*(1-p)
			ga, gb = ga+d*f[i], gb+d
			haa, hab, hbb = haa+w*f[i]*f[i], hab+w*f[i], hbb+w
		}
		haa, hbb = haa+1e-12, hbb+1e-12
		det := haa*hbb - hab*hab
		if !(det > 0) {
			return 0, 0, fmt.Errorf("%w: all answers have the same confidence", ErrNoCalibration)
		}
		da, db := -(hbb*ga-hab*gb)/det, -(haa*gb-hab*ga)/det
		step := 1.0
		for ; step > 1e-10; step /= 2 {
			if next := loss(a+step*da, b+step*db); next <= now+1e-4*step*(ga*da+gb*db)+1e-12*math.Abs(now) {
				a, b, now = a+step*da, b+step*db, next
				break
			}
		}
		if math.Abs(step*da) < 1e-12*(1+math.Abs(a)) && math.Abs(step*db) < 1e-12*(1+math.Abs(b)) {
			break
		}
	}
	if !(a > 0) {
		return 0, 0, fmt.Errorf("%w: surer answers are not more often right (slope %.3g), so confidence says nothing here", ErrNoCalibration, a)
	}
	return a, b, nil
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// logOdds is log(c/(1-c)) of a confidence that is drawn a thousandth towards 1/2, since models say 1 and 0.
func logOdds(c float64) float64 {
	c = 0.5 + (c-0.5)*0.998
	return math.Log(c / (1 - c))
}
