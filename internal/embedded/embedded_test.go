package embedded_test

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/embedded"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestServers(t *testing.T) {
	s, err := embedded.Start(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := amqp.Dial(s.BrokerURL())
	if err != nil {
		t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	confirm, err := ch.PublishWithDeferredConfirm("", "q", false, false, amqp.Publishing{Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := confirm.WaitContext(t.Context()); !ok || err != nil {
		t.Fatalf("confirm: %v, %v", ok, err)
	}
	if n := s.Unfinished(); n != 1 {
		t.Errorf("got %d unfinished messages, want 1", n)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}

	opt, err := redis.ParseURL(s.RedisURL() + "/2")
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	if err := client.Set(t.Context(), "k", "v", time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	// Time passes: the key vanishes by itself.
	deadline := time.After(20 * time.Second)
	for client.Exists(t.Context(), "k").Val() == 1 {
		select {
		case <-deadline:
			t.Fatal("the key does not expire")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
