package progress

import "strings"

// Key is the key of a job's progress document.
func Key(jobID string) string { return "job:" + jobID + ":progress" }

// The key of the stream of a job's updates is in the slot of the document on a cluster, as what is in braces is the document's key.
const eventsBefore, eventsAfter = "job:events:{job:", ":progress}"

// eventsKey is the key of the stream of a job's updates, and the channel on which new ones are told.
func eventsKey(jobID string) string { return eventsBefore + jobID + eventsAfter }

// jobOfEvents is the job of a stream.
func jobOfEvents(key string) (string, bool) {
	id, ok := strings.CutPrefix(key, eventsBefore)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(id, eventsAfter)
}

// resumedKey is the key of the id of the task of which a run that follows another one has reported.
func resumedKey(jobID string) string { return "job:" + jobID + ":progress:resumed" }

// finishedKey is the key of the completion mark of a task without a result.
func finishedKey(taskID string) string { return "job:" + taskID + ":finished" }

// runKey is the key of the lease that names the run at work on a task.
func runKey(taskID string) string { return "job:" + taskID + ":run" }

// paidKey is the key of what a task has paid for.
func paidKey(taskID string) string { return "job:" + taskID + ":paid" }

// runsKey is the key of the runs of [Store.CountRun].
func runsKey(taskID string) string { return "job:" + taskID + ":runs" }
