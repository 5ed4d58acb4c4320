package loadtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is why a job is answered as it is.
type Kind string

// Kinds of jobs.
const (
	Hash Kind = "hash" // the producer gives the picture's hash, whose answer is known: nothing is downloaded
	File Kind = "file" // a file that was seen before
	Near Kind = "near" // a copy of a picture that was seen: smaller and compressed more, its hash some bits off
	Miss Kind = "miss" // a picture that nobody has seen: the model is asked
)

// Kinds are all of them, in the order in which people read of them.
var Kinds = []Kind{Hash, File, Near, Miss}

// Part is how many of all jobs are of a kind.
type Part struct {
	Kind  Kind
	Share int // of the sum of all shares, at least 1
}

// Shape is what the jobs are.
type Shape []Part

// ParseShape reads kinds with their shares: "miss", or "hash:70,near:10,miss:20".
func ParseShape(text string) (Shape, error) {
	var s Shape
	for _, word := range strings.Split(text, ",") {
		name, share, given := strings.Cut(strings.TrimSpace(word), ":")
		p := Part{Kind(name), 1}
		if !slices.Contains(Kinds, p.Kind) {
			return nil, fmt.Errorf("kind %q is unknown: expected hash, file, near or miss, as in hash:70,near:10,miss:20", name)
		}
		if slices.ContainsFunc(s, func(q Part) bool { return q.Kind == p.Kind }) {
			return nil, fmt.Errorf("kind %s is named twice: expected each once", p.Kind)
		}
		if given {
			n, err := strconv.Atoi(share)
			if err != nil || n < 1 || n > maxShare {
				return nil, fmt.Errorf("the share of %s is %q: expected a whole number from 1 to %d", p.Kind, share, maxShare)
			}
			p.Share = n
		}
		s = append(s, p)
	}
	return s, nil
}

// maxShare keeps sums of shares far from overflowing.
const maxShare = 1_000_000

func (s Shape) String() string {
	var parts []string
	for _, p := range s {
		parts = append(parts, fmt.Sprintf("%s:%d", p.Kind, p.Share))
	}
	return strings.Join(parts, ",")
}

// Of returns how many of n jobs are of each kind. What does not divide goes to the first kinds.
func (s Shape) Of(n int) map[Kind]int {
	sum := 0
	for _, p := range s {
		sum += p.Share
	}
	counts, left := map[Kind]int{}, n
	for _, p := range s {
		counts[p.Kind] = n * p.Share / sum
		left -= counts[p.Kind]
	}
	for i := range left { // fewer than there are kinds
		counts[s[i].Kind]++
	}
	return counts
}
