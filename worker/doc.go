// Package worker takes task messages off RabbitMQ, runs them, stores what
// became of them, and acknowledges them: the life of a job from delivery to
// ack.
//
// Start with [Worker]: [New] it, [Worker.Register] tasks, [Worker.Run] until
// the context ends. One job goes like this:
//
//	delivery ─ decode ─ known id? ─ expired, revoked? ─ wait for ETA ─ wait for a slot ─ run
//	              │          │                                                            │
//	              │          └─ finished before: what comes after its result ─ ack        │
//	              └─ cannot be run: store FAILURE ─ keep with the reason ─ ack            │
//	                                                                                      │
//	      publish what follows ─ store the result ─ count the chord's part ─ AfterReturn ─ ack
//	 or   AfterReturn ─ publish or park the next attempt ─ store RETRY ─ ack
//	 or   store FAILURE ─ tell chord, chain and errbacks ─ keep ─ AfterReturn ─ ack
//
// A [Task] is a name and a [Handler]; [Func] makes one of a function with typed
// arguments. What a handler returns decides: a value, an error, [Retry],
// [ErrIgnore], [Reject], [Replace].
//
// It promises that nothing is acknowledged before what follows from it is
// stored, so that a crash at any point repeats work and loses none; that a task
// id which is finished is not run again when it is redelivered; that one id
// never runs twice at the same time in one process; that a message which cannot
// be run is kept; and that broker and Redis may go away and come back.
//
// What goes back to its queue keeps its age: RabbitMQ dead-letters it when the
// queue's own TTL has passed. Dead letters are kept, too, and their end is stored.
//
// Remote control and events are internal/remote's, which asks the worker through
// node.
package worker
