// Package remote is what other programs say to a worker and hear of it: Celery's
// remote control (celery inspect, celery control, Flower), its events, its
// logical clock, and the hello by which workers learn at their start which tasks
// are revoked.
//
// Start with [Remote]: it has a connection and goroutines of its own, so that no
// job can keep it from answering. What it is asked about, and told to do, is the
// worker's, behind [Node].
//
// It promises replies and events in the shapes of Celery 5.x, and that neither
// an event nor a request ever holds up a job, but for one with stamps, which waits
// for the requests that were sent before it ([Remote.CatchUp]). Requests are carried
// out in their order. Those that wait for Redis or for the broker to declare a queue
// do so in a lane each, in their order, and the others are answered in the meantime.
// No reply waits for an event to be sent first; all share one connection, so that a
// broker which takes nothing holds them all.
//
// It wins no election while there is a Python worker to win it, and has nothing
// of Python to show (objgraph). What a Celery worker would know of tasks that it
// does not hold, such as the state in the result store, is the worker's matter.
//
// Sources: celery/worker/control.py, celery/events/dispatcher.py,
// celery/worker/consumer/mingle.py and gossip.py, kombu/pidbox.py.
package remote
