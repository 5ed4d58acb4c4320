package eval

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// judgementOf is a judgement of two pictures that are called by one letter each.
func judgementOf(first, second string, same bool) Judgement {
	digest := func(s string) string { return strings.Repeat(fmt.Sprintf("%02x", s[0]^0xab), 32) }
	return Judgement{First: first + ".png", Second: second + ".png", FirstDigest: digest(first), SecondDigest: digest(second),
		Verdict: NearHit, Same: same, At: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
}

// lineOf is a judgement as the page saves it.
func lineOf(t testing.TB, j Judgement) string {
	t.Helper()
	doc, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

func TestReadJudgements(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.jsonl"), filepath.Join(dir, "two.jsonl")
	ab, cd, ba := judgementOf("a", "b", true), judgementOf("c", "d", false), judgementOf("b", "a", false)
	cd2 := cd
	cd2.At = cd.At.Add(time.Hour)
	upper := strings.ReplaceAll(lineOf(t, cd2), cd.FirstDigest, strings.ToUpper(cd.FirstDigest))
	write(t, one, "\ufeff"+lineOf(t, ab)+"\r\n\n"+lineOf(t, cd))
	write(t, two, strings.Replace(lineOf(t, ba), "05:06:07Z", "06:06:07+01:00", 1)+"\n"+strings.TrimSuffix(upper, "}")+`,"by":"Ana"}`+"\n")
	ba.Source, cd2.Source = two+":1", two+":2"
	got, overruled, err := ReadJudgements(one, two)
	if err != nil || overruled != 1 {
		t.Fatalf("got %d overruled, %v, want the pair a and b", overruled, err)
	}
	if diff := cmp.Diff([]Judgement{ba, cd2}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, _, err := ReadJudgements(one, filepath.Join(dir, "gone.jsonl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: got %v", err)
	}
}

// TestWrongJudgements names all lines that are wrong, and all that is wrong with each.
func TestWrongJudgements(t *testing.T) {
	t.Parallel()
	good := lineOf(t, judgementOf("a", "b", true))
	digest := judgementOf("a", "b", true).FirstDigest
	var text, want []string
	for _, tt := range []struct{ line, want string }{
		{good, ""},
		{"nonsense", "is not a judgement: invalid character"},
		{"", ""},
		{"[]", "is not a judgement: json: cannot unmarshal array"},
		{"{}", "first or second is empty: expected the names of two files; first_sha256 is \"\": expected 64 hex digits; second_sha256 is \"\": expected 64 hex digits; " +
			"verdict is \"\": expected near, vetoed or twin; same is missing: expected true or false; at is missing: expected a time such as 2026-01-02T03:04:05Z"},
		{strings.Replace(good, `"same":true`, `"same":"yes"`, 1), "is not a judgement: json: cannot unmarshal string"},
		{strings.Replace(good, `"same":true`, `"same":null`, 1), "same is missing"},
		{strings.Replace(good, `"a.png"`, `""`, 1), "first or second is empty"},
		{strings.Replace(good, digest, digest[2:], 1), "first_sha256 is \"" + digest[2:] + "\": expected 64 hex digits"},
		{strings.Replace(good, digest, "../"+digest[3:], 1), "first_sha256 is \"../" + digest[3:] + "\""},
		{strings.Replace(good, judgementOf("a", "b", true).SecondDigest, digest, 1), "first_sha256 and second_sha256 are equal: expected two files that differ"},
		{strings.Replace(good, `"near"`, `"exact"`, 1), `verdict is "exact"`},
		{strings.Replace(good, `"2026`, `"26`, 1), "is not a judgement: "},
		{strings.Replace(good, "a.png", "caf\xe9.png", 1), "is not UTF-8"},
	} {
		text = append(text, tt.line)
		if tt.want != "" {
			want = append(want, fmt.Sprintf("%d: %s", len(text), tt.want))
		}
	}
	name := filepath.Join(t.TempDir(), "j.jsonl")
	write(t, name, strings.Join(text, "\n"))
	_, _, err := ReadJudgements(name)
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != len(want) {
		t.Fatalf("got %d faults, want %d:\n%v", len(faults), len(want), err)
	}
	for i, f := range faults {
		if !strings.HasPrefix(f, name+":"+want[i]) {
			t.Errorf("got  %s\nwant %s:%s", f, name, want[i])
		}
	}
}

// FuzzJudgement reads lines. What is taken is complete, and is read again as it was.
func FuzzJudgement(f *testing.F) {
	f.Add([]byte(lineOf(f, judgementOf("a", "b", true))))
	f.Add([]byte(lineOf(f, judgementOf("é", "\u2028", false))))
	f.Add([]byte(`{"first":"a","second":"b","first_sha256":"","SAME":true,"at":"2026-01-01T00:00:00+14:00"}`))
	f.Add([]byte(`{"same":true,"same":null}`))
	f.Add([]byte(strings.Replace(lineOf(f, judgementOf("a", "b", true)), "05:06:07Z", "06:06:07+01:00", 1)))
	f.Fuzz(func(t *testing.T, line []byte) {
		j, err := parseJudgement(line)
		if err != nil {
			if (j != Judgement{}) {
				t.Errorf("got %+v beside %v", j, err)
			}
			return
		}
		if j.First == "" || j.Second == "" || len(j.FirstDigest) != 64 || len(j.SecondDigest) != 64 || j.FirstDigest == j.SecondDigest || j.At.Location() != time.UTC {
			t.Errorf("took %s as %+v", line, j)
		}
		again, err := parseJudgement([]byte(lineOf(t, j)))
		if err != nil || again != j {
			t.Errorf("%s: got %+v, %v, want %+v", line, again, err, j)
		}
	})
}

// spreadTest is a folder of pictures, of which some are labelled.
type spreadTest struct {
	dir     string
	digests map[string]string // by name
	items   []Item
}

// newSpreadTest writes the pictures a.png to h.png; labels are of the form "a=glass", or "a=" for an item without one.
func newSpreadTest(t *testing.T, labels ...string) *spreadTest {
	t.Helper()
	s := &spreadTest{dir: t.TempDir(), digests: map[string]string{}}
	for i, name := range strings.Split("abcdefgh", "") {
		path := filepath.Join(s.dir, name+".png")
		pictureFile(t, path, color.RGBA{200, 0, 0, 255}, uint8(i+1))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s.digests[name] = Digest(data)
	}
	for i, l := range labels {
		name, label, _ := strings.Cut(l, "=")
		s.items = append(s.items, Item{ID: name + ".png", Path: filepath.Join(s.dir, name+".png"), Label: label, Source: fmt.Sprintf("l.csv:%d", i+2), Digest: s.digests[name]})
	}
	return s
}

// spread spreads the labels over judgements such as "a=b" and "b!c".
func (s *spreadTest) spread(t *testing.T, judged ...string) (labels string, given int, err error) {
	t.Helper()
	var all []Judgement
	for i, text := range judged {
		j := judgementOf(text[:1], text[2:], text[1] == '=')
		j.FirstDigest, j.SecondDigest, j.Source = s.digests[text[:1]], s.digests[text[2:]], fmt.Sprintf("j:%d", i+1)
		all = append(all, j)
	}
	items, given, err := testPictures.Spread(t.Context(), s.items, all, s.dir, 2)
	if err != nil {
		return "", 0, err
	}
	var out []string
	for _, it := range items {
		out = append(out, strings.TrimSuffix(it.ID, ".png")+"="+it.Label)
		if data, err := os.ReadFile(it.Path); err != nil || Digest(data) != it.Digest {
			t.Errorf("%s: got %v, or a file with another digest", it.ID, err)
		}
	}
	return strings.Join(out, " "), given, nil
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		labels, judged string
		want           string
		given          int
	}{
		{"nobody judged", "a=glass", "", "a=glass", 0},
		{"one step", "a=glass", "a=b", "a=glass b=glass", 1},
		{"backwards", "b=glass", "a=b", "b=glass a=glass", 1},
		{"over others", "a=glass d=paper", "b=c a=b d=e", "a=glass d=paper b=glass c=glass e=paper", 3},
		{"differs", "a=glass b=paper", "a!b b!c", "a=glass b=paper", 0},
		{"what differs may have one label", "a=glass b=glass", "a!b", "a=glass b=glass", 0},
		{"labels agree", "a=glass b=glass", "a=b b=c", "a=glass b=glass c=glass", 1},
		{"without a labelled one", "a=glass", "b=c c=d", "a=glass", 0},
		{"an item without a label", "a=glass b= c=", "a=b", "a=glass b=glass c=", 1},
		{"a file twice", "a=glass b= b=", "a=b", "a=glass b=glass b=glass", 1},
		{"groups apart", "a=glass c=paper", "a=b c=d b!d", "a=glass c=paper b=glass d=paper", 2},
	} {
		got, given, err := newSpreadTest(t, strings.Fields(tt.labels)...).spread(t, strings.Fields(tt.judged)...)
		if err != nil || got != tt.want || given != tt.given {
			t.Errorf("%s: got %s (%d given), %v, want %s (%d)", tt.name, got, given, err, tt.want, tt.given)
		}
	}
}

func TestSpreadRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		labels, judged string
		change         func(s *spreadTest)
		want           []string
	}{
		{"a=glass c=paper", "b!d c=b a=b", nil, []string{
			`l.csv:3: c.png ("paper") and l.csv:2: a.png ("glass") have two labels, but show the same by j:2, j:3: expected one label, or another judgement`}},
		{"d=glass", "a=b b=c c!a", nil, []string{"j:3: c.png and a.png differ, but show the same by j:2, j:1: expected another judgement in one of these lines"}},
		{"a=glass c=paper e=lamp", "a=b c=b e=f b!e f=b", nil, []string{`l.csv:2: a.png ("glass") and l.csv:3: c.png`, `l.csv:2: a.png ("glass") and l.csv:4: e.png`, "j:4: b.png and e.png differ, but show the same by j:5, j:3"}},
		{"a=glass", "a=b a=c", func(s *spreadTest) { _ = os.Remove(filepath.Join(s.dir, "c.png")) }, []string{"j:2: c.png: no such file"}},
		{"a=glass", "a=b a=c", func(s *spreadTest) { s.digests["b"] = s.digests["h"] }, []string{"j:1: b.png: is not the file that was judged: expected one whose SHA-256 is "}},
		{"a=glass", "a=b", func(s *spreadTest) {
			if err := os.WriteFile(filepath.Join(s.dir, "b.png"), []byte("no picture"), 0o600); err != nil {
				t.Error(err)
			}
		}, []string{"j:1: b.png: not a picture"}},
	} {
		s := newSpreadTest(t, strings.Fields(tt.labels)...)
		if tt.change != nil {
			tt.change(s)
		}
		got, _, err := s.spread(t, strings.Fields(tt.judged)...)
		var faults Faults
		if !errors.As(err, &faults) || len(faults) != len(tt.want) {
			t.Errorf("%s: got %s, %v, want %d faults", tt.judged, got, err, len(tt.want))
			continue
		}
		for i, f := range faults {
			if !strings.HasPrefix(f, tt.want[i]) {
				t.Errorf("%s: got  %s\nwant %s", tt.judged, f, tt.want[i])
			}
		}
	}
}

// TestSpreadStaysBelow opens no file that a name leads to out of the folder.
func TestSpreadStaysBelow(t *testing.T) {
	t.Parallel()
	s := newSpreadTest(t, "a=glass")
	outside := filepath.Join(t.TempDir(), "x.png")
	pictureFile(t, outside, color.RGBA{0, 0, 200, 255}, 1)
	data, err := os.ReadFile(outside)
	if err != nil {
		t.Fatal(err)
	}
	away, err := filepath.Rel(s.dir, outside)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.ToSlash(away), filepath.ToSlash(outside), "\x00", ""} {
		j := judgementOf("a", "b", true)
		j.FirstDigest, j.Second, j.SecondDigest, j.Source = s.digests["a"], name, Digest(data), "j:1"
		var faults Faults
		if got, _, err := testPictures.Spread(t.Context(), s.items, []Judgement{j}, s.dir, 1); !errors.As(err, &faults) || len(faults) != 1 {
			t.Errorf("%q: got %v, %v, want one fault", name, got, err)
		}
	}
}
