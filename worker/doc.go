// Package worker takes task messages off RabbitMQ, runs them, stores what
// became of them, and acknowledges them: the life of a job from delivery to
// ack.
//
// Start with [Worker]: [New] it, [Worker.Register] tasks, [Worker.Run] until
// the context ends. One job goes like this:
//
//	delivery ─ decode ─ known id? ─ expired? ─ wait for ETA ─ run ─ store result ─ AfterReturn ─ ack
//	              │          │                       └─ again: store RETRY, wait, run
//	              │          └─ finished before: AfterReturn ─ ack
//	              └─ cannot be run: publish to dlx with the reason ─ store FAILURE ─ ack
//
// It promises that nothing is acknowledged before what follows from it is
// stored, so that a crash at any point repeats work and loses none; that a task
// id which is finished is not run again when it is redelivered; that one id
// never runs twice at the same time in one process; that a message which cannot
// be run is kept; and that broker and Redis may go away and come back.
//
// What goes back to its queue keeps its age: RabbitMQ dead-letters it when the
// queue's own TTL has passed.
//
// It does not park jobs: retries and jobs with an ETA wait in memory, each in
// one of the worker's slots.
package worker
