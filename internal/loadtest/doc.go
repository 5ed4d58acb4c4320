// Package loadtest puts jobs in front of workers and measures what becomes of them: how many end in a second, how long they take
// from being published to the PUBLISH of their result, and whether each was answered as its kind is meant to be.
//
// A [Test] draws pictures and serves them over HTTP, and plays a vision model that answers after a set time. [Test.Prepare] sends the
// pictures that are to be known, and waits for them. [Test.Run] sends the jobs, in an order that is drawn, as fast as the broker takes them or
// at a rate (an open loop: a worker that falls behind makes jobs wait, it does not make fewer of them). Results are heard by Redis'
// PSUBSCRIBE, as Celery's AsyncResult.get hears them; those that were missed are read. A [Space] is databases of Redis that a test has for itself.
package loadtest
