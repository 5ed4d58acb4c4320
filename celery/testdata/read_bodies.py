"""Reads a JSON list of [body in base64, content encoding] and writes how a
Celery worker reads each body, null for what it refuses. py-amqp decodes first,
if it can (amqp/abstract_channel.py, dispatch_method).
"""
import base64
import json
import sys

from kombu.exceptions import DecodeError
from kombu.serialization import loads


def read(body, encoding):
    body = base64.b64decode(body)
    try:
        body = body.decode(encoding)
    except Exception:
        pass
    try:
        return loads(body, "application/json", encoding, accept={"application/json"})
    except DecodeError:
        return None


json.dump([read(*case) for case in json.load(sys.stdin)], sys.stdout)
