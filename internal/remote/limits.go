package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"onceover/celery"
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

func rateLimit(r *Remote, a arguments) (any, error) {
	var task string
	if err := a.get("task_name", &task); err != nil {
		return nil, err
	}
	limit, err := decode(a.values["rate_limit"])
	if err != nil {
		return nil, err
	}
	text := ""
	switch limit := limit.(type) {
	case nil: // no limit, as ""
	case string:
		text = limit
	case json.Number:
		text = limit.String()
	default:
		return nil, a.typeError("a rate limit is a text or a number, not %s", celery.Repr(limit))
	}
	perSecond, err := ParseRate(text)
	if err != nil {
		return badRate(text)
	}
	if err := r.node.RateLimit(task, perSecond); err != nil {
		return unknownTask(err)
	}
	if perSecond == 0 {
		return ok("rate limit disabled successfully"), nil
	}
	return ok("new rate limit set successfully"), nil
}

// badRate is what Celery says of such a rate limit: a number that cannot be read
// is answered, an unknown unit raises.
func badRate(text string) (any, error) {
	count, unit, _ := strings.Cut(text, "/")
	if !slices.Contains([]string{"", "s", "m", "h"}, unit) {
		return nil, celery.NewException("KeyError", unit, nil)
	}
	message := "could not convert string to float: " + celery.Repr(count)
	return nok("Invalid rate limit string: " + celery.NewException("ValueError", message, nil).Repr()), nil
}

func unknownTask(err error) (any, error) {
	if errors.Is(err, ErrUnknownTask) {
		return nok("unknown task"), nil
	}
	return nil, err
}

func timeLimit(r *Remote, a arguments) (any, error) {
	var task string
	var hard, soft float64
	for name, dst := range map[string]any{"task_name": &task, "hard": &hard, "soft": &soft} {
		if err := a.get(name, dst); err != nil {
			return nil, err
		}
	}
	if err := r.node.TimeLimits(task, seconds(hard), seconds(soft)); err != nil {
		return unknownTask(err)
	}
	return ok("time limits set successfully"), nil
}

// seconds is a time limit; 0, for none, if it is none that can be kept.
func seconds(f float64) time.Duration {
	if f <= 0 || f > (10*365*24*time.Hour).Seconds() {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}
