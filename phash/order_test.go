package phash

import "testing"

func TestParseOrder(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]Order{
		"": AcrossFirst, "9.4": AcrossFirst, "9.5.0": AcrossFirst, "11": AcrossFirst, "12": AcrossFirst, "12.1.1": AcrossFirst,
		"12.2": VeryTallDownFirst, "12.2.0": VeryTallDownFirst, "12.3.0": VeryTallDownFirst, "12.10": VeryTallDownFirst,
		"13": TallDownFirst, "13.0": TallDownFirst, "13.0.0.dev0": TallDownFirst, "14.1.2": TallDownFirst,
	} {
		if got, err := ParseOrder(version); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", version, got, err, want)
		}
	}
	for _, version := range []string{"newest", "v12.2", "12.", "12..1", ".2", "-1", "12,2", " 12.2", "12.2rc1", "99999999999999999999"} {
		if got, err := ParseOrder(version); err == nil {
			t.Errorf("%q: got %v, want an error", version, got)
		}
	}
}
