// Package ledger keeps, in Redis, how tasks ended and which run is at work on each.
//
// Start with [Ledger]. Packages results and progress each are one: with Celery's documents in
// DB0, and with completion marks in DB2 for tasks whose result is not stored. Two kinds of keys
// belong to a task: its document, and its lease, which names the run that is at work.
//
// It promises that of several runs of a task one records the end, decided in Redis in one atomic
// step and never by comparing clocks, and that each call may be repeated after an answer was
// lost. A lease only saves work: it expires, and may be stolen, so the end never depends on it.
package ledger
