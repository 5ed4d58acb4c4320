"""A Celery producer and a FastAPI-like reader, driven by the Go tests.

    python client.py run   < plan.json     send tasks and get() their results
    python client.py send  < plan.json     only send tasks
    python client.py get   < plan.json     only get() the results of the plan's ids
    python client.py poll  < plan.json     send tasks and poll their progress

Reads one JSON object, prints one JSON object.
"""
import asyncio
import json
import sys

import redis.asyncio
from celery import Celery
from celery.result import AsyncResult
from kombu import Queue


def application(plan):
    app = Celery("producer", broker=plan["broker"], backend=plan["redis"] + "/0")
    app.conf.broker_connection_retry_on_startup = False
    # This process ends when it has sent: without confirms some messages may never reach their queue.
    app.conf.broker_transport_options = {"confirm_publish": True}
    return app


def route(name):
    """How a producer can address the worker."""
    return {
        "exchange": {"exchange": "tasks", "routing_key": "ai.analyze"},
        "no_declare": {"queue": Queue("q.ai", no_declare=True)},
        "celery": {},
    }[name]


def send(app, job):
    return app.send_task(job["task"], args=job.get("args"), kwargs=job.get("kwargs"),
                         **route(job.get("route", "exchange")), **job.get("options", {}))


def outcome(result, timeout):
    try:
        value = result.get(timeout=timeout)
    except Exception as exc:  # what a caller would see
        return {
            "raised": type(exc).__name__, "module": type(exc).__module__,
            "text": str(exc), "state": result.state, "traceback": result.traceback,
        }
    return {"value": value, "state": result.state}


def run(plan):
    app = application(plan)
    results = [send(app, job) for job in plan["jobs"]]
    return [dict(outcome(r, 60), id=r.id) for r in results]


def only_send(plan):
    app = application(plan)
    return [{"id": send(app, job).id} for job in plan["jobs"]]


def only_get(plan):
    app = application(plan)
    return [dict(outcome(AsyncResult(i, app=app), 60), id=i) for i in plan["ids"]]


async def follow(app, client, job):
    result = await asyncio.to_thread(send, app, job)
    job_id = job.get("kwargs", {}).get("job_id") or result.id
    seen = []
    for _ in range(3000):
        raw = await client.get(f"job:{job_id}:progress")
        update = json.loads(raw) if raw else None
        if update and (not seen or update != seen[-1]):
            seen.append(update)
        if update and (update["progress"] == 100 or update["stage"] == "failed"):
            # Whoever reads the end must find the result, at this very moment.
            return {"id": result.id, "updates": seen, "state": AsyncResult(result.id, app=app).state}
        await asyncio.sleep(plan_pause)
    return {"id": result.id, "updates": seen, "state": "TIMEOUT"}


async def poll(plan):
    app = application(plan)
    client = redis.asyncio.from_url(plan["redis"] + "/2")
    try:
        return await asyncio.gather(*(follow(app, client, job) for job in plan["jobs"]))
    finally:
        await client.aclose()


plan_pause = 0.002

if __name__ == "__main__":
    plan = json.load(sys.stdin)
    mode = sys.argv[1]
    if mode == "poll":
        done = asyncio.run(poll(plan))
    else:
        done = {"run": run, "send": only_send, "get": only_get}[mode](plan)
    json.dump(done, sys.stdout, ensure_ascii=False)
