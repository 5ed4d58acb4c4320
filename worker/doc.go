// Package worker takes task messages off RabbitMQ, runs them, stores how they ended, and
// acknowledges them: the life of a job from delivery to ack.
//
// Start with [Worker]: [New] it, [Worker.Register] tasks, [Worker.Run] until the context ends. A
// [Task] is a name and a [Handler]; [Func] makes a handler of a function with typed arguments. The
// handler's return decides: a value, an error, [Retry], [ErrIgnore], [Reject], [Replace].
//
// To read the code, follow a delivery from Worker.accept (job.go). Whatever happens to it comes
// to a verdict (verdict.go), and ending.settle carries that out (ending.go):
//
//	delivery ─ lock ─ ended before? ─ wait for ETA ─ slot ─ take the id ─ attempt ─ decide ─┐
//	cannot be run, revoked, expired, dead-lettered, ended by another run ───────────────────┤ verdict
//	                                                                                        ▼
//	publish what follows ─ record ─ tell chord, chain, errbacks ─ keep ─ AfterReturn ─ ack ─ release the id
//
// docs/state.md has the whole of it, by the names of the code.
//
// What is promised:
//
//   - Nothing is acknowledged before what follows from it is stored. A crash at any point repeats
//     work and loses none.
//   - Of several runs of a job one records the end, decided in Redis ([Ledger]). A job that has
//     ended is not run again when it is redelivered.
//   - While a run is at work, another message with its id waits, in whichever worker, unless the
//     task is acknowledged early.
//   - A message that cannot be run is kept as a failed job.
//   - Broker and Redis may go away and come back, or not let the worker work for a time. Jobs are
//     held until then, and consuming is paused: nothing is given back in a loop, which brokers
//     count.
//
// A message that goes back to its queue, as the worker stops or loses its connection, keeps its
// age: RabbitMQ dead-letters it once the queue's own TTL has passed. The worker keeps dead letters
// as failed jobs, and stores their end.
//
// Remote control and events are internal/remote's, which asks the worker through node.
package worker
