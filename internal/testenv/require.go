package testenv

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Environment variables. The first two are for people and CI, the others are set
// by cmd/withservers and scripts/test.
const (
	// requireEnv, when 1, makes a missing program a failure, not a skip.
	requireEnv = "ONCEOVER_TEST_REQUIRE"
	// pythonEnv is the interpreter that Python returns.
	pythonEnv = "ONCEOVER_TEST_PYTHON"

	// oldPythonEnv is the interpreter that OldPython returns.
	oldPythonEnv = "ONCEOVER_TEST_PYTHON_OLD"
	// notComparedEnv lists, comma separated, the Python modules that could not be
	// installed on this machine; tests that need them are skipped in any case.
	notComparedEnv = "ONCEOVER_TEST_NOT_COMPARED"
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
type missingError struct{ what, hint string }

func (e *missingError) Error() string {
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
// rabbitmq-server and redis-server are installed. It is for tests that start them by
// another way than this package's functions.
func RequireServers(t testing.TB) {
	t.Helper()
	_, err := rabbitScripts()
	check(t, err)
	_, err = redisProgram()
	check(t, err)
}
