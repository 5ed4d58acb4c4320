package phash

import (
	"fmt"
	"strconv"
	"strings"
)

// An Order is the order of the two resampling passes, in which the releases of Pillow differ for this hash. It
// matters only for tall pictures, whose hashes are a few bits apart as a rule. Whoever shares a cache with Python services takes
// the order of their Pillow; see [ParseOrder].
type Order int

const (
	// AcrossFirst is the order of Pillow up to 12.1, for every picture.
	AcrossFirst Order = iota
	// VeryTallDownFirst is the order of Pillow 12.2 and 12.3, which differs for pictures over 64 pixels high and more than 100
	// times as high as wide.
	VeryTallDownFirst
	// TallDownFirst is the order of Pillow 13.0, which differs for pictures over 64 pixels high and more than 2*width-64 pixels
	// high. Screenshots of phones are such pictures, photographs are not.
	TallDownFirst
)

// ParseOrder returns the order of a release of Pillow, as in "9.4", "12.3.0" or "13.0.0.dev0": only the first two numbers matter, of
// which the second may be missing. Releases to come count as 13.0. The empty string is [AcrossFirst].
func ParseOrder(pillow string) (Order, error) {
	if pillow == "" {
		return AcrossFirst, nil
	}
	major, rest, dot := strings.Cut(pillow, ".")
	minor, _, _ := strings.Cut(rest, ".")
	if !dot {
		minor = "0"
	}
	a, err1 := strconv.ParseUint(major, 10, 16)
	b, err2 := strconv.ParseUint(minor, 10, 16)
	if err1 != nil || err2 != nil {
		return AcrossFirst, fmt.Errorf("release of Pillow is %q: expected a version such as 9.4 or 12.3.0", pillow)
	}
	switch {
	case a >= 13:
		return TallDownFirst, nil
	case a == 12 && b >= 2:
		return VeryTallDownFirst, nil
	}
	return AcrossFirst, nil
}

// downFirst reports whether a picture of this size is resampled down its columns first.
func (o Order) downFirst(width, height int) bool {
	switch o {
	case VeryTallDownFirst:
		return height > side && height > 100*width
	case TallDownFirst:
		return height > side && height-side > 2*(width-side)
	}
	return false
}
