package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// collectAt is how much garbage there may be, in percent of what is in use, before it is collected: less than Go's 100. Most
	// of a worker's memory is jobs that wait for the model. See docs/operations.md.
	collectAt = 30
	// leastGarbage is how much garbage there may be, in bytes, where little is in use: else a worker that answers thousands of jobs a
	// second out of its cache would collect forty times a second, for a fifth of its CPU time.
	leastGarbage = 24 << 20
)

// startIsOver is how long after its start a worker has what it needs.
const startIsOver = 5 * time.Second

// releaseStart gives the memory back, once, that the start has used and nobody needs any more: prompts and schemas as text, the
// handshakes with the servers, and pages of the program that did all that.
func releaseStart() {
	time.AfterFunc(startIsOver, func() {
		debug.FreeOSMemory()
		releaseProgram()
	})
}

// tuneCollector has garbage be collected as collectAt and leastGarbage say, from the next collection on.
func tuneCollector() {
	debug.SetGCPercent(collectAt)
	setting := collectAt
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	type garbage struct{ _ *byte } // a pointer: the runtime may keep a small value without one together with others
	var afterEach func(*garbage)
	afterEach = func(sentinel *garbage) {
		metrics.Read(live)
		percent := garbageAt(live[0].Value.Uint64())
		// Setting it stops the world for a moment.
		if change := percent - setting; 10*change > setting || 10*change < -setting {
			setting = percent
			debug.SetGCPercent(setting)
		}
		runtime.SetFinalizer(sentinel, afterEach)
	}
	runtime.SetFinalizer(&garbage{}, afterEach)
}

// garbageAt returns the percentage for so many bytes in use.
func garbageAt(live uint64) int {
	const most = 1000
	return max(collectAt, int(min(100*leastGarbage/max(live, 1), most)))
}
