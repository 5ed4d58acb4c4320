//go:build measure

package verify

import (
	"cmp"
	"encoding/csv"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"onceover/phash"
)

var (
	pairsFlag   = flag.String("pairs", "", "folder that phash/testdata/nearpairs.py has written")
	radiusFlag  = flag.Int("radius", 50, "bits within which a picture is compared")
	triesFlag   = flag.Int("tries", 4, "candidates that are compared with a picture at most")
	halfFlag    = flag.String("half", "", "A or B: measure that half only")
	onlyFlag    = flag.String("only", "", "regular expression: measure groups that match only")
	dumpFlag    = flag.String("dump", "", "file that each comparison is written to")
	cornerFlag  = flag.Bool("corner", false, "leave a corner out")
	allFlag     = flag.Bool("all", false, "compare all pairs of a family that are within the radius, not the nearest ones only")
	othersFlag  = flag.Bool("others", false, "compare each copy with the originals of all other copies of its group too; they must show something else")
	workersFlag = flag.Int("workers", runtime.NumCPU(), "pictures that are compared at once")
)

// TestMeasureNear prints the tables of docs/near-duplicates.md. The decision is that of the cache: entries within -radius by the
// hashes of the picture, or else by those of its other ways, nearest first, until one is verified.
func TestMeasureNear(t *testing.T) {
	if *pairsFlag == "" {
		t.Skip("no -pairs: write pictures by phash/testdata/nearpairs.py and name their folder, or run make near")
	}
	m := &measure{t: t, dir: *pairsFlag, looked: map[string]*lookedAt{}}
	if *dumpFlag != "" {
		f, err := os.Create(*dumpFlag)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m.dump = f
	}
	copies, changes, families := m.read()
	m.copies(copies)
	if *othersFlag {
		m.others(copies)
	}
	m.changes(changes)
	m.families(families)
}

// A measure is one run.
type measure struct {
	t   *testing.T
	dir string

	mu     sync.Mutex
	looked map[string]*lookedAt
	dump   *os.File
}

// A row is one line of the manifest; see nearpairs.py.
type row struct{ kind, group, half, first, second, note string }

