package main

import (
	"context"
	"fmt"
	"time"

	"onceover/celery"
)

// add is Python's + over numbers, texts and lists.
func add(values ...any) (any, error) {
	out := values[0]
	for _, v := range values[1:] {
		switch a := out.(type) {
		case float64:
			if b, ok := v.(float64); ok {
				out = a + b
				continue
			}
		case string:
			if b, ok := v.(string); ok {
				out = a + b
				continue
			}
		case []any:
			if b, ok := v.([]any); ok {
				out = append(append([]any{}, a...), b...)
				continue
			}
		}
		return nil, celery.NewException("TypeError",
			fmt.Sprintf("unsupported operand type(s) for +: '%s' and '%s'", typeName(out), typeName(v)), nil)
	}
	return out, nil
}

// sum is Python's sum of numbers.
func sum(values []any) (any, error) { return add(append([]any{0.0}, values...)...) }

// truthy is Python's bool().
func truthy(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case float64:
		return "int"
	case string:
		return "str"
	case []any:
		return "list"
	}
	return "dict"
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, s float64) error {
	timer := time.NewTimer(seconds(s))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
