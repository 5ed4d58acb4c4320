package remote

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseRate reads a rate limit as Celery writes it: "10/s", "100/m", "5/h", or a
// number for runs a second. "" and 0 are no limit, for which it returns 0
// (celery/utils/time.py, rate).
func ParseRate(text string) (perSecond float64, err error) {
	if text == "" {
		return 0, nil
	}
	count, unit, _ := strings.Cut(text, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(count), 64)
	if err != nil || n < 0 || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("rate limit %q: expected a number of runs per second, minute or hour, such as 10/s, 100/m or 5/h", text)
	}
	switch unit {
	case "", "s":
		return n, nil
	case "m":
		return n / 60, nil
	case "h":
		return n / 3600, nil
	}
	return 0, fmt.Errorf("rate limit %q has the unit %q: expected s, m or h", text, unit)
}
