package remote

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"onceover/internal/testenv"
)

func peer(interpreter, url string, args ...string) *exec.Cmd {
	cmd := exec.Command(interpreter, append([]string{"testdata/peer.py"}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_BROKER="+url, "PYTHONDONTWRITEBYTECODE=1", "C_FORCE_ROOT=1")
	return cmd
}

// pythonWorker starts a worker and waits until it is ready.
func pythonWorker(t *testing.T, interpreter, url, name string) {
	t.Helper()
	cmd := peer(interpreter, url, "worker", name)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, read := make(chan struct{}), make(chan struct{})
	var log []string
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			log = append(log, lines.Text())
			if strings.HasSuffix(lines.Text(), " ready.") {
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGQUIT) // its jobs would take a minute
		<-read
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the worker's log:\n%s", strings.Join(log, "\n"))
		}
	})
	wait(t, "Python worker", ready)
}

// ask has a real client ask both workers.
func ask(t *testing.T, interpreter, url string, requests [][2]any, nodes ...string) []map[string]any {
	t.Helper()
	stdin, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	var replies []map[string]any
	if err := json.Unmarshal(python(t, interpreter, url, string(stdin), append([]string{"ask"}, nodes...)...), &replies); err != nil {
		t.Fatal(err)
	}
	return replies
}

type args = map[string]any

