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
// an event nor a request ever holds up a job. It does not stand in elections,
// and has nothing of Python to show (objgraph).
//
// Sources: celery/worker/control.py, celery/events/dispatcher.py,
// celery/worker/consumer/mingle.py and gossip.py, kombu/pidbox.py.
package remote
