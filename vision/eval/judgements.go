package eval

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// What a cache made of a pair of pictures, as judgements name it.
const (
	NearHit   = "near"   // the second got the answer of the first
	ToldApart = "vetoed" // it did not, as the two were found to differ
	Twin      = "twin"   // nor did it although the hashes are equal
)

// Judgement is what a person says of two pictures, as the page of "onceover cache simulate" saves it.
type Judgement struct {
	First        string    `json:"first"` // path, with slashes, from the folder that was simulated
	Second       string    `json:"second"`
	FirstDigest  string    `json:"first_sha256"` // of the files, in hex
	SecondDigest string    `json:"second_sha256"`
	Verdict      string    `json:"verdict"` // what the cache had made of them: NearHit, ToldApart or Twin
	Same         bool      `json:"same"`    // the two show the same: the answer for one is right for the other
	At           time.Time `json:"at"`      // UTC

	Source string `json:"-"` // the file and line, such as "judgements.jsonl:3"
}

// PicturePair is two pictures by the SHA-256 of their files, in either order.
type PicturePair [2]string

// PairOf returns the pair of two digests.
func PairOf(a, b string) PicturePair {
	if b < a {
		a, b = b, a
	}
	return PicturePair{a, b}
}

// Pair returns the two pictures that j is about.
func (j Judgement) Pair() PicturePair { return PairOf(j.FirstDigest, j.SecondDigest) }

// ReadJudgements reads files of judgements, of which each line is the JSON of a [Judgement]; blank lines and further fields are
// allowed. Of several lines about a pair the last one counts, files being read in their order; overruled is how many pairs had
// an earlier one that says otherwise. The judgements are in the order in which their pairs first occur.
//
// The error is of type Faults if the files can be read and some lines are wrong.
func ReadJudgements(files ...string) (all []Judgement, overruled int, err error) {
	var faults Faults
	at := map[PicturePair]int{}
	contrary := map[PicturePair]bool{}
	for _, name := range files {
		doc, err := os.ReadFile(name)
		if err != nil {
			return nil, 0, err
		}
		for _, j := range parseJudgements(doc, name, &faults) {
			i, there := at[j.Pair()]
			if !there {
				at[j.Pair()] = len(all)
				all = append(all, j)
				continue
			}
			if all[i].Same != j.Same {
				contrary[j.Pair()] = true
			}
			all[i] = j
		}
	}
	return all, len(contrary), faults.err()
}

// parseJudgements reads the lines of a file, and adds to faults what is wrong with the others.
func parseJudgements(doc []byte, name string, faults *Faults) (all []Judgement) {
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(doc, []byte("\ufeff"))) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		j, err := parseJudgement(line)
		j.Source = fmt.Sprintf("%s:%d", name, n)
		if err != nil {
			faults.add("%s: %v", j.Source, err)
			continue
		}
		all = append(all, j)
	}
	return all
}

const judgementForm = `{"first": "a.jpg", "second": "b.jpg", "first_sha256": "…", "second_sha256": "…", "verdict": "near", "same": true, "at": "2026-01-02T03:04:05Z"}`

func parseJudgement(line []byte) (Judgement, error) {
	var row struct {
		Judgement
		Same *bool      `json:"same"` // nil if it is not there
		At   *time.Time `json:"at"`
	}
	if !utf8.Valid(line) { // else the bad bytes are replaced
		return Judgement{}, errors.New("is not UTF-8: expected the file in UTF-8")
	}
	if err := json.Unmarshal(line, &row); err != nil {
		return Judgement{}, fmt.Errorf("is not a judgement: %w: expected %s", err, judgementForm)
	}
	j := row.Judgement
	var wrong []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	check(j.First != "" && j.Second != "", "first or second is empty: expected the names of two files")
	for _, d := range []struct {
		field string
		hex   *string
	}{{"first_sha256", &j.FirstDigest}, {"second_sha256", &j.SecondDigest}} {
		*d.hex = strings.ToLower(*d.hex)
		raw, err := hex.DecodeString(*d.hex)
		check(err == nil && len(raw) == 32, "%s is %.80q: expected 64 hex digits", d.field, *d.hex)
	}
	check(j.FirstDigest == "" || j.FirstDigest != j.SecondDigest, "first_sha256 and second_sha256 are equal: expected two files that differ")
	check(slices.Contains([]string{NearHit, ToldApart, Twin}, j.Verdict), "verdict is %.80q: expected %s, %s or %s", j.Verdict, NearHit, ToldApart, Twin)
	check(row.Same != nil, "same is missing: expected true or false")
	check(row.At != nil, "at is missing: expected a time such as 2026-01-02T03:04:05Z")
	if len(wrong) > 0 {
		return Judgement{}, errors.New(strings.Join(wrong, "; "))
	}
	j.Same, j.At = *row.Same, row.At.UTC()
	return j, nil
}