// TestAnswersAsPython asks a Python worker and a Remote the same by a real client,
// and compares the answers.
func TestAnswersAsPython(t *testing.T) {
	url, interpreter := broker(t), testenv.Python(t, "celery")
	pythonWorker(t, interpreter, url, "py@h")
	l := start(t, url, nil)
	wait(t, "Remote", l.Ready())
	var ids []string
	if err := json.Unmarshal(python(t, interpreter, url, "", "send"), &ids); err != nil {
		t.Fatal(err)
	}

	// The first of them has to run there before the two can be compared.
	running := [][2]any{{"query_task", args{"ids": []string{ids[0]}}}}
	for range 20 {
		reply, _ := ask(t, interpreter, url, running, "py@h")[0]["py@h"].(map[string]any)
		if entry, _ := reply[ids[0]].([]any); len(entry) > 0 && entry[0] == "active" {
			break
		}
	}

	// The same answer to the letter.
	same := [][2]any{
		{"ping", args{}}, {"foo", args{}}, {"report", args{"x": 1}},
		{"revoke", args{"task_id": "a"}}, {"revoke", args{"task_id": []string{"b"}}}, {"revoke", args{"task_id": nil}},
		{"revoke", args{}}, {"revoked", args{}}, {"dump_revoked", args{"x": 1}},
		{"revoke", args{"task_id": "a", "terminate": true}},
		{"revoke", args{"task_id": "a", "terminate": true, "signal": "NOPE"}},
		{"revoke", args{"task_id": "a", "terminate": true, "signal": "kill"}},
		{"revoke", args{"task_id": "a", "terminate": false, "signal": "NOPE"}},
		{"terminate", args{}}, {"terminate", args{"task_id": "a"}}, {"terminate", args{"task_id": "a", "signal": "TERM"}},
		{"revoke_by_stamped_headers", args{"headers": args{"k": []any{"v", 1}}}},
		{"revoke_by_stamped_headers", args{"headers": args{"k": "v"}, "terminate": true}},
		{"revoke_by_stamped_headers", args{"headers": []string{"k=v"}}},
		{"revoke_by_stamped_headers", args{"headers": []string{"k"}}},
		{"revoke_by_stamped_headers", args{"headers": args{}, "signal": "NOPE"}},
		{"revoke_by_stamped_headers", args{}},
		{"rate_limit", args{"task_name": "t", "rate_limit": "30/m"}}, {"rate_limit", args{"task_name": "t", "rate_limit": 5}},
		{"rate_limit", args{"task_name": "t", "rate_limit": "x/m"}}, {"rate_limit", args{"task_name": "none", "rate_limit": "x"}},
		{"rate_limit", args{"task_name": "t", "rate_limit": "1/d"}}, {"rate_limit", args{"task_name": "none", "rate_limit": "1/s"}},
		{"rate_limit", args{"task_name": "t", "rate_limit": 0}}, {"rate_limit", args{"task_name": "t", "rate_limit": nil}},
		{"rate_limit", args{}}, {"rate_limit", args{"task_name": "t", "rate_limit": "10/m"}},
		{"time_limit", args{"task_name": "t", "hard": 10, "soft": 5.5}}, {"time_limit", args{"task_name": "t", "hard": nil}},
		{"time_limit", args{"task_name": "none", "hard": 10}}, {"time_limit", args{}},
		{"pool_restart", args{}}, {"autoscale", args{"max": 3, "min": 1}}, {"autoscale", args{"x": 3}},
		{"add_consumer", args{"queue": "other", "exchange": "x", "exchange_type": "topic", "routing_key": "k"}}, {"add_consumer", args{}},
		{"cancel_consumer", args{"queue": "other"}},
		{"enable_events", args{}}, {"enable_events", args{}}, {"disable_events", args{}}, {"disable_events", args{}}, {"enable_events", args{"x": 1}},
		{"heartbeat", args{}}, {"query_task", args{"ids": []string{"unknown"}}}, {"query_task", args{}},
		{"objgraph", args{"x": 1}}, {"registered", args{"taskinfoitems": []string{"_x", "name"}, "x": 1}},
		{"hello", args{}}, {"election", args{"id": "1"}}, {"election", args{}}, {"active_queues", args{}},
	}
	compare := func(same [][2]any) {
		for i, both := range ask(t, interpreter, url, same, "py@h", "go@h") {
			theirs, ours := both["py@h"], both["go@h"]
			if same[i][0] == "registered" { // the tasks are others
				theirs, ours = shape(theirs), shape(ours)
			}
			if diff := cmp.Diff(theirs, ours); diff != "" || len(both) != 2 {
				t.Errorf("%v: got (+) other than Python (-)\n%s", same[i], diff)
			}
		}
	}
	compare(same)

	// The same keys, and the same kinds of values.
	alike := [][2]any{
		{"clock", args{}}, {"stats", args{}}, {"report", args{}}, {"active", args{}}, {"dump_active", args{"safe": true}}, {"reserved", args{}},
		{"dump_reserved", args{}}, {"scheduled", args{}}, {"dump_schedule", args{}}, {"registered", args{}}, {"dump_tasks", args{"builtins": true}},
		{"hello", args{"from_node": "other@h", "revoked": []string{"x"}}},
		{"query_task", args{"ids": []string{ids[0], "running"}}}, {"query_task", args{"ids": []string{ids[1], "waiting"}}},
		{"query_task", args{"ids": []string{ids[2], "later"}}},
	}
	for i, both := range ask(t, interpreter, url, alike, "py@h", "go@h") {
		theirs, ours := both["py@h"], both["go@h"]
		switch alike[i][0] {
		case "stats":
			for _, reply := range []any{theirs, ours} {
				reply.(map[string]any)["total"] = nil // by task
				free := reply.(map[string]any)["broker"].(map[string]any)
				for _, name := range []string{"transport_options", "alternates", "failover_strategy", "uri_prefix", "heartbeat", "userid"} {
					free[name] = nil
				}
				pool := reply.(map[string]any)["pool"].(map[string]any)
				for _, name := range []string{"implementation", "writes", "max-tasks-per-child"} {
					if pool[name] == nil {
						t.Errorf("stats: pool has no %s: %v", name, pool)
					}
					delete(pool, name)
				}
			}
		case "query_task":
			theirs, ours = only(theirs), only(ours)
			if theirs.([]any)[0] != ours.([]any)[0] {
				t.Errorf("query_task: got state %v, want %v", ours.([]any)[0], theirs.([]any)[0])
			}
		}
		if diff := cmp.Diff(shape(theirs), shape(ours)); diff != "" || len(both) != 2 {
			t.Errorf("%v: got (+) another shape than Python (-)\n%s", alike[i], diff)
		}
	}
	compare([][2]any{{"pool_grow", args{"n": 1}}}) // the job that waits runs from now on
	if _, known := l.Revoked.Since("x"); !known {
		t.Error("hello: what the other has revoked is not known")
	}
}

// only is the value of the only key.
func only(v any) any {
	for _, value := range v.(map[string]any) {
		return value
	}
	return []any{nil}
}

// shape is a JSON value with its kinds in place of its values. Of a list, it
// shows the first.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, value := range v {
			switch name {
			case "args", "kwargs": // those of the job
				out[name] = fmt.Sprintf("%T", value)
			default:
				out[name] = shape(value)
			}
		}
		return out
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{shape(v[0])}
	}
	return fmt.Sprintf("%T", v)
}

