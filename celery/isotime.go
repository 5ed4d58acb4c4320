package celery

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// ParseTime reads a time in ISO 8601, as Celery's workers read eta and expires
// (maybe_iso8601, which is dateutil's isoparse) or else as datetime.fromisoformat of
// Python 3.11 does:
//
//	2030-01-02T12:04:05.123456+09:00   2030-01-02 12:04:05+0900   20300102t1204z
//	2030-01-02   2030-01   2030   2030-W01-3   2030W013   2030-002   2030002
//
// The separator is any character but a digit. A fraction may have any number of digits,
// of which six count. A time without an offset is UTC, as in Celery (maybe_make_aware).
// The result is in UTC, in the years 1 to 9999, in whole microseconds.
func ParseTime(s string) (time.Time, error) {
	for _, isoparse := range []bool{true, false} {
		r := isoReader{rest: s, isoparse: isoparse}
		if t, ok := r.moment(); ok {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not an ISO 8601 time: expected a form like 2030-01-02T12:04:05+09:00", clip(s, 64))
}

// isoReader reads a time from the front of what is left of it. Its methods report
// whether they found what they were asked for.
type isoReader struct {
	rest     string
	isoparse bool // the forms of dateutil's isoparse; else those of fromisoformat
}

func (r *isoReader) moment() (time.Time, bool) {
	day, timed, ok := r.date()
	if !ok || !representable(day) {
		return time.Time{}, false
	}
	if r.rest == "" {
		return day, true
	}
	if !timed || !r.separator() {
		return time.Time{}, false
	}
	clock, ok := r.clock()
	local := day.Add(clock)
	if !ok || !representable(local) {
		return time.Time{}, false
	}
	east, ok := r.offset()
	t := local.Add(-east)
	return t, ok && r.rest == "" && representable(t)
}

// representable reports whether Python's datetime has t.
func representable(t time.Time) bool { return 1 <= t.Year() && t.Year() <= 9999 }

// date reads a day. To isoparse a year, or a year with a month, is its first day; timed
// says that a clock time may follow.
func (r *isoReader) date() (day time.Time, timed, ok bool) {
	year, ok := r.digits(4)
	if !ok {
		return day, false, false
	}
	if r.rest == "" {
		return civil(year, 1, 1), false, r.isoparse
	}
	dashed := r.take("-")
	switch {
	case r.take("W"):
		return r.week(year, dashed)
	case dashed && !r.digitAt(2):
		return r.monthAndDay(year, "-")
	case !dashed && r.digitAt(3):
		return r.monthAndDay(year, "")
	}
	ordinal, ok := r.digits(3)
	day = civil(year, 1, ordinal)
	return day, true, ok && r.isoparse && ordinal > 0 && day.Year() == year
}

func (r *isoReader) monthAndDay(year int, dash string) (day time.Time, timed, ok bool) {
	month, ok := r.digits(2)
	timed = r.rest != ""
	dayOfMonth := 1
	if timed {
		ok = ok && r.take(dash)
		if dayOfMonth, timed = r.digits(2); !timed {
			return day, false, false
		}
	}
	day = civil(year, month, dayOfMonth)
	return day, timed, ok && (timed || r.isoparse) && day.Month() == time.Month(month) && day.Day() == dayOfMonth
}

// week reads what follows the W of 2030-W01-3 or 2030W013. To fromisoformat the second
// dash of 2030-W01-12:00 is the separator.
func (r *isoReader) week(year int, dashed bool) (day time.Time, timed, ok bool) {
	week, ok := r.digits(2)
	weekday := 1
	if r.rest != "" && (r.isoparse || r.weekdayFollows(dashed)) {
		ok = ok && r.take("-") == dashed
		var given bool
		weekday, given = r.digits(1)
		ok = ok && given
	}
	fourth := civil(year, 1, 4) // always in week 1
	monday := fourth.AddDate(0, 0, -(int(fourth.Weekday())+6)%7+(week-1)*7)
	_, actual := monday.ISOWeek()
	return monday.AddDate(0, 0, weekday-1), true,
		ok && 1 <= week && week <= 53 && (r.isoparse || actual == week) && 1 <= weekday && weekday <= 7
}

func (r *isoReader) weekdayFollows(dashed bool) bool {
	if dashed {
		return strings.HasPrefix(r.rest, "-") && r.digitAt(1) && !r.digitAt(2)
	}
	return r.digitAt(0)
}

// civil is the beginning of a day. A month or a day that the calendar has not is one of
// later days.
func civil(year, month, day int) time.Time {
	return time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
}

// separator reads what stands between day and clock: any character but a digit, since
// 20300102120405 would be 20:40:05.
func (r *isoReader) separator() bool {
	first, size := utf8.DecodeRuneInString(r.rest)
	if r.digitAt(0) || r.isoparse && first >= utf8.RuneSelf {
		return false
	}
	r.rest = r.rest[size:]
	return len(r.rest) >= 2
}

// clock reads hh, hh:mm, hh:mm:ss or hh:mm:ss.f, with or without the colons. To isoparse
// it may be 24:00, or missing before an offset.
func (r *isoReader) clock() (sinceMidnight time.Duration, ok bool) {
	if r.isoparse && strings.ContainsAny(r.rest[:1], "+-Zz") {
		return 0, true
	}
	hour, ok := r.digits(2)
	var minute, second int
	colon := r.take(":")
	var fraction time.Duration
	if ok && (colon || r.digitAt(0)) {
		minute, ok = r.upTo2()
		if ok && r.more(colon) {
			if second, ok = r.upTo2(); ok {
				fraction, ok = r.fraction()
			}
		}
	}
	sinceMidnight = hms(hour, minute, second) + fraction
	return sinceMidnight, ok && minute < 60 && second < 60 && (hour < 24 || r.isoparse && sinceMidnight == 24*time.Hour)
}

// more reports whether another number follows, after a colon if colon says so, which
// is read.
func (r *isoReader) more(colon bool) bool {
	if colon {
		return r.take(":")
	}
	return r.digitAt(0)
}

// offset reads how far local time is ahead of UTC. No offset is UTC. To fromisoformat it
// may have seconds.
func (r *isoReader) offset() (east time.Duration, ok bool) {
	if r.rest == "" || r.take("Z") || r.isoparse && r.take("z") {
		return 0, true
	}
	west := r.take("-")
	if !west && !r.take("+") {
		return 0, false
	}
	hour, ok := r.digits(2)
	var minute, second int
	var fraction time.Duration
	colon := r.take(":")
	switch {
	case ok && colon:
		minute, ok = r.upTo2()
	case ok && r.rest != "":
		minute, ok = r.digits(2)
	}
	if ok && !r.isoparse && r.more(colon) {
		if second, ok = r.digits(2); ok {
			fraction, ok = r.fraction()
		}
	}
	if east = hms(hour, minute, second) + fraction; west {
		east = -east
	}
	return east, ok && (minute < 60 || !r.isoparse) && east.Abs() < 24*time.Hour
}

// fraction reads the fraction of a second, if there is one. Digits after the sixth do
// not count.
func (r *isoReader) fraction() (f time.Duration, ok bool) {
	if !r.take(".") && !r.take(",") {
		return 0, true
	}
	unit := 100 * time.Millisecond
	for ; r.digitAt(0); ok = true {
		n, _ := r.digits(1)
		f += time.Duration(n) * unit
		if unit /= 10; unit < time.Microsecond {
			unit = 0
		}
	}
	return f, ok
}

func hms(hour, minute, second int) time.Duration {
	return time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
}

func (r *isoReader) take(prefix string) (found bool) {
	r.rest, found = strings.CutPrefix(r.rest, prefix)
	return found
}

func (r *isoReader) digitAt(i int) bool {
	return i < len(r.rest) && '0' <= r.rest[i] && r.rest[i] <= '9'
}

// digits reads a number of n digits.
func (r *isoReader) digits(n int) (value int, ok bool) {
	for i := range n {
		if !r.digitAt(i) {
			return 0, false
		}
		value = value*10 + int(r.rest[i]-'0')
	}
	r.rest = r.rest[n:]
	return value, true
}

// upTo2 reads a number of two digits. To isoparse, 12:3 is 12:03.
func (r *isoReader) upTo2() (value int, ok bool) {
	if r.isoparse && len(r.rest) == 1 {
		return r.digits(1)
	}
	return r.digits(2)
}
