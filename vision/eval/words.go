package eval

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// plain makes words that come from outside fit for a terminal: on one line and without characters that move the cursor or
// turn the direction of writing.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
}

func percent(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) }

func percents(i Interval) string { return fmt.Sprintf("%.1f – %.1f %%", 100*i.Low, 100*i.High) }

func points(v float64) string { return fmt.Sprintf("%+.1f", 100*v) }

func share(v float64) string { return fmt.Sprintf("%.3f", v) }

// boundIn is the shortest decimal number above low, and at most high, of three digits or more. If no answer's confidence is
// between low and high, it is as good a bound as high itself.
func boundIn(low, high float64) string {
	for digits := 3; digits <= 17; digits++ {
		unit := math.Pow10(-digits)
		for _, v := range []float64{high, high - unit} { // as either may be rounded up
			text := strconv.FormatFloat(v, 'f', digits, 64)
			if got, err := strconv.ParseFloat(text, 64); err == nil && got > low && got <= high {
				return text
			}
		}
	}
	return strconv.FormatFloat(high, 'f', -1, 64)
}

func shares(i Interval) string { return fmt.Sprintf("%.3f – %.3f", i.Low, i.High) }

func shareOf(v *float64) string {
	if v == nil {
		return "-"
	}
	return share(*v)
}

func pValue(p float64) string {
	if p < 0.0001 {
		return fmt.Sprintf("%.1e", p)
	}
	return fmt.Sprintf("%.4f", p)
}

// Dollars is an amount of micro-dollars for people, to three digits that count if it is less than 0.1 USD.
func Dollars(micro float64) string {
	v := micro / 1e6
	if v == 0 || math.Abs(v) >= 0.1 {
		return fmt.Sprintf("%.2f USD", v)
	}
	digits := min(9, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	return fmt.Sprintf("%.*f USD", digits, v)
}

func dollarsOf(micro *float64) string {
	if micro == nil {
		return ""
	}
	return Dollars(*micro)
}

func ms(v float64) string {
	if v >= 10_000 {
		return fmt.Sprintf("%.1f s", v/1000)
	}
	return fmt.Sprintf("%.0f ms", v)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(n) + " " + many
}

// grouped is n with separators.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
