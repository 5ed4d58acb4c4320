"""What the tests of remote control need of a real Celery.

    peer.py worker NAME        a worker (prefork, one process) until SIGTERM
    peer.py send               sends the worker a job to run, one to wait, one for later; prints their ids
    peer.py ask NODE...        reads [[method, arguments], ...] from stdin and prints, for each, {node: reply}
    peer.py cli ARGUMENTS...   the command line of celery
    peer.py events COUNT       prints "ready", and once it has seen COUNT task events what Celery's State knows
"""
import json
import os
import sys
import time

from celery import Celery

app = Celery("peer", broker=os.environ["TEST_BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=4)
# Of a process that ends when it has sent, some messages may never reach their queue without confirms.
app.conf.broker_transport_options = {"confirm_publish": True}


@app.task(name="t", rate_limit="10/m")
def t(*args, **kwargs):
    time.sleep(60)


@app.task(name="sleep")
def sleep(seconds, **kwargs):
    time.sleep(seconds)


def send():
    print(json.dumps([
        sleep.apply_async((60,), {"who": "안녕"}).id,
        sleep.apply_async((61,)).id,
        sleep.apply_async((62,), countdown=600).id,
    ]))


def ask(nodes):
    out = []
    with app.connection_for_write() as conn:
        for method, arguments in json.load(sys.stdin):
            replies = app.control.broadcast(
                method, arguments=arguments, destination=nodes, reply=True, limit=len(nodes), timeout=5, connection=conn)
            out.append({node: reply for answer in replies for node, reply in answer.items()})
    print(json.dumps(out))


def events(count):
    state = app.events.State()
    seen = []

    def handle(event):
        state.event(event)
        seen.append(event["type"])
        if sum(kind.startswith("task-") for kind in seen) >= count and "worker-heartbeat" in seen:
            receiver.should_stop = True

    with app.connection_for_read() as conn:
        receiver = app.events.Receiver(conn, handlers={"*": handle})
        receiver.on_consume_ready = lambda *args, **kwargs: print("ready", flush=True)
        receiver.capture(limit=None, timeout=10, wakeup=False)
    print(json.dumps({
        "seen": seen,
        "tasks": {task.uuid: [task.name, task.state, task.args, task.runtime, task.exception, task.worker.hostname]
                  for task in state.tasks.values()},
        "workers": {name: [worker.alive, worker.active, worker.sw_ident, worker.freq] for name, worker in state.workers.items()},
    }))


if __name__ == "__main__":
    mode, arguments = sys.argv[1], sys.argv[2:]
    if mode == "worker":
        app.worker_main(["worker", "-P", "prefork", "-c", "1", "-n", arguments[0], "-l", "INFO"])
    elif mode == "send":
        send()
    elif mode == "ask":
        ask(arguments)
    elif mode == "cli":
        app.start(arguments)
    else:
        events(int(arguments[0]))
