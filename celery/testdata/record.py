"""Records what a real Celery producer publishes, one message a kind of call.

    python record.py > producer.json

Uses kombu's in-memory transport, so that no broker is needed: the message in
its queue holds the properties, the headers and the body as they would go to
RabbitMQ.
"""
import base64
import datetime as dt
import decimal
import json
import sys
import uuid

from celery import Celery, chain, chord, group

UTC = dt.timezone.utc
KST = dt.timezone(dt.timedelta(hours=9))


def application(**conf):
    app = Celery("recorder", broker="memory://", backend="cache+memory://")
    app.conf.update(conf)

    @app.task(name="fx.add")
    def add(*args, **kwargs):
        raise NotImplementedError

    return app, add


def record(call, queue="celery", **conf):
    app, add = application(**conf)
    call(app, add)
    with app.connection_for_read() as conn:
        channel = conn.default_channel
        raw = channel._get(queue)
        channel._purge(queue)  # the transport's queues outlive the app
    body = raw["body"]
    if raw["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    else:
        body = body.encode()
    headers = dict(raw["headers"])
    return {
        "properties": {
            "content_type": raw["content-type"],
            "content_encoding": raw["content-encoding"],
            "reply_to": raw["properties"].get("reply_to"),
        },
        "headers": json.loads(json.dumps(headers, default=str)),
        "body_base64": base64.b64encode(body).decode(),
    }


CALLS = {
    "plain": lambda app, add: add.delay(2, 3),
    "kwargs": lambda app, add: add.apply_async((2,), {"y": 3}),
    "send_task": lambda app, add: app.send_task("image.analyze", ["job", "https://example.com/a.jpg"]),
    "countdown": lambda app, add: add.apply_async((2, 3), countdown=30),
    "eta": lambda app, add: add.apply_async((2, 3), eta=dt.datetime(2030, 1, 2, 3, 4, 5, 6, UTC)),
    "eta_kst": lambda app, add: add.apply_async((2, 3), eta=dt.datetime(2030, 1, 2, 12, 4, 5, tzinfo=KST)),
    "eta_naive": lambda app, add: add.apply_async((2, 3), eta=dt.datetime(2030, 1, 2, 3, 4, 5)),
    "expires_seconds": lambda app, add: add.apply_async((2, 3), expires=60),
    "expires_datetime": lambda app, add: add.apply_async((2, 3), expires=dt.datetime(2099, 1, 2, tzinfo=UTC)),
    "timelimits": lambda app, add: add.apply_async((2, 3), time_limit=30, soft_time_limit=20.5),
    "priority": lambda app, add: add.apply_async((2, 3), priority=7),
    "ignore_result": lambda app, add: add.apply_async((2, 3), ignore_result=True),
    "shadow": lambda app, add: add.apply_async((2, 3), shadow="other name"),
    "custom_headers": lambda app, add: add.apply_async((2, 3), headers={"tenant": "a", "nested": {"n": [1, None]}}),
    "korean": lambda app, add: add.delay("안녕", 키="값"),
    "rich_types": lambda app, add: add.delay(
        uuid.UUID(int=7), dt.datetime(2026, 1, 2, 3, 4, 5), dt.date(2026, 1, 2), decimal.Decimal("1.5"), b"bytes"),
    "reply_to": lambda app, add: add.apply_async((2, 3), reply_to="somewhere"),
    "to_queue": lambda app, add: add.apply_async((2, 3), queue="celery"),
    "to_exchange": lambda app, add: add.apply_async((2, 3), exchange="celery", routing_key="celery"),
    "group": lambda app, add: group(add.s(1, 1), add.s(2, 2)).apply_async(),
    "link": lambda app, add: add.apply_async((2, 3), link=add.s(1)),
    "link_two": lambda app, add: add.apply_async((2, 3), link=[add.s(1), add.s(2)]),
    "link_error": lambda app, add: add.apply_async((2, 3), link_error=add.s()),
    "chain": lambda app, add: chain(add.s(1, 1), add.s(2), add.s(3)).apply_async(),
    "chord": lambda app, add: chord([add.s(1, 1), add.s(2, 2)], add.s()).apply_async(),
    "gzip": lambda app, add: add.apply_async((2, 3), compression="gzip"),
    "serializer_msgpack": lambda app, add: add.apply_async((2, 3), serializer="msgpack"),
    "serializer_yaml": lambda app, add: add.apply_async((2, 3), serializer="yaml"),
    "serializer_pickle": lambda app, add: add.apply_async((2, 3), serializer="pickle"),
    "v1_plain": (lambda app, add: add.delay(2, 3), {"task_protocol": 1}),
}

if __name__ == "__main__":
    out = {}
    for name, call in CALLS.items():
        call, conf = call if isinstance(call, tuple) else (call, {})
        out[name] = record(call, **conf)
    json.dump(out, sys.stdout, ensure_ascii=False, indent=1, sort_keys=True)
