// Package testenv gives tests the real RabbitMQ, the real Redis and a Python
// with Celery. It is never part of the onceover binary.
//
// Start with [SharedRabbitMQ] for an AMQP URL with a virtual host of the test's
// own, [Redis] for a Redis server of the test's own, and [Python] for the
// interpreter. A test that stops or kills the broker takes a whole server with
// [RabbitMQ]; one that cuts connections puts a [Proxy] in between.
//
// What it promises: every server listens on the loopback interface only, on free
// ports outside the range the kernel gives to clients, keeps its data in a
// temporary folder, and ends with the test, also when the test binary is killed
// (on Linux). Until then no other test run on the machine is given its ports, not
// even while it is stopped (on Linux). A program that is not installed skips the test
// by name, with what to install; where ONCEOVER_TEST_REQUIRE=1 (scripts/test sets it)
// it fails the test.
//
// RabbitMQ takes 5 to 10 seconds to start, so scripts/test starts one for all
// tests through cmd/withservers, and SharedRabbitMQ takes virtual hosts from it.
// Without that server SharedRabbitMQ works too: it starts a private one. Redis
// starts in about 20 ms and is never shared.
//
// The servers are the machine's, or of the releases that these variables name:
//
//	ONCEOVER_TEST_RABBITMQ  a release of RabbitMQ, such as 4.3 (any 4.3.x) or newest
//	ONCEOVER_TEST_REDIS     a release of Redis or Valkey: redis-8.0, valkey-9, valkey-newest
//	ONCEOVER_TEST_SERVERS   the folder with them; default .cache/servers of the module
//
// scripts/servers builds them; root, and a user who may make user namespaces, can run
// them. A test that needs one release whatever the variables say takes
// [RabbitMQRelease] or [RedisRelease]; its name begins with TestNewest where that is
// the newest. A test that expects what only some releases do asks its server, by
// [Rabbit.Version] or [RabbitMQVersion].
//
// Programs that are not tests, such as cmd/violence, take the functions whose names
// begin with Open, and end themselves what they start.
//
// What it does not do: it uses no server that it finds running, and installs
// nothing (scripts/setup and scripts/servers do).
package testenv
