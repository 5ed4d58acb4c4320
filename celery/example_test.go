package celery_test

import (
	"fmt"

	"onceover/celery"
)

// A canvas is planned without any I/O: which messages start it, and how many
// completions its chords wait for.
func ExamplePlan_Apply() {
	add := func(n int) *celery.Signature { return celery.NewSignature("add", n) }
	var p celery.Plan
	_, err := p.Apply(celery.Chain(celery.Group(add(1), add(2)), celery.NewSignature("sum"), add(10)), nil, celery.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range p.Messages {
		fmt.Println(m.Request.Task, celery.ReprArgs(m.Request.Args), "then", m.Request.Chord.Task)
	}
	fmt.Println("waits for", p.ChordSizes[0].Size)
	// Output:
	// add (1,) then sum
	// add (2,) then sum
	// waits for 2
}
