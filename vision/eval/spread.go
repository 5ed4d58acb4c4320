package eval

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
)

// Spread gives pictures the label of those that show the same by judgements, over any number of them: to items whose Label is
// "", and to judged pictures that are not among the items, which are added. It looks for these by their names below dir, and
// takes only the file that was judged. Pictures that no judgement joins to a labelled one stay as they are, and are not
// looked for. given is how many pictures have got a label. items are as [Pictures.Check] leaves them; workers is how many
// pictures are opened at a time.
//
// The error is of type Faults if pictures with two labels, or two that were judged to differ, show the same by other
// judgements, and if a picture is not there; it is why ctx ended if it did.
func (p Pictures) Spread(ctx context.Context, items []Item, judged []Judgement, dir string, workers int) (all []Item, given int, err error) {
	var faults Faults
	all = slices.Clone(items)
	labelled := map[string]Item{} // by digest, the first of each
	bare := map[string][]int{}    // items without a label
	for i, it := range all {
		if it.Label == "" {
			bare[it.Digest] = append(bare[it.Digest], i)
		} else if _, there := labelled[it.Digest]; !there {
			labelled[it.Digest] = it
		}
	}
	g := join(judged)
	var added []Item
	var digests []string // of added
	for _, group := range g.groups {
		first := slices.IndexFunc(group, func(digest string) bool { return labelled[digest].Label != "" })
		if first < 0 {
			continue
		}
		root := labelled[group[first]]
		for _, digest := range group {
			if other, there := labelled[digest]; there {
				if other.Label != root.Label {
					faults.add("%s (%q) and %s (%q) have two labels, but show the same by %s: expected one label, or another judgement",
						root.where(), root.Label, other.where(), other.Label, g.lines(root.Digest, digest))
				}
				continue
			}
			given++
			for _, i := range bare[digest] {
				all[i].Label = root.Label
			}
			if len(bare[digest]) > 0 {
				continue
			}
			it := g.named[digest]
			path := filepath.FromSlash(it.ID)
			if !filepath.IsLocal(path) {
				faults.add("%s: is no path below the folder of the labels: expected the name that the page gave the picture", it.where())
				continue
			}
			it.Path, it.Label = filepath.Join(dir, path), root.Label
			added, digests = append(added, it), append(digests, digest)
		}
	}
	for _, j := range judged {
		if !j.Same && g.together(j.FirstDigest, j.SecondDigest) {
			faults.add("%s: %s and %s differ, but show the same by %s: expected another judgement in one of these lines",
				j.Source, j.First, j.Second, g.lines(j.FirstDigest, j.SecondDigest))
		}
	}
	err = p.Check(ctx, added, workers, nil)
	var missing Faults
	if err != nil && !errors.As(err, &missing) {
		return nil, 0, err
	}
	faults = append(faults, missing...)
	for i, it := range added {
		if it.Digest != "" && it.Digest != digests[i] {
			faults.add("%s: is not the file that was judged: expected one whose SHA-256 is %s", it.where(), digests[i])
		}
	}
	return append(all, added...), given, faults.err()
}

// joined are the pictures that judgements are about, by their digests, in groups that show the same.
type joined struct {
	groups [][]string
	group  map[string]int
	named  map[string]Item // the name that the last line gives each
	next   map[string][]link
}

// link is a judgement that the picture shows the same as another one.
type link struct{ to, source string }

func join(judged []Judgement) *joined {
	g := &joined{group: map[string]int{}, named: map[string]Item{}, next: map[string][]link{}}
	var pictures []string
	for _, j := range judged {
		for _, it := range []Item{{ID: j.First, Digest: j.FirstDigest}, {ID: j.Second, Digest: j.SecondDigest}} {
			if _, there := g.named[it.Digest]; !there {
				pictures = append(pictures, it.Digest)
			}
			g.named[it.Digest] = Item{ID: it.ID, Source: j.Source}
		}
		if j.Same {
			g.next[j.FirstDigest] = append(g.next[j.FirstDigest], link{j.SecondDigest, j.Source})
			g.next[j.SecondDigest] = append(g.next[j.SecondDigest], link{j.FirstDigest, j.Source})
		}
	}
	for _, digest := range pictures {
		if _, there := g.group[digest]; there {
			continue
		}
		members, _ := g.walk(digest)
		for _, m := range members {
			g.group[m] = len(g.groups)
		}
		g.groups = append(g.groups, members)
	}
	return g
}

func (g *joined) together(a, b string) bool { return g.group[a] == g.group[b] }

// walk returns the pictures of a group, the nearest to from first, and for each of the others the link back towards from.
func (g *joined) walk(from string) (members []string, back map[string]link) {
	members, back = []string{from}, map[string]link{from: {}}
	for i := 0; i < len(members); i++ {
		for _, l := range g.next[members[i]] {
			if _, there := back[l.to]; !there {
				back[l.to] = link{members[i], l.source}
				members = append(members, l.to)
			}
		}
	}
	return members, back
}

// lines names the fewest judgements by which two pictures of a group show the same.
func (g *joined) lines(from, to string) string {
	var sources []string
	_, back := g.walk(from)
	for at := to; at != from; at = back[at].to {
		sources = append(sources, back[at].source)
	}
	slices.Reverse(sources)
	return strings.Join(sources, ", ")
}
