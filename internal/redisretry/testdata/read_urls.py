"""Reads a JSON list of Redis URLs and writes how Celery's result backend, or
else redis-py, reads each, null for what both refuse. With --connect it writes
whether Celery's client is answered.
"""
import json
import sys

import redis
from celery import Celery


def celery(url):
    pool = Celery(backend=url).backend.client.connection_pool
    return pool.make_connection()


def redis_py(url):
    return redis.Redis.from_url(url).connection_pool.make_connection()


def read(url):
    for reader in celery, redis_py:
        try:
            c = reader(url)
        except Exception:
            continue
        return {
            "addr": getattr(c, "path", None) or f"{c.host or 'localhost'} {c.port or 6379}",
            "db": c.db, "username": c.username or "", "password": c.password or "",
            "tls": isinstance(c, redis.SSLConnection), "client_name": c.client_name or "",
        }


def connects(url):
    try:
        return Celery(backend=url).backend.client.ping()
    except redis.exceptions.ConnectionError:
        return False


use = connects if "--connect" in sys.argv else read
json.dump([use(url) for url in json.load(sys.stdin)], sys.stdout)
