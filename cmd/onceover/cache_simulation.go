package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"onceover/cache"
	"onceover/phash"
	"onceover/vision/eval"
)

// folder is a folder of pictures, out of which no symbolic link leads.
type folder struct {
	root   *os.Root
	limits eval.Pictures
	order  phash.Order // of rows and columns
}

// photo is a picture of a folder.
type photo struct {
	name    string // in the folder
	changed time.Time
	cache.Picture
}

// skipped is a file that is no picture, or cannot be read.
type skipped struct {
	File string `json:"file"`
	Why  string `json:"why"`
}

// list returns the files below the folder and those that are none.
func (f folder) list(ctx context.Context) (files []photo, left []skipped, err error) {
	err = fs.WalkDir(f.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil && name == "." {
			return err
		}
		var info fs.FileInfo
		if err == nil {
			if d.IsDir() {
				return nil
			}
			info, err = d.Info()
		}
		switch {
		case err != nil:
			left = append(left, skipped{name, plainReason(err)})
		case info.Mode()&fs.ModeSymlink != 0:
			left = append(left, skipped{name, "a symbolic link"})
		case !info.Mode().IsRegular():
			left = append(left, skipped{name, "not a regular file"})
		default:
			files = append(files, photo{name: name, changed: info.ModTime()})
		}
		return nil
	})
	return files, left, err
}

// plainReason is an error without the name that is said beside it.
func plainReason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err.Error()
}

// load reads a picture, as far as a worker would take it.
func (f folder) load(name string) ([]byte, error) {
	file, err := f.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return f.limits.Read(file)
}

// hash hashes files, so many at a time, and returns the pictures among them. It
// calls step after each file.
func (f folder) hash(ctx context.Context, files []photo, workers int, step func()) (pictures []photo, left []skipped, err error) {
	faults := make([]error, len(files))
	err = parallel(ctx, len(files), workers, func(i int) {
		p := &files[i]
		data, err := f.load(p.name)
		if err == nil {
			p.Digest = sha256.Sum256(data)
			p.Fingerprint, err = phash.Of(data, f.order)
		}
		faults[i] = err
		step()
	})
	for i, p := range files {
		if faults[i] != nil {
			left = append(left, skipped{p.name, plainReason(faults[i])})
		} else {
			pictures = append(pictures, p)
		}
	}
	return pictures, left, err
}

// parallel calls do for each of n numbers, so many at a time, until ctx ends.
func parallel(ctx context.Context, n, workers int, do func(i int)) error {
	var group errgroup.Group
	group.SetLimit(workers)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { do(i); return nil })
	}
	return errors.Join(group.Wait(), context.Cause(ctx))
}

// Orders in which pictures are taken.
const (
	orderTime = "time"
	orderName = "name"
)

func sortPhotos(pictures []photo, order string) {
	slices.SortFunc(pictures, func(a, b photo) int {
		if order == orderTime {
			return cmp.Or(a.changed.Compare(b.changed), cmp.Compare(a.name, b.name))
		}
		return cmp.Compare(a.name, b.name)
	})
}

// What became of a pair of pictures.
const (
	pairNear       = "near"       // the second got the answer of the first
	pairVetoed     = "vetoed"     // it did not, as the colours differ
	pairRecoloured = "recoloured" // it did not, although the hashes are equal, as the colours differ
)

// pair is a picture and the one before it that looks the same to the hash.
type pair struct {
	Verdict        string `json:"verdict"`
	Distance       int    `json:"distance"`        // of the hashes, in bits
	ColourDistance int    `json:"colour_distance"` // see phash.Colour.Distance
	First          string `json:"first"`           // the file that was looked at
	FirstPHash     string `json:"first_phash"`
	Second         string `json:"second"` // the file that came later
	SecondPHash    string `json:"second_phash"`

	first, second int // which pictures they are
}

// pairs are those of one verdict, of which the likeliest mistakes are kept.
type pairs struct {
	kept  []pair
	most  int
	total int
}

func (p *pairs) add(new pair) {
	p.total++
	if p.kept = append(p.kept, new); len(p.kept) >= 2*p.most+64 {
		p.sort()
	}
}

// sort brings the likeliest mistakes to the front: what was answered from afar,
// and what was not from near by.
func (p *pairs) sort() {
	slices.SortStableFunc(p.kept, func(a, b pair) int {
		farther := cmp.Or(cmp.Compare(b.Distance, a.Distance), cmp.Compare(b.ColourDistance, a.ColourDistance))
		if a.Verdict == pairVetoed {
			return -farther
		}
		return farther
	})
	p.kept = p.kept[:min(len(p.kept), p.most)]
}

