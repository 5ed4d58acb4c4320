package progress

// Key is the key of a job's progress document.
func Key(jobID string) string { return "job:" + jobID + ":progress" }

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
