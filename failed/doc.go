// Package failed keeps jobs that wait and jobs that failed, each with the whole message that
// Celery had sent (DB5).
//
// Start with [Store]. [Store.Park] puts a message away until it is due, [Store.Keep] keeps a
// failed job as a [Record]; both are idempotent, so that a redelivery neither loses nor doubles a
// job. [Store.Run] publishes parked messages that are due, and failed jobs that an operator runs
// again with the Run button of Asynqmon; [Store.Replay] does so for a list. [Store.Each],
// [Store.Get] and [Store.Discard] look at records and throw them away.
//
// What is promised: a nil error means that Redis has the job, and that it stays listed and
// replayable until it was published again with the broker's confirm, or an operator discards it. A
// process that dies in between leaves a duplicate at worst, never a gap. A record of a list that
// cannot be replayed is skipped with its reason; the others are replayed, and the call may be
// repeated. While Redis is away, Park and Keep wait.
//
// The package does not decide which jobs fail, and talks to no broker: it is handed a [Publish].
//
// The store is asynq: a queue "delay" of scheduled tasks, and queues "failed", "failed-2", … whose
// archives hold the records. An archive of asynq forgets the oldest beyond 9,999 tasks, and those
// older than 90 days: a new queue is begun long before, and nothing is ever archived in an old
// one.
package failed
