package eval

import (
	"cmp"
	"slices"
)

// Matrix counts how often each label got each answer.
type Matrix struct {
	Classes []string `json:"classes"` // the labels in alphabetical order, then the answers that are no label
	Labels  int      `json:"labels"`  // how many of Classes are labels
	Counts  [][]int  `json:"counts"`  // [label][answer]; all 0 in the rows of answers that are no label; nil for more than 100 classes

	pairs map[[2]int]int // label and answer by their places in Classes
}

// denseClasses is up to how many classes Counts is made: free text has as many as pictures.
const denseClasses = 100

// Class is how well one class was found.
type Class struct {
	Name      string   `json:"class"`
	N         int      `json:"n"`         // pictures with this label
	Answered  int      `json:"answered"`  // pictures with this answer
	Right     int      `json:"right"`     // pictures with both
	Precision *float64 `json:"precision"` // Right / Answered; nil if there is no such answer
	Recall    *float64 `json:"recall"`    // Right / N; nil if there is no such label
	F1        float64  `json:"f1"`        // 2 Right / (N + Answered)
}

// Confusion counts pairs of a label and an answer. The two slices are of one length. An answer that is no class at all, such
// as a refusal, is one that no label equals.
func Confusion(labels, answers []string) *Matrix {
	m := &Matrix{pairs: map[[2]int]int{}, Classes: slices.Compact(slices.Sorted(slices.Values(labels)))}
	m.Labels = len(m.Classes)
	index := map[string]int{}
	for i, c := range m.Classes {
		index[c] = i
	}
	for _, a := range slices.Sorted(slices.Values(answers)) {
		if _, there := index[a]; !there {
			index[a] = len(m.Classes)
			m.Classes = append(m.Classes, a)
		}
	}
	for i, l := range labels {
		m.pairs[[2]int{index[l], index[answers[i]]}]++
	}
	if len(m.Classes) > denseClasses {
		return m
	}
	m.Counts = make([][]int, len(m.Classes))
	for i := range m.Counts {
		m.Counts[i] = make([]int, len(m.Classes))
	}
	for at, n := range m.pairs {
		m.Counts[at[0]][at[1]] = n
	}
	return m
}

// Right returns how many pictures got their label as the answer, of how many.
func (m *Matrix) Right() (right, n int) {
	for at, v := range m.pairs {
		n += v
		if at[0] == at[1] {
			right += v
		}
	}
	return right, n
}

// PerClass returns all classes in the order of the matrix.
func (m *Matrix) PerClass() []Class {
	out := make([]Class, len(m.Classes))
	for at, n := range m.pairs {
		out[at[0]].N += n
		out[at[1]].Answered += n
		if at[0] == at[1] {
			out[at[0]].Right = n
		}
	}
	for i, name := range m.Classes {
		c := &out[i]
		c.Name = name
		c.Precision, c.Recall = ratio(c.Right, c.Answered), ratio(c.Right, c.N)
		c.F1 = 2 * float64(c.Right) / float64(c.N+c.Answered)
	}
	return out
}

// ratio is a/b, nil for b = 0.
func ratio(a, b int) *float64 {
	if b == 0 {
		return nil
	}
	v := float64(a) / float64(b)
	return &v
}

// MacroF1 returns the mean F1 over the classes that are labels, each of the same weight: scikit-learn's f1_score with
// average="macro" and these as its labels. An answer that is no label lowers the recall of the right class, and is no class
// of its own here. It is 0 if there are no labels.
func (m *Matrix) MacroF1() float64 {
	var sum float64
	for _, c := range m.PerClass()[:m.Labels] {
		sum += c.F1
	}
	return sum / max(1, float64(m.Labels))
}

// Pair is a label and another answer that some pictures got.
type Pair struct {
	Label  string `json:"label"`
	Answer string `json:"answer"`
	N      int    `json:"n"`
}

// Confused returns the pairs of a label and a wrong answer, the most frequent first, then in the order of Classes.
func (m *Matrix) Confused() []Pair {
	var wrong [][2]int
	for at := range m.pairs {
		if at[0] != at[1] {
			wrong = append(wrong, at)
		}
	}
	slices.SortFunc(wrong, func(a, b [2]int) int {
		return cmp.Or(cmp.Compare(m.pairs[b], m.pairs[a]), cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
	var out []Pair
	for _, at := range wrong {
		out = append(out, Pair{m.Classes[at[0]], m.Classes[at[1]], m.pairs[at]})
	}
	return out
}
