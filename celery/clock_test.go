package celery

import "testing"

func TestClock(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		field any
		want  int64 // of a clock that stood at 5
	}{
		{"behind", int64(3), 6},
		{"ahead", int64(70), 71},
		{"of 32 bits", int32(70), 71},
		{"of 16 bits", int16(70), 71},
		{"of 8 bits", int8(70), 71},
		{"missing", nil, 6},
		{"text", "70", 6},
		{"the highest", int64(maxClock), maxClock + 1},
		{"of nobody", int64(maxClock + 1), 6},
		{"negative", int64(-1), 6},
	} {
		var c Clock
		c.Adjust(4)
		if c.AdjustTo(tt.field); c.Value() != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, c.Value(), tt.want)
		}
		if got := c.Forward(); got != tt.want+1 {
			t.Errorf("%s: got %d forward, want %d", tt.name, got, tt.want+1)
		}
	}
}