func (m *measure) read() (copies, changes, families []row) {
	f, err := os.Open(filepath.Join(m.dir, "manifest.tsv"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.FieldsPerRecord, r.LazyQuotes = '\t', 6, true
	lines, err := r.ReadAll()
	if err != nil {
		m.t.Fatal(err)
	}
	only := regexp.MustCompile(*onlyFlag)
	for _, l := range lines {
		v := row{l[0], l[1], l[2], l[3], l[4], l[5]}
		if *halfFlag != "" && v.half != *halfFlag || !only.MatchString(v.group) {
			continue
		}
		switch v.kind {
		case "copy":
			copies = append(copies, v)
		case "change":
			changes = append(changes, v)
		case "picture":
			families = append(families, v)
		default:
			m.t.Fatalf("manifest: got a line of kind %q, want copy, change or picture", v.kind)
		}
	}
	return copies, changes, families
}

// lookedAt is what an entry of the cache has of a picture.
type lookedAt struct {
	once      sync.Once
	signature *Signature
	colour    phash.Colour
}

func (m *measure) view(file string) (*View, phash.Colour) {
	data, err := os.ReadFile(filepath.Join(m.dir, file))
	if err != nil {
		m.t.Error(err)
		runtime.Goexit()
	}
	l, err := phash.LookAt(data, phash.AcrossFirst)
	if err != nil {
		m.t.Errorf("%s: %v", file, err)
		runtime.Goexit()
	}
	return Of(l), l.Colour
}

func (m *measure) entry(file string) *lookedAt {
	m.mu.Lock()
	e := m.looked[file]
	if e == nil {
		e = &lookedAt{}
		m.looked[file] = e
	}
	m.mu.Unlock()
	e.once.Do(func() {
		v, colour := m.view(file)
		e.signature, e.colour = v.Signature(), colour
	})
	return e
}

// each calls f for 0 to n-1, some at once.
func (m *measure) each(n int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range *workersFlag {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// A candidate is an entry within the radius.
type candidate struct {
	at, bits int
	view     *View
}

// candidates returns the entries within the radius, nearest first.
func candidates(v *View, entries []*lookedAt) (out []candidate) {
	ways := v.Ways(true)
	for i, e := range entries {
		c := candidate{i, v.Apart(&e.signature.Hashes), v}
		if c.bits > *radiusFlag {
			for _, w := range ways {
				if bits := w.Apart(&e.signature.Hashes); bits < c.bits {
					c.bits = bits
					c.view = nil
					if bits <= *radiusFlag {
						c.view = w.View()
					}
				}
			}
		}
		if c.bits <= *radiusFlag {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(a.bits, b.bits) })
	return out
}

// old reports whether the rule before this package took two pictures for one.
func old(v *View, colour phash.Colour, e *lookedAt, radius int) bool {
	return apart(v.Hash, e.signature.Hash) <= radius && colour.Same(e.colour)
}

func (m *measure) compare(group string, r row, c candidate, e *lookedAt, same bool) bool {
	got := Compare(c.view, e.signature, Options{Corner: *cornerFlag})
	if m.dump != nil {
		m.mu.Lock()
		fmt.Fprintf(m.dump, "%s\t%s\t%s\t%s\t%s\t%v\t%d\t%s\t%.3f\t%.3f\t%.2f\t%v\t%d\n",
			r.kind, group, r.half, r.first, r.second, same, c.bits, cmp.Or(got.Reason, "same"), got.Part, got.Mean, got.Colour, got.At, c.view.Quality())
		m.mu.Unlock()
	}
	return got.Reason == Same
}

// A tally counts the pictures of a group in one half.
type tally struct {
	n, near, found, old14, old24 int
	clear, clearFound            int // of changes that moved the chroma by 15 or more
}

func (t *tally) add(o tally) {
	t.n, t.near, t.found, t.old14, t.old24 = t.n+o.n, t.near+o.near, t.found+o.found, t.old14+o.old14, t.old24+o.old24
	t.clear, t.clearFound = t.clear+o.clear, t.clearFound+o.clearFound
}

// tallies are in the order of the manifest.
type tallies struct {
	names []string
	by    map[string]map[string]*tally
}

func (t *tallies) of(group, half string) *tally {
	if t.by == nil {
		t.by = map[string]map[string]*tally{}
	}
	if t.by[group] == nil {
		t.by[group] = map[string]*tally{"A": {}, "B": {}}
		t.names = append(t.names, group)
	}
	return t.by[group][half]
}

// pairs decides each pair by itself.
func (m *measure) pairs(rows []row, same bool) *tallies {
	counts := make([]tally, len(rows))
	m.each(len(rows), func(i int) {
		r := rows[i]
		e := m.entry(r.first)
		v, colour := m.view(r.second)
		c := tally{n: 1}
		if near := candidates(v, []*lookedAt{e}); len(near) > 0 {
			c.near = 1
			if m.compare(r.group, r, near[0], e, same) {
				c.found = 1
			}
		}
		if old(v, colour, e, 14) {
			c.old14 = 1
		}
		if old(v, colour, e, 24) {
			c.old24 = 1
		}
		if moved, err := strconv.ParseFloat(r.note, 64); err == nil && moved >= 15 {
			c.clear, c.clearFound = 1, c.found
		}
		counts[i] = c
	})
	t := &tallies{}
	for i, r := range rows {
		t.of(r.group, r.half).add(counts[i])
	}
	return t
}

func percent(n, of int) string {
	if of == 0 {
		return "-"
	}
	if n == 0 || n == of {
		return strconv.Itoa(100 * n / of)
	}
	return fmt.Sprintf("%.1f", 100*float64(n)/float64(of))
}

func line(fields ...any) {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "| %v ", f)
	}
	fmt.Println(b.String() + "|")
}

func head(title string, fields ...any) {
	fmt.Printf("\n## %s\n\n", title)
	line(fields...)
	fmt.Println(strings.Repeat("| --- ", len(fields)) + "|")
}

func (m *measure) copies(rows []row) {
	if len(rows) == 0 {
		return
	}
	t := m.pairs(rows, true)
	head("Found, % of copies", "alteration", "n, A", "B", fmt.Sprintf("within %d bits, A", *radiusFlag), "B", "verified, A", "B", "old, 14 bits", "old, 24 bits")
	all := map[string]*tally{"A": {}, "B": {}}
	print := func(name string, a, b *tally) {
		line(name, a.n, b.n, percent(a.near, a.n), percent(b.near, b.n), percent(a.found, a.n), percent(b.found, b.n),
			percent(a.old14+b.old14, a.n+b.n), percent(a.old24+b.old24, a.n+b.n))
	}
	for _, name := range t.names {
		a, b := t.of(name, "A"), t.of(name, "B")
		print(name, a, b)
		if !strings.HasPrefix(name, "families") {
			all["A"].add(*a)
			all["B"].add(*b)
		}
	}
	print("all of photos", all["A"], all["B"])
}

// A meeting counts what became of copies among the originals of all other ones.
type meeting struct {
	n                  int // copies
	others, near, same int // other originals; those within the radius; those that a copy was taken for
	answered, wrong    int // copies by a cache that has all originals
}

func (t *meeting) add(o meeting) {
	t.n, t.others, t.near, t.same = t.n+o.n, t.others+o.others, t.near+o.near, t.same+o.same
	t.answered, t.wrong = t.answered+o.answered, t.wrong+o.wrong
}

// others prints how precise the rule is: each copy is compared with all originals of its group that are within the radius.
func (m *measure) others(rows []row) {
	head("Among all originals", "alteration", "copies", "other originals", fmt.Sprintf("within %d bits", *radiusFlag), "taken for one", "answered rightly", "wrongly")
	var groups []string
	originals, by := map[string][]string{}, map[string]*meeting{}
	for _, r := range rows {
		if by[r.group] == nil {
			by[r.group] = &meeting{}
			groups = append(groups, r.group)
		}
		if !slices.Contains(originals[r.group], r.first) {
			originals[r.group] = append(originals[r.group], r.first)
		}
	}
	counts := make([]meeting, len(rows))
	m.each(len(rows), func(i int) {
		r := rows[i]
		names := originals[r.group]
		entries := make([]*lookedAt, len(names))
		for k, name := range names {
			entries[k] = m.entry(name)
		}
		v, _ := m.view(r.second)
		c := meeting{n: 1, others: len(names) - 1}
		answered := false
		for k, near := range candidates(v, entries) {
			right := names[near.at] == r.first
			if !right {
				c.near++
			}
			if right && (k >= *triesFlag || answered) || !m.compare(r.group, r, near, entries[near.at], right) {
				continue
			}
			if !right {
				c.same++
			}
			if k < *triesFlag && !answered {
				answered = true
				if right {
					c.answered = 1
				} else {
					c.wrong = 1
				}
			}
			if !right {
				m.t.Logf("%s: %s is taken for %s, %d bits apart", r.group, r.second, names[near.at], near.bits)
			}
		}
		counts[i] = c
	})
	var total meeting
	print := func(name string, t meeting) {
		line(name, t.n, t.others, t.near, t.same, percent(t.answered, t.n), percent(t.wrong, t.n))
	}
	for i, r := range rows {
		by[r.group].add(counts[i])
		total.add(counts[i])
	}
	for _, name := range groups {
		print(name, *by[name])
	}
	print("all", total)
}

func (m *measure) changes(rows []row) {
	if len(rows) == 0 {
		return
	}
	t := m.pairs(rows, false)
	head("Refused, % of changed pictures", "change", "n, A", "B", "refused, A", "B", "moved by 15 or more, A", "refused", "B", "refused", "old, 14 bits")
	for _, name := range t.names {
		a, b := t.of(name, "A"), t.of(name, "B")
		line(name, a.n, b.n, percent(a.n-a.found, a.n), percent(b.n-b.found, b.n), a.clear, percent(a.clear-a.clearFound, a.clear),
			b.clear, percent(b.clear-b.clearFound, b.clear), percent(a.n+b.n-a.old14-b.old14, a.n+b.n))
	}
}

// An outcome is what became of the pictures of a family.
type outcome struct {
	n, compared    int
	repeats, right int // that show what an earlier one shows, and those of them that were answered rightly
	wrong          int
	old14, old24   int // wrong by the old rule
	nearest        int
	quality        int
	zero           int // pairs of different pictures at 0 bits that were compared
}

func (m *measure) families(rows []row) {
	if len(rows) == 0 {
		return
	}
	head("Families: pictures answered wrongly", "family", "half", "pictures", "nearest different, bits", "pairs compared", "at 0 bits", "wrong", "old, 14 bits", "old, 24 bits", "repeats", "of those found", "least quality")
	var total outcome
	for len(rows) > 0 {
		n := slices.IndexFunc(rows, func(r row) bool { return r.group != rows[0].group || r.half != rows[0].half })
		if n < 0 {
			n = len(rows)
		}
		o := m.family(rows[:n])
		line(rows[0].group, rows[0].half, o.n, o.nearest, o.compared, o.zero, o.wrong, o.old14, o.old24, o.repeats, o.right, o.quality)
		total.n, total.wrong, total.compared = total.n+o.n, total.wrong+o.wrong, total.compared+o.compared
		total.old14, total.old24, total.repeats, total.right = total.old14+o.old14, total.old24+o.old24, total.repeats+o.repeats, total.right+o.right
		total.zero += o.zero
		rows = rows[n:]
	}
	line("all", "", total.n, "", total.compared, total.zero, total.wrong, total.old14, total.old24, total.repeats, total.right, "")
}

// family asks the pictures one by one of a cache that has the earlier ones.
func (m *measure) family(rows []row) outcome {
	views, colours, entries := make([]*View, len(rows)), make([]phash.Colour, len(rows)), make([]*lookedAt, len(rows))
	m.each(len(rows), func(i int) {
		v, colour := m.view(rows[i].first)
		views[i], colours[i] = v, colour
		entries[i] = &lookedAt{signature: v.Signature(), colour: colour}
	})
	each := make([]outcome, len(rows))
	m.each(len(rows), func(i int) {
		o := outcome{nearest: 256}
		same := func(j int) bool { return rows[j].second == rows[i].second }
		answered := false
		for k, c := range candidates(views[i], entries[:i]) {
			if !*allFlag && (k == *triesFlag || answered) {
				break
			}
			o.compared++
			ok := m.compare(rows[i].group, rows[i], c, entries[c.at], same(c.at))
			if c.bits == 0 && !same(c.at) {
				o.zero++
			}
			if ok {
				answered = true
				if same(c.at) {
					o.right = 1
				} else {
					o.wrong = 1
					m.t.Logf("%s: %s is taken for %s, %d bits apart", rows[i].group, rows[i].first, rows[c.at].first, c.bits)
				}
			}
		}
		var olds [257]int // the nearest by the old rule: its bits; 1 is right, 2 is wrong
		for j := range i {
			bits := apart(views[i].Hash, entries[j].signature.Hash)
			if same(j) {
				o.repeats = 1
			} else {
				o.nearest = min(o.nearest, bits)
			}
			if bits <= 24 && colours[i].Same(colours[j]) && olds[bits] == 0 {
				olds[bits] = 2
				if same(j) {
					olds[bits] = 1
				}
			}
		}
		for bits, v := range olds {
			if v == 2 && bits <= 14 {
				o.old14 = 1
			}
			if v == 2 {
				o.old24 = 1
			}
			if v > 0 {
				break
			}
		}
		each[i] = o
	})
	out := outcome{n: len(rows), nearest: 256, quality: 100}
	for _, v := range views {
		out.quality = min(out.quality, v.Quality())
	}
	for _, o := range each {
		out.compared, out.repeats, out.right, out.wrong = out.compared+o.compared, out.repeats+o.repeats, out.right+o.right, out.wrong+o.wrong
		out.old14, out.old24, out.zero = out.old14+o.old14, out.old24+o.old24, out.zero+o.zero
		out.nearest = min(out.nearest, o.nearest)
	}
	return out
}
