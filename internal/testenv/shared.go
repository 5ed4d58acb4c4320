package testenv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// SharedRabbitMQ returns the AMQP URL of a new, empty virtual host on the server
// that cmd/withservers has started, about 50 ms. The virtual host is deleted, and
// its connections closed, when t ends; so tests may declare queues and exchanges by
// their fixed names and run in parallel. Without such a server it starts a private
// one for t.
func SharedRabbitMQ(t testing.TB) string {
	t.Helper()
	amqpURL, apiURL := os.Getenv(amqpEnv), os.Getenv(apiEnv)
	if amqpURL == "" || apiURL == "" {
		return RabbitMQ(t).URL()
	}
	return newVirtualHost(t, amqpURL, apiURL)
}

// SharedRabbitMQAPI returns the URL of the management API of the server that cmd/withservers has started, with user and password. The test is
// skipped without such a server.
func SharedRabbitMQAPI(t testing.TB) string {
	t.Helper()
	apiURL := os.Getenv(apiEnv)
	if apiURL == "" {
		t.Skip("no RabbitMQ with its management API: run the tests by scripts/test")
	}
	return apiURL
}

// newVirtualHost makes a virtual host that lives as long as t.
func newVirtualHost(t testing.TB, amqpURL, apiURL string) string {
	t.Helper()
	vhost := strings.ToLower(rand.Text())
	u, err := url.Parse(amqpURL)
	if err != nil {
		t.Fatalf("%s: %v", amqpEnv, err)
	}
	u.Path = "/" + vhost

	m := management{apiURL}
	check(t, m.do(http.MethodPut, "/api/vhosts/"+vhost, "", nil))
	t.Cleanup(func() {
		if err := m.drop(vhost); err != nil {
			t.Error(err)
		}
	})
	check(t, m.do(http.MethodPut, "/api/permissions/"+vhost+"/"+u.User.Username(),
		`{"configure":".*","write":".*","read":".*"}`, nil))
	return u.String()
}

// management is the HTTP API of RabbitMQ's management plugin, at a URL with user
// and password. It creates a virtual host twenty times faster than rabbitmqctl.
type management struct{ url string }

// drop deletes a virtual host, unless it has queues that dead-letter at least once, as those of native delayed delivery do:
// where such a queue goes while it is being declared, RabbitMQ 3.10 has no workers for any of them until it restarts, and answers
// their declarations with 541. Such a virtual host is left to the end of the server.
func (m management) drop(vhost string) error {
	var queues []struct {
		Arguments map[string]any `json:"arguments"`
	}
	if err := m.do(http.MethodGet, "/api/queues/"+vhost+"?disable_stats=true&enable_queue_totals=true", "", &queues); err != nil {
		return err
	}
	for _, q := range queues {
		if q.Arguments["x-dead-letter-strategy"] == "at-least-once" {
			return nil
		}
	}
	return m.do(http.MethodDelete, "/api/vhosts/"+vhost, "", nil)
}

// do makes a request, and reads the answer into what is not nil.
func (m management) do(method, path, body string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), rabbitStarts)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.url+path, bytes.NewBufferString(body))
	if err != nil {
		return fmt.Errorf("management API: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // no idle connection, which a leak check would find
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("management API: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("management API: %s %s: got %s, want 2xx: %s", method, path, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("management API: %s %s: %w", method, path, err)
	}
	return nil
}

// Servers is one RabbitMQ and one Redis outside of any test, for cmd/withservers.
type Servers struct {
	rabbit *Rabbit
	redis  *RedisServer
}

// StartServers starts both below dir and returns when they answer. Whatever it
// returns, call [Servers.Stop].
func StartServers(ctx context.Context, dir string) (*Servers, error) {
	s := &Servers{}
	rabbitDir, redisDir := filepath.Join(dir, "rabbitmq"), filepath.Join(dir, "redis")
	if err := errors.Join(os.Mkdir(rabbitDir, 0o700), os.Mkdir(redisDir, 0o700)); err != nil {
		return s, err
	}
	var err error
	if s.redis, err = newRedis(redisDir, os.Getenv(redisReleaseEnv)); err != nil {
		return s, err
	}
	if err := s.redis.start(ctx); err != nil {
		return s, err
	}
	if s.rabbit, err = newRabbit(rabbitDir, rabbitOptions{release: os.Getenv(rabbitReleaseEnv), management: true}); err != nil {
		return s, err
	}
	return s, s.rabbit.start(ctx)
}

// Env returns the environment variables that lead tests to the servers.
func (s *Servers) Env() []string {
	return []string{
		amqpEnv + "=" + s.rabbit.URL(),
		apiEnv + "=http://guest:guest@" + loopback(s.rabbit.api),
		redisEnv + "=" + s.redis.URL(),
	}
}

// Versions returns that of RabbitMQ and the name and version of the Redis or Valkey,
// such as "4.3.6" and "valkey 9.1.2".
func (s *Servers) Versions() (rabbit Version, redis string, err error) {
	rabbit, err = rabbitVersion(s.rabbit.Addr())
	return rabbit, s.redis.Version(), err
}

// Stop kills the servers and waits until they are gone. Their folders stay.
func (s *Servers) Stop() {
	if s.rabbit != nil {
		s.rabbit.end()
	}
	if s.redis != nil {
		s.redis.end()
	}
}
