package fleet

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Budget is what may be spent in a window of time. Windows follow each other since 1970-01-01T00:00:00Z, so that
// those of a day begin at midnight UTC.
type Budget struct {
	MicroUSD int64 // millionths of a US dollar
	Window   time.Duration
}

// String is the form that ParseBudgets reads.
func (b Budget) String() string { return Money(b.MicroUSD) + "/" + span(b.Window) }

// span is a duration in the largest unit that fits.
func span(d time.Duration) string {
	for _, u := range []struct {
		name string
		of   time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if d%u.of == 0 {
			return fmt.Sprintf("%d%s", d/u.of, u.name)
		}
	}
	return d.String()
}

// Money is an amount for people, such as 5usd or 0.0125usd.
func Money(micro int64) string {
	sign := ""
	if micro < 0 {
		sign, micro = "-", -micro
	}
	text := fmt.Sprintf("%d.%06d", micro/1_000_000, micro%1_000_000)
	return sign + strings.TrimRight(strings.TrimRight(text, "0"), ".") + "usd"
}

var (
	moneyForm = regexp.MustCompile(`^([0-9]{1,9})(?:\.([0-9]{1,6}))?usd$`)
	spanForm  = regexp.MustCompile(`^([0-9]{1,5})([dhm])$`)
)

// ParseMoney reads 5usd or 0.0125usd as millionths of a US dollar. Finer parts are refused.
func ParseMoney(s string) (int64, error) {
	m := moneyForm.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not an amount: expected one such as 5usd or 0.25usd, with at most 6 places", s)
	}
	whole, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, err
	}
	part, err := strconv.ParseInt((m[2] + "000000")[:6], 10, 64)
	if err != nil {
		return 0, err
	}
	return whole*1_000_000 + part, nil
}

// longestWindow is a year, so that counters do not stay for ever.
const longestWindow = 366 * 24 * time.Hour

// ParseBudgets reads a list such as 5usd/1d,100usd/30d: windows of days (d), hours (h) or minutes (m). "" is no budget.
func ParseBudgets(s string) ([]Budget, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out []Budget
	for _, text := range strings.Split(s, ",") {
		text = strings.TrimSpace(text)
		amount, window, ok := strings.Cut(text, "/")
		m := spanForm.FindStringSubmatch(window)
		if !ok || m == nil {
			return nil, fmt.Errorf("%q is not a budget: expected an amount and a window, such as 5usd/1d, 2usd/12h or 1usd/30m", text)
		}
		micro, err := ParseMoney(amount)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, err
		}
		b := Budget{micro, time.Duration(n) * map[string]time.Duration{"d": 24 * time.Hour, "h": time.Hour, "m": time.Minute}[m[2]]}
		switch {
		case b.MicroUSD == 0:
			return nil, fmt.Errorf("%q allows no money: expected more than 0, or offline for no model at all", text)
		case b.Window < time.Minute || b.Window > longestWindow:
			return nil, fmt.Errorf("%q has a window of %v: expected 1m to 366d", text, b.Window)
		}
		for _, other := range out {
			if other.Window == b.Window {
				return nil, fmt.Errorf("%q has the same window as %v: expected one amount for each", text, other)
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// micros is a duration in microseconds.
func micros(d time.Duration) int64 { return d.Microseconds() }

// fromMicros reads one.
func fromMicros(s string) time.Duration {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n < 0 || n > math.MaxInt64/1e3 {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}
