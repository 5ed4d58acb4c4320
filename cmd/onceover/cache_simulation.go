package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"onceover/cache"
	"onceover/phash"
	"onceover/phash/verify"
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

// each decodes files, so many at once, and calls visit with the pictures among them in their order. It calls step after each file, and
// returns those that are no pictures.
func (f folder) each(ctx context.Context, files []photo, workers int, step func(), visit func(photo) error) (left []skipped, err error) {
	type decoded struct {
		photo
		fault error
	}
	pending := make(chan chan decoded, workers-1)
	var group errgroup.Group
	group.Go(func() error {
		defer close(pending)
		for _, p := range files {
			done := make(chan decoded, 1)
			select {
			case pending <- done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			group.Go(func() error {
				data, err := f.load(p.name)
				if err == nil {
					p.Picture, err = pictureOf(data, f.order)
				}
				done <- decoded{p, err}
				return nil
			})
		}
		return nil
	})
	for done := range pending {
		switch d := <-done; {
		case d.fault != nil:
			left = append(left, skipped{d.name, plainReason(d.fault)})
		case err == nil:
			err = visit(d.photo)
		}
		step()
	}
	return left, errors.Join(err, group.Wait())
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
	pairNear   = eval.NearHit
	pairVetoed = eval.ToldApart
	pairTwin   = eval.Twin
)

// pair is a picture and the one before it that looks the same to the hash.
type pair struct {
	Verdict      string        `json:"verdict"`
	Distance     int           `json:"distance"` // of the hashes, in bits: see verify.Hashes.Apart
	Reason       verify.Reason `json:"reason,omitempty"`
	Part         float64       `json:"part"`   // the largest difference of a part, in what is allowed
	Turned       bool          `json:"turned"` // or mirrored: so the two were compared
	First        string        `json:"first"`  // the file that was looked at
	FirstPHash   string        `json:"first_phash"`
	FirstDigest  string        `json:"first_sha256"`
	Second       string        `json:"second"` // the file that came later
	SecondPHash  string        `json:"second_phash"`
	SecondDigest string        `json:"second_sha256"`

	first, second int // which pictures they are
}

// pairs are those of one verdict, of which the likeliest mistakes are kept.
type pairs struct {
	kept   []pair
	most   int
	total  int
	judged int // of these, which are not kept
}

func (p *pairs) add(new pair) {
	p.total++
	if p.kept = append(p.kept, new); len(p.kept) >= 2*p.most+64 {
		p.sort()
	}
}

// open is how many were not judged.
func (p *pairs) open() int { return p.total - p.judged }

// sort brings the likeliest mistakes to the front: what was answered although much differs, and what was not although little does.
func (p *pairs) sort() {
	slices.SortStableFunc(p.kept, func(a, b pair) int {
		farther := cmp.Or(cmp.Compare(b.Part, a.Part), cmp.Compare(b.Distance, a.Distance))
		if a.Verdict == pairNear {
			return farther
		}
		return -farther
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
	Price     *float64    `json:"price_per_call_usd"` // null if it was not given
	NearHits  int         `json:"near_hits"`
	Vetoed    int         `json:"vetoed"`    // pairs
	Twins     int         `json:"twins"`     // pictures with the hash of another one, kept by their files
	Distances map[int]int `json:"distances"` // near hits by distance in bits
	Pairs     []pair      `json:"pairs"`     // the likeliest mistakes of each verdict first
	LeftOut   int         `json:"pairs_left_out"`
	Judged    *judged     `json:"judged,omitempty"` // nil if no judgements are given
	HTML      string      `json:"html,omitempty"`

	pictures []photo        // without their views
	judgedBy map[string]int // pairs by verdict, which are in none of Pairs
}

// A simulator runs pictures through hash, index and comparison as a worker does that finds no entry at its start and loses none.
type simulator struct {
	*simulation
	cfg     cache.Config
	most    int // pairs that are kept of each verdict
	index   *cache.Index
	files   map[cache.Digest]bool // that were seen
	entries map[phash.Hash]int    // the picture that has each hash
	kept    map[int]*verify.Signature
	of      map[int]int // the picture of which each copy is one
	other   int         // files that are no entry of a hash

	near, vetoed, twins pairs
}

func newSimulator(cfg cache.Config, maxPairs int) *simulator {
	s := &simulator{
		simulation: &simulation{Radius: cfg.Radius, Skipped: []skipped{}, Distances: map[int]int{}}, cfg: cfg, most: maxPairs,
		index: cache.NewIndex(cfg.IndexEntries), files: map[cache.Digest]bool{}, entries: map[phash.Hash]int{}, kept: map[int]*verify.Signature{},
		of: map[int]int{},
	}
	s.near.most, s.vetoed.most, s.twins.most = maxPairs, maxPairs, maxPairs
	return s
}

// add takes the next picture.
func (s *simulator) add(ctx context.Context, p photo) error {
	i := len(s.pictures)
	s.pictures = append(s.pictures, photo{name: p.name, changed: p.changed, Picture: cache.Picture{Digest: p.Digest, Fingerprint: p.Fingerprint}})
	seen := s.files[p.Digest]
	s.files[p.Digest] = true
	if p.Hash.Degenerate() {
		s.Degenerate++
		if !seen {
			s.other++
			s.Calls.Near++
		}
		return nil
	}
	if seen {
		return nil
	}
	view, err := p.View(ctx)
	if err != nil {
		return err
	}
	own, taken := s.entries[p.Hash]
	if taken {
		r := verify.Compare(view, s.kept[own], verify.Options{Corner: s.cfg.Corner})
		root, copied := s.of[own]
		if r.Reason == verify.Same && (!copied || s.cfg.Matches(view, s.kept[root])) {
			return nil
		}
		s.other++
		s.take(&s.twins, s.pair(pairTwin, own, i, 0, false, r))
	} else {
		s.entries[p.Hash], s.kept[i] = i, view.Signature()
	}
	search := cache.Search{Index: s.index, Config: s.cfg, Read: s.read, Compared: func(n cache.Neighbour, turned bool, r verify.Result) {
		if r.Reason == verify.Same {
			s.take(&s.near, s.pair(pairNear, s.entries[n.Hash], i, n.Distance, turned, r))
		} else {
			s.take(&s.vetoed, s.pair(pairVetoed, s.entries[n.Hash], i, n.Distance, turned, r))
		}
	}}
	n, err := search.Find(ctx, p.Hash, view)
	if err != nil {
		return err
	}
	if n != nil && !taken {
		s.of[i] = s.entries[n.Hash]
	}
	if n != nil { // a copy answers no other picture
		s.Distances[n.Distance]++
		return nil
	}
	s.Calls.Near++
	s.Judged.called(p.Digest)
	if !taken { // nor does one that is kept by its file
		s.index.Add(0, cache.Record{Key: p.Hash, Hashes: s.kept[i].Hashes})
	}
	return nil
}

func (s *simulator) read(_ context.Context, near []cache.Neighbour) ([]cache.Known, error) {
	out := make([]cache.Known, len(near))
	for i, n := range near {
		out[i].Signature = s.kept[s.entries[n.Hash]]
	}
	return out, nil
}

func (s *simulator) pair(verdict string, first, second, distance int, turned bool, r verify.Result) pair {
	a, b := s.pictures[first], s.pictures[second]
	return pair{verdict, distance, r.Reason, r.Part, turned, a.name, a.Hash.String(), a.Digest.String(), b.name, b.Hash.String(), b.Digest.String(), first, second}
}

// take keeps a pair, or counts it if it was judged.
func (s *simulator) take(group *pairs, p pair) {
	if s.Judged.count(p, s.pictures[p.second].Digest) {
		group.total++
		group.judged++
		return
	}
	group.add(p)
}

// end sums up.
func (s *simulator) end() *simulation {
	s.Pictures, s.Files = len(s.pictures), len(s.files)
	s.NearHits, s.Vetoed, s.Twins = s.near.total, s.vetoed.total, s.twins.total
	s.Calls.None, s.Calls.Exact = s.Pictures, len(s.entries)+s.other
	files := map[string]bool{}
	for d := range s.files {
		files[d.String()] = true
	}
	s.Judged.end(func(digest string) bool { return files[digest] }, s.near.open()+s.twins.open()+s.vetoed.open() > 0)
	s.judgedBy = map[string]int{pairNear: s.near.judged, pairTwin: s.twins.judged, pairVetoed: s.vetoed.judged}
	s.choose(s.most, &s.near, &s.twins, &s.vetoed)
	return s.simulation
}

// choose shares the room for pairs among the verdicts: each may have an equal part,
// and what another one leaves.
func (s *simulation) choose(most int, groups ...*pairs) {
	s.Pairs = []pair{}
	byNeed := slices.SortedFunc(slices.Values(groups), func(a, b *pairs) int { return cmp.Compare(a.open(), b.open()) })
	for i, g := range byNeed {
		g.most = min(g.open(), most/(len(byNeed)-i))
		most -= g.most
	}
	for _, g := range groups {
		g.sort()
		s.Pairs = append(s.Pairs, g.kept...)
		s.LeftOut += g.open() - len(g.kept)
	}
}
