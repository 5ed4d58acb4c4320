package worker_test

import (
	"errors"
	"testing"

	"onceover/celery"
	"onceover/rabbit"
)

// TestNoRemoteControl has a worker that nobody can tell anything: it has no queue for that.
func TestNoRemoteControl(t *testing.T) {
	b := setup(t)
	b.cfg.RemoteControl = false
	b.task("t", value(1))
	b.start()
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	conn, err := rabbit.Dial(t.Context(), "test", b.cfg.BrokerURLs)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := rabbit.QueueExists(conn, b.cfg.NodeName+".celery.pidbox"); !errors.Is(err, rabbit.ErrNoQueue) {
		t.Errorf("the queue of remote control: got %v, want that it does not exist", err)
	}
}
