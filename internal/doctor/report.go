package doctor

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"onceover/internal/redact"
)

// Severity is how bad a finding is.
type Severity string

// The severities, the worst last.
const (
	OK      Severity = "ok"
	Unknown Severity = "unknown" // it could not be looked at, which another finding explains or which is no fault
	Warning Severity = "warning" // it works, and something will go wrong one day
	Error   Severity = "error"   // jobs do not run, or are lost
)

var severities = []Severity{OK, Unknown, Warning, Error}

// Worse reports whether s is worse than o.
func (s Severity) Worse(o Severity) bool {
	return slices.Index(severities, s) > slices.Index(severities, o)
}

// Finding is what a check has found.
type Finding struct {
	Check    string   `json:"check"` // id, such as redis.eviction; a section of docs/doctor.md
	Subject  string   `json:"subject,omitempty"`
	Severity Severity `json:"severity"`
	Found    string   `json:"found"`            // what is so
	Remedy   string   `json:"remedy,omitempty"` // what to do; "" if nothing is wrong
	Docs     string   `json:"docs,omitempty"`   // where the docs say more
}

// reportVersion changes with the meaning of a field, not with a new field or check.
const reportVersion = 1

// Report is all findings, those of one check together.
type Report struct {
	Version  int       `json:"version"`
	At       time.Time `json:"at"`
	Seconds  float64   `json:"seconds"` // how long it took
	Verdict  Severity  `json:"verdict"` // the worst of the findings, unknown ones left out
	Findings []Finding `json:"findings"`
}

// Count returns how many findings are of a severity.
func (r *Report) Count(s Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Problems returns the warnings and errors, the errors first.
func (r *Report) Problems() []Finding {
	out := slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return !f.Severity.Worse(Unknown) })
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Compare(slices.Index(severities, b.Severity), slices.Index(severities, a.Severity))
	})
	return out
}

// newReport judges all checks.
func newReport(f *facts, checks []check) *Report {
	r := &Report{Version: reportVersion, At: f.now.UTC().Truncate(time.Second), Verdict: OK, Findings: []Finding{}}
	for _, c := range checks {
		found := c.look(f)
		if len(found) == 0 {
			found = []Finding{{Severity: OK, Found: c.well}}
		}
		for _, one := range found {
			one.Check = c.id
			r.add(one)
		}
	}
	return r
}

// add adds a finding, without secrets.
func (r *Report) add(f Finding) {
	f.Found, f.Remedy, f.Subject = redact.Text(f.Found), redact.Text(f.Remedy), redact.Text(f.Subject)
	if f.Severity.Worse(OK) {
		f.Docs = "docs/doctor.md#" + anchor(f.Check)
	}
	if f.Severity != Unknown && f.Severity.Worse(r.Verdict) {
		r.Verdict = f.Severity
	}
	r.Findings = append(r.Findings, f)
}

// anchor is the one of a check's section in docs/doctor.md, as GitHub makes it of the heading.
func anchor(check string) string { return strings.ReplaceAll(check, ".", "") }
