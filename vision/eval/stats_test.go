package eval

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// checker compares figures.
type checker struct{ *testing.T }

func (c checker) near(what string, got, want float64) {
	c.Helper()
	if !(math.Abs(got-want) <= 1e-9) {
		c.Errorf("%s: got %.15g, want %.15g", what, got, want)
	}
}

func (c checker) interval(what string, got Interval, want [2]float64) {
	c.Helper()
	c.near(what+" low", got.Low, want[0])
	c.near(what+" high", got.High, want[1])
}

func (c checker) maybe(what string, got, want *float64) {
	c.Helper()
	if (got == nil) != (want == nil) {
		c.Errorf("%s: got %v, want %v", what, got, want)
	} else if got != nil {
		c.near(what, *got, *want)
	}
}

// TestMcNemarProperties holds whatever the counts.
func TestMcNemarProperties(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		b, c := r.IntN(1500), r.IntN(1500)
		p := McNemar(b, c)
		if p != McNemar(c, b) || !(p >= 0) || p > 1 {
			t.Fatalf("(%d, %d): got %v and %v", b, c, p, McNemar(c, b))
		}
		if b < c && McNemar(b, c+1) > p+1e-12 {
			t.Fatalf("(%d, %d): got %v, and %v for a larger difference", b, c, p, McNemar(b, c+1))
		}
	}
	// Both ways to sum meet at 1,000 pictures.
	for _, k := range []int{0, 1, 380, 470, 499} {
		a, b := McNemar(k, 1000-k), McNemar(k, 1001-k)
		if a > 1e-250 && !(b <= a*1.07 && b >= a/2.5) {
			t.Errorf("%d of 1000 and 1001: got %v and %v", k, a, b)
		}
	}
	if McNemar(0, 0) != 1 || McNemar(7, 7) != 1 || McNemar(0, 1) != 1 {
		t.Error("no difference is not p = 1")
	}
	checker{t}.near("McNemar(1, 9)", McNemar(1, 9), 22.0/1024)
	checker{t}.near("McNemar(0, 20)", McNemar(0, 20)*math.Ldexp(1, 19), 1)
}

func TestWilsonProperties(t *testing.T) {
	t.Parallel()
	if got := Wilson(0, 0); got != (Interval{0, 1}) {
		t.Errorf("of nothing: got %v", got)
	}
	for n := 1; n <= 200; n++ {
		for k := 0; k <= n; k++ {
			i, mirror := Wilson(k, n), Wilson(n-k, n)
			p := float64(k) / float64(n)
			if i.Low < 0 || i.High > 1 || i.Low > p+1e-15 || i.High < p-1e-15 || i.Low >= i.High {
				t.Fatalf("%d of %d: got %v", k, n, i)
			}
			if math.Abs(i.Low-(1-mirror.High)) > 1e-12 {
				t.Fatalf("%d of %d: got %v and mirrored %v", k, n, i, mirror)
			}
		}
	}
}

// TestBinEdges puts each edge into the bin that ends there, and the numbers next to it to both sides.
func TestBinEdges(t *testing.T) {
	t.Parallel()
	if got := binOf(0); got != 0 {
		t.Errorf("0: got bin %d", got)
	}
	for i := 1; i <= Bins; i++ {
		edge := float64(i) / Bins
		if got := binOf(edge); got != i-1 {
			t.Errorf("%v: got bin %d, want %d", edge, got, i-1)
		}
		if got := binOf(math.Nextafter(edge, 0)); got != i-1 {
			t.Errorf("below %v: got bin %d, want %d", edge, got, i-1)
		}
		if got := binOf(math.Nextafter(edge, 2)); got != min(i, Bins-1) {
			t.Errorf("above %v: got bin %d, want %d", edge, got, i)
		}
	}
}

