// Package failed keeps what waits and what went wrong: jobs that are due later,
// and jobs that failed, each with the whole message that Celery had sent (DB5).
//
// Start with [Store]. [Store.Park] puts a message away until it is due,
// [Store.Keep] keeps a failed job as a [Record]; both are idempotent, so that a
// redelivery neither loses nor doubles. [Store.Run] publishes what is due, and
// what an operator runs again, be it with [Store.Replay] or with the Run button of
// Asynqmon. [Store.Each], [Store.Get] and [Store.Discard] are for looking at
// records and for throwing them away.
//
// What is promised: a nil error means that Redis has the job, and that it stays
// listed and replayable until it was published again with the broker's confirm, or
// an operator discards it. A process that dies in between leaves a duplicate at
// worst, never a gap. The package does not decide what fails, and knows no broker:
// it is handed a function that publishes.
//
// The store is asynq: a queue "delay" of scheduled tasks, and queues "failed",
// "failed-2", … whose archives hold the records. An archive of asynq forgets the
// oldest beyond 9,999 tasks, and those older than 90 days: a new queue is begun
// long before, and nothing is ever archived in an old one.
package failed