// simulation is what pictures would have cost, one after another.
type simulation struct {
	Dir        string    `json:"dir"`
	Order      string    `json:"order"`
	Radius     int       `json:"radius"`
	Pictures   int       `json:"pictures"`
	Files      int       `json:"files"`      // that differ
	Degenerate int       `json:"degenerate"` // pictures whose hash says too little, kept by their file
	Skipped    []skipped `json:"skipped"`
	Calls      struct {
		None  int `json:"without_cache"`
		Exact int `json:"exact_only"`
		Near  int `json:"near"`
	} `json:"calls"`
	Price      *float64    `json:"price_per_call_usd"` // null if it was not given
	NearHits   int         `json:"near_hits"`
	Vetoed     int         `json:"vetoed"`     // pairs
	Recoloured int         `json:"recoloured"` // pictures with an equal hash and other colours, kept by their files
	Distances  map[int]int `json:"distances"`  // near hits by distance in bits
	Pairs      []pair      `json:"pairs"`      // the likeliest mistakes of each verdict first
	LeftOut    int         `json:"pairs_left_out"`
	HTML       string      `json:"html,omitempty"`

	pictures []photo
}

// simulate runs pictures in their order through hash and index as a worker does
// that finds no entry at its start and loses none. At most maxPairs are kept.
func simulate(pictures []photo, cfg cache.Config, maxPairs int) *simulation {
	s := &simulation{Radius: cfg.Radius, Pictures: len(pictures), Skipped: []skipped{}, Distances: map[int]int{}, pictures: pictures}
	index := cache.NewIndex(cfg.IndexEntries)
	files, byFile := map[cache.Digest]struct{}{}, map[cache.Digest]struct{}{}
	other := map[cache.Digest]struct{}{} // files whose hash can be no key, or is that of one of other colours
	entries := map[phash.Hash]int{}      // the first picture of each hash
	near, vetoed, recoloured := pairs{most: maxPairs}, pairs{most: maxPairs}, pairs{most: maxPairs}
	pairOf := func(verdict string, first, second int) pair {
		a, b := pictures[first], pictures[second]
		return pair{verdict, a.Hash.Distance(b.Hash), a.Colour.Distance(b.Colour), a.name, a.Hash.String(), b.name, b.Hash.String(), first, second}
	}
	for i, p := range pictures {
		files[p.Digest] = struct{}{}
		if p.Hash.Degenerate() {
			s.Degenerate++
			if _, known := byFile[p.Digest]; !known {
				s.Calls.Near++
			}
			byFile[p.Digest], other[p.Digest] = struct{}{}, struct{}{}
			continue
		}
		own, taken := entries[p.Hash]
		if _, known := byFile[p.Digest]; known || taken && pictures[own].Colour.Same(p.Colour) {
			continue
		}
		if taken {
			other[p.Digest] = struct{}{}
		} else {
			entries[p.Hash] = i
		}
		answered := false
		for _, n := range index.Near(p.Hash, cfg.Radius) {
			root := entries[n.Hash]
			if pictures[root].Colour.Same(p.Colour) {
				near.add(pairOf(pairNear, root, i))
				s.Distances[n.Distance]++
				answered = true
				break
			}
			vetoed.add(pairOf(pairVetoed, root, i))
		}
		if answered { // a copy answers no other picture
			continue
		}
		s.Calls.Near++
		if taken { // nor does one that is kept by its file
			recoloured.add(pairOf(pairRecoloured, own, i))
			byFile[p.Digest] = struct{}{}
		} else {
			index.Add(0, p.Hash)
		}
	}
	s.Files, s.NearHits, s.Vetoed, s.Recoloured = len(files), near.total, vetoed.total, recoloured.total
	s.Calls.None = len(pictures)
	s.Calls.Exact = len(entries) + len(other)
	s.choose(maxPairs, &near, &recoloured, &vetoed)
	return s
}

// choose shares the room for pairs among the verdicts: each may have an equal part,
// and what another one leaves.
func (s *simulation) choose(most int, groups ...*pairs) {
	s.Pairs = []pair{}
	byNeed := slices.SortedFunc(slices.Values(groups), func(a, b *pairs) int { return cmp.Compare(a.total, b.total) })
	for i, g := range byNeed {
		g.most = min(g.total, most/(len(byNeed)-i))
		most -= g.most
	}
	for _, g := range groups {
		g.sort()
		s.Pairs = append(s.Pairs, g.kept...)
		s.LeftOut += g.total - len(g.kept)
	}
}
