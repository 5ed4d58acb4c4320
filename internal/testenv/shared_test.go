package testenv

import (
	"os"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestVirtualHostsThatStay has a test end that declared a queue which dead-letters at least once: its virtual host stays, and that of
// another test goes.
func TestVirtualHostsThatStay(t *testing.T) {
	t.Parallel()
	if os.Getenv(amqpEnv) == "" {
		t.Skip("a private server ends with its test: run the tests by scripts/test")
	}
	for name, tt := range map[string]struct {
		args  amqp.Table
		stays bool
	}{
		"at least once": {amqp.Table{
			"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish", "x-dead-letter-exchange": "amq.topic",
		}, true},
		"at most once": {amqp.Table{"x-queue-type": "quorum", "x-dead-letter-exchange": "amq.topic"}, false},
	} {
		url := ""
		t.Run(name, func(t *testing.T) {
			url = SharedRabbitMQ(t)
			conn, err := amqp.Dial(url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ch, err := conn.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ch.QueueDeclare("q", true, false, false, false, tt.args); err != nil {
				t.Fatal(err)
			}
		})
		conn, err := amqp.Dial(url)
		if (err == nil) != tt.stays {
			t.Errorf("%s: got %v when the test has ended, want the virtual host there: %t", name, err, tt.stays)
		}
		if err == nil {
			conn.Close()
		}
	}
}
