"""Half of a fleet: a Python worker with some of the tasks of examples/integration,
and a client whose chords both work off.

    mixed.py worker                 until SIGTERM
    mixed.py rpc                    with results by message
    mixed.py delayed                with a countdown
    mixed.py revoked ROUNDS         prints how many tasks ran although their stamp was revoked before they were sent
    mixed.py client CHORDS SIZE     prints JSON: what the chords gave, and which worker ran how many parts
"""
import collections
import json
import os
import sys
import time
import uuid

from celery import Celery, chord, group
from celery.exceptions import TaskRevokedError
from kombu import Exchange, Queue

app = Celery("mixed", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(result_extended=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@app.task(name="t.integration.tasks.add")
def add(x, y, z=None):
    return x + y + (z or 0)


@app.task(name="t.integration.tasks.tsum")
def tsum(nums):
    return sum(nums)


@app.task(name="t.integration.tasks.sleeping")
def sleeping(seconds):
    time.sleep(seconds)


@app.task(name="t.integration.tasks.fail")
def fail(*args):
    raise ValueError("failed on purpose", *args)


def client(chords, size):
    sums, failures = [], []
    good = [chord((add.s(i, n) for n in range(size)), tsum.s())() for i in range(chords)]
    # A chord in a chord, and what follows a chord.
    nested = [
        (group(chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(i, 1)) | tsum.s() | add.s(100)).delay()
        for i in range(chords)
    ]
    bad = [chord([add.s(1, 1), fail.s(), add.s(2, 2)], tsum.s())() for _ in range(chords)]
    for r in good + nested:
        sums.append(r.get(timeout=60))
    for r in bad:
        try:
            r.get(timeout=60)
            failures.append("none")
        except Exception as exc:  # what it is, is what is asked for
            failures.append(type(exc).__name__)
    ran = collections.Counter()
    for r in good:
        for part in r.parent.results:
            ran[part.worker] += 1
    print(json.dumps({"sums": sums, "failures": failures, "ran": ran}))


def rpc():
    """Results by message: a value, a failure, a chain's end."""
    text = "사진" * 200_000  # more than a megabyte
    assert app.send_task("t.integration.tasks.identity", (text,), queue="celery").get(timeout=30) == text
    out = [add.delay(2, 3).get(timeout=30), (add.s(1, 2) | add.s(10)).delay().get(timeout=30)]
    try:
        fail.delay().get(timeout=30)
    except Exception as exc:
        out.append(type(exc).__name__)
    print(json.dumps(out))


def delayed():
    """A countdown on a quorum queue, which newer Celery has the broker wait for."""
    app.conf.task_queues = [Queue("q.ai", Exchange("tasks", type="topic"), routing_key="ai.add", no_declare=True,
                                  queue_arguments={"x-queue-type": "quorum"})]
    began = time.monotonic()
    result = add.apply_async((2, 3), countdown=3, queue=app.amqp.queues["q.ai"])
    value = result.get(timeout=60)
    print(json.dumps({"value": value, "seconds": time.monotonic() - began, "key": result.queue}))


def revoked(rounds):
    """A revocation by a stamp, and then a task that has it, as Celery's
    test_revoked_by_headers_complex_canvas sends them."""
    # The broker has the revocation before the task is sent.
    app.conf.broker_transport_options = {"confirm_publish": True}
    while not app.control.ping(timeout=1):
        pass
    ran = 0
    for _ in range(rounds):
        stamp = str(uuid.uuid4())
        app.control.revoke_by_stamped_headers({"order": stamp})
        result = add.apply_async((1, 2), stamped_headers=["order"], order=stamp)
        try:
            result.get(timeout=30)
            ran += 1
        except TaskRevokedError:
            pass
    print(ran)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        app.worker_main(["worker", "-P", "prefork", "-c", os.environ.get("MIXED_CONCURRENCY", "2"), "-n", "python@mixed", "--without-gossip", "-l", "INFO"])
    elif sys.argv[1] == "rpc":
        rpc()
    elif sys.argv[1] == "delayed":
        delayed()
    elif sys.argv[1] == "revoked":
        revoked(int(sys.argv[2]))
    else:
        client(int(sys.argv[2]), int(sys.argv[3]))
