package testenv

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Environment variables. The first three are for people and CI, the others are set
// by cmd/withservers and scripts.
const (
	// requireEnv, when 1, makes a missing program a failure, not a skip.
	requireEnv = "ONCEOVER_TEST_REQUIRE"
	// pythonEnv is the interpreter that Python returns.
	pythonEnv = "ONCEOVER_TEST_PYTHON"
	// rootsEnv is the folder of the roots that scripts/servers has built, where it is
	// not the module's .cache/servers.
	rootsEnv = "ONCEOVER_TEST_SERVERS"

	// rabbitReleaseEnv is the release of RabbitMQ that tests run on, such as 4.3, and
	// redisReleaseEnv that of Redis or Valkey, such as redis-8.0 or valkey-newest.
	// Empty is the machine's own.
	rabbitReleaseEnv = "ONCEOVER_TEST_RABBITMQ"
	redisReleaseEnv  = "ONCEOVER_TEST_REDIS"
	// oldPythonEnv is the interpreter that OldPython returns.
	oldPythonEnv = "ONCEOVER_TEST_PYTHON_OLD"
	// litellmEnv is the program that LiteLLM runs.
	litellmEnv = "ONCEOVER_TEST_LITELLM"
	// notComparedEnv lists, comma separated, the Python modules that could not be
	// installed on this machine, and newerServers where scripts/servers could not
	// build them; tests that need them are skipped in any case.
	notComparedEnv = "ONCEOVER_TEST_NOT_COMPARED"
	newerServers   = "newer-servers"
	// amqpEnv and apiEnv are the shared RabbitMQ: AMQP and management API.
	amqpEnv = "ONCEOVER_TEST_AMQP_URL"
	apiEnv  = "ONCEOVER_TEST_RABBITMQ_API_URL"
	// redisEnv is the shared Redis, for programs that are not Go tests.
	redisEnv = "ONCEOVER_TEST_REDIS_URL"
)

// NotCompared begins the reason of every skip that ONCEOVER_TEST_REQUIRE=1
// allows: what is missing could not be had on this machine, scripts/setup has
// said so, and cmd/testreport lists it again.
const NotCompared = "not compared on this machine: "

// missingError reports a program that is not installed.
type missingError struct {
	what, hint string
	release    bool // of a server, which scripts/servers builds
}

func (e *missingError) Error() string {
	if e.release {
		return fmt.Sprintf("%s not found; run %s", e.what, e.hint)
	}
	return fmt.Sprintf("%s not found; run scripts/setup, or: %s", e.what, e.hint)
}

// check ends the test when err is not nil: skipped where a program is missing,
// else failed.
func check(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var missing *missingError
	if errors.As(err, &missing) && missing.release && notCompared(newerServers) {
		t.Skipf(NotCompared+"%v", err)
	}
	if errors.As(err, &missing) && os.Getenv(requireEnv) != "1" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// notCompared reports whether module is one that this machine cannot have.
func notCompared(module string) bool {
	return slices.Contains(strings.Split(os.Getenv(notComparedEnv), ","), module)
}

// RequireServers skips t, or fails it where ONCEOVER_TEST_REQUIRE=1, unless
// rabbitmq-server and redis-server are there, in the releases that tests run on. It is for tests that start them by
// another way than this package's functions.
func RequireServers(t testing.TB) {
	t.Helper()
	rabbit, err := findPrograms("rabbitmq", os.Getenv(rabbitReleaseEnv))
	check(t, err)
	if rabbit.root == "" {
		_, err = rabbitScripts()
		check(t, err)
	}
	redis := &RedisServer{}
	check(t, redis.findProgram(os.Getenv(redisReleaseEnv)))
}
