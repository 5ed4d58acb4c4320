package results

// Key is the key of a task's meta document, and the channel on which it is
// published.
func Key(taskID string) string { return "celery-task-meta-" + taskID }

// runKey is the key of the lease that names the run at work on a task.
func runKey(taskID string) string { return "onceover:run:" + taskID }

// GroupKey is the key of a group's document, and the beginning of its chord's
// keys: .j has the results of the header, .s how many are expected, .t by how
// many that has grown, .d which tasks were counted, .c who dispatches the body.
func GroupKey(groupID string) string { return "celery-taskset-meta-" + groupID }

// grownKey is the key of the members by which a chord has grown. In a cluster the braces put it
// on the server that has the chord's .t.
func grownKey(groupID string) string { return "onceover:grown:{" + GroupKey(groupID) + ".t}" }