// TestCalibration fits one half of over-confident answers and measures on the other half.
func TestCalibration(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(2, 3))
	var fitted, held []Point
	for i := range 4000 {
		c := 0.7 + 0.3*r.Float64()
		p := Point{c, r.Float64() < 0.35+0.45*(c-0.7)/0.3} // right far less often than it says
		if i%2 == 0 {
			fitted = append(fitted, p)
		} else {
			held = append(held, p)
		}
	}
	c, err := Calibrate("m", "1a2b3c4d", "category", fitted, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	after := make([]Point, len(held))
	for i, p := range held {
		after[i] = Point{c.Apply(p.Confidence), p.Right}
	}
	if before, now := ECE(held), ECE(after); now > before/2 {
		t.Errorf("ECE of answers that were not fitted: got %.4f, want at most half of %.4f", now, before)
	}
	if c.HeldOutECE > c.ECE/2 {
		t.Errorf("held-out ECE: got %.4f, want at most half of %.4f", c.HeldOutECE, c.ECE)
	}
	order := func(points []Point) []int {
		at := make([]int, len(points))
		for i := range at {
			at[i] = i
		}
		slices.SortStableFunc(at, func(a, b int) int {
			switch {
			case points[a].Confidence < points[b].Confidence:
				return -1
			case points[a].Confidence > points[b].Confidence:
				return 1
			}
			return 0
		})
		return at
	}
	if !slices.Equal(order(held), order(after)) {
		t.Error("calibration has changed the order of the answers")
	}
	if !(c.Apply(0) > 0 && c.Apply(1) < 1 && c.Apply(0) < c.Apply(1)) {
		t.Errorf("got %v to %v, want something between 0 and 1 that rises", c.Apply(0), c.Apply(1))
	}

	doc, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseCalibration(doc); err != nil || again != c {
		t.Errorf("read again: got %+v, %v, want %+v", again, err, c)
	}
}

func TestNoCalibration(t *testing.T) {
	t.Parallel()
	points := func(n int, of func(i int) Point) (out []Point) {
		for i := range n {
			out = append(out, of(i))
		}
		return out
	}
	mixed := func(i int) Point { return Point{0.5 + float64(i%50)/100, i%50 > i%7*5} }
	if _, err := Calibrate("m", "v", "f", points(MinCalibration, mixed), time.Now()); err != nil {
		t.Errorf("enough answers: got %v", err)
	}
	for name, p := range map[string][]Point{
		"too few":             points(MinCalibration-1, mixed),
		"all right":           points(300, func(i int) Point { return Point{float64(i) / 300, true} }),
		"all wrong":           points(300, func(i int) Point { return Point{float64(i) / 300, false} }),
		"one confidence":      points(300, func(i int) Point { return Point{0.9, i%3 > 0} }),
		"surer is less right": points(300, func(i int) Point { return Point{float64(i) / 300, i%300 < 150} }),
	} {
		if c, err := Calibrate("m", "v", "f", p, time.Now()); !errors.Is(err, ErrNoCalibration) {
			t.Errorf("%s: got %+v, %v, want ErrNoCalibration", name, c, err)
		}
	}
	for _, doc := range []string{``, `{}`, `{"version":2,"method":"platt","model":"m","prompt_version":"v","a":1}`,
		`{"version":1,"method":"isotonic","model":"m","prompt_version":"v","a":1}`, `{"version":1,"method":"platt","model":"m","prompt_version":"v","a":-1}`,
		`{"version":1,"method":"platt","model":"","prompt_version":"v","a":1}`} {
		if c, err := ParseCalibration([]byte(doc)); err == nil {
			t.Errorf("%s: got %+v, want an error", doc, c)
		}
	}
}

// TestThin keeps the ends and spreads the rest.
func TestThin(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 5))
	for n := 1; n <= 120; n++ {
		var steps []Step
		asked := 0
		for range n {
			steps = append(steps, Step{Asked: asked})
			asked += 1 + r.IntN(20)
		}
		got := Thin(steps, 11)
		if len(got) > 11 || got[0] != steps[0] || got[len(got)-1] != steps[n-1] {
			t.Fatalf("of %d: got %d steps", n, len(got))
		}
		if n <= 11 && len(got) != n {
			t.Fatalf("of %d: got %d steps, want all", n, len(got))
		}
		if n >= 60 && len(got) < 9 {
			t.Fatalf("of %d: got %d steps, want about 11", n, len(got))
		}
		for i := 1; i < len(got); i++ {
			if got[i].Asked <= got[i-1].Asked {
				t.Fatalf("of %d: step %d is not after the one before", n, i)
			}
		}
	}
	if Cascade(nil) != nil {
		t.Error("a cascade of nothing has steps")
	}
}

// TestNothing: no picture gives no NaN.
func TestNothing(t *testing.T) {
	t.Parallel()
	ece, brier := Bootstrap(nil)
	m := Confusion(nil, nil)
	for _, v := range []float64{ECE(nil), Brier(nil), Quantile(nil, 0.5), m.MacroF1(), ece.Low, brier.High, PairedDifference(nil).Mean, PairedDifference([]float64{1}).Low - 1} {
		if v != 0 {
			t.Errorf("got %v, want 0", v)
		}
	}
}
