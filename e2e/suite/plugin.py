"""Celery's own integration tests, run as a client of a worker that runs already.

A plugin for pytest. The tests start a worker of their own inside the process;
here that is left out, so that all tasks go to the other one, whose node name and
process id stand in SUITE_NODE and SUITE_PID. SUITE_TESTS is a file with the tests
to run, one id a line; SUITE_SENT gets a line for each task that was sent, so that
a run which asked the worker for nothing is noticed.
"""
import contextlib
import os
import types

import pytest
from celery.backends.asynchronous import AsyncBackendMixin
from celery.contrib.testing import worker as testing_worker
from celery.signals import before_task_publish

NODE, PID = os.environ["SUITE_NODE"], int(os.environ["SUITE_PID"])


@contextlib.contextmanager
def worker_elsewhere(app, **kwargs):
    testing_worker.setup_app_for_worker(app, kwargs.get("loglevel") or "error", None)
    yield types.SimpleNamespace(hostname=NODE)


@before_task_publish.connect(weak=False)
def note(sender=None, **kwargs):
    with open(os.environ["SUITE_SENT"], "a") as sent:
        print(sender, file=sent)


def wait_for_pending(self, result, callback=None, propagate=True, on_interval=None, **kwargs):
    """As Celery's, and looks at the parents' errors once more at the end.

    get() looks at them before it waits and while it does, but not when the result is there
    as soon as it waits. Then a chord's own ChordError is raised instead of its parent's error:
    by Celery's worker too, where the client is slow in between. The tests want the parent's.
    """
    for _ in self._wait_for_pending(result, on_interval=on_interval, **kwargs):
        pass
    if on_interval:
        on_interval()
    return result.maybe_throw(callback=callback, propagate=propagate)


def pytest_configure(config):
    testing_worker.start_worker = worker_elsewhere
    AsyncBackendMixin.wait_for_pending = wait_for_pending


def pytest_collection_modifyitems(config, items):
    with open(os.environ["SUITE_TESTS"]) as lines:
        wanted = {line.split("  #")[0].strip() for line in lines} - {""}
    chosen = [item for item in items if item.nodeid in wanted]
    missing = wanted - {item.nodeid for item in chosen}
    if missing:
        raise pytest.UsageError(f"these tests are not in the suite: {sorted(missing)}")
    for item in chosen:
        module = item.module
        if hasattr(module, "NODENAME"):  # test_inspect: the worker is not in this process
            module.NODENAME = NODE
            module.os = types.SimpleNamespace(getpid=lambda: PID)
    items[:] = chosen