// TestCommandLine steers a Remote by celery inspect and celery control.
func TestCommandLine(t *testing.T) {
	url, interpreter := broker(t), testenv.Python(t, "celery")
	l := start(t, url, nil)
	wait(t, "Remote", l.Ready())
	for _, tt := range []struct{ command, want, said string }{
		{"inspect ping -j", `{"go@h": {"ok": "pong"}}`, ""},
		{"inspect active -j -d go@h", `"id": "running"`, ""},
		{"control rate_limit t 30/m", "OK", "rate t 0.5"},
		{"status", "1 node online", ""},
		{"control add_consumer other", "add consumer other", "add other"},
	} {
		out := string(python(t, interpreter, url, "", append([]string{"cli"}, strings.Fields(tt.command)...)...))
		if !strings.Contains(out, tt.want) {
			t.Errorf("celery %s: got %q, want %q in it", tt.command, out, tt.want)
		}
		if tt.said != "" && l.node.lastSaid() != tt.said {
			t.Errorf("celery %s: the node was told %q, want %q", tt.command, l.node.lastSaid(), tt.said)
		}
	}
}

// TestPythonSeesEvents has Celery's own receiver and state look at our events.
func TestPythonSeesEvents(t *testing.T) {
	url, interpreter := broker(t), testenv.Python(t, "celery")
	cmd := peer(interpreter, url, "events", "6")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		_ = cmd.Wait() // it may have ended before
	})
	lines := make(chan string, 2)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
		io.Copy(io.Discard, out)
	}()
	if line := wait(t, "receiver", lines); line != "ready" {
		t.Fatalf("got %q, want ready", line)
	}
	l := start(t, url, func(c *Config) { c.TaskEvents = true })
	received := func(id string) {
		l.TaskEvent("task-received", args{"uuid": id, "name": "t", "args": "('안녕',)", "kwargs": "{}", "root_id": id,
			"parent_id": nil, "retries": 0, "eta": nil, "expires": nil})
	}
	received("good")
	l.TaskEvent("task-started", args{"uuid": "good"})
	l.TaskEvent("task-succeeded", args{"uuid": "good", "result": "7", "runtime": 0.25})
	received("bad")
	l.TaskEvent("task-started", args{"uuid": "bad"})
	l.TaskEvent("task-failed", args{"uuid": "bad", "exception": "ValueError('boom')", "traceback": "…"})

	var saw struct {
		Seen    []string
		Tasks   map[string][]any
		Workers map[string][]any
	}
	line := wait(t, "what State knows", lines)
	if err := json.Unmarshal([]byte(line), &saw); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	wantTasks := map[string][]any{
		"good": {"t", "SUCCESS", "('안녕',)", 0.25, nil, "go@h"},
		"bad":  {"t", "FAILURE", "('안녕',)", nil, "ValueError('boom')", "go@h"},
	}
	wantWorkers := map[string][]any{"go@h": {true, 1.0, "py-celery", 2.0}}
	if diff := cmp.Diff(wantTasks, saw.Tasks) + cmp.Diff(wantWorkers, saw.Workers); diff != "" {
		t.Errorf("got (+) other than wanted (-)\n%s", diff)
	}
	if !slices.Contains(saw.Seen, "worker-online") {
		t.Errorf("got the events %v, want worker-online among them", saw.Seen)
	}
}

// TestMingle has workers tell each other what is revoked when they start.
func TestMingle(t *testing.T) {
	for name, interpreter := range map[string]func(testing.TB) string{
		"newest": func(t testing.TB) string { return testenv.Python(t, "celery") },
		"5.2":    testenv.OldPython,
	} {
		t.Run(name, func(t *testing.T) {
			url, interpreter := broker(t), interpreter(t)
			first := start(t, url, nil)
			wait(t, "Remote", first.Ready())
			first.Revoked.Add("from-go")

			pythonWorker(t, interpreter, url, "py@h")
			replies := ask(t, interpreter, url, [][2]any{
				{"revoke", args{"task_id": "from-python"}}, {"revoked", args{}},
			}, "py@h")
			got := fmt.Sprint(replies[1]["py@h"])
			if !strings.Contains(got, "from-go") || !strings.Contains(got, "from-python") {
				t.Errorf("the Python worker knows %s, want from-go and from-python", got)
			}

			second := start(t, url, func(c *Config) { c.NodeName, c.Mingle = "go2@h", true })
			wait(t, "second Remote", second.Ready())
			if ids := second.Revoked.IDs(); !slices.Contains(ids, "from-python") || !slices.Contains(ids, "from-go") {
				t.Errorf("got %v revoked, want from-python and from-go", ids)
			}
		})
	}
}
