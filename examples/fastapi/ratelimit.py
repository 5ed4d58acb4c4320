"""Limits requests by client address, in the counters of Onceover's gateway.

Both sides run the same script on the same keys of Redis (database 3), so that
60 requests a minute are 60 in all, whichever of them a client asks:

    from fastapi import Depends, FastAPI
    from redis.asyncio import Redis
    from ratelimit import RateLimit

    limit = RateLimit(Redis(db=3), limit=60, window=60, trusted_proxies=["10.0.0.0/8"])
    app = FastAPI()

    @app.post("/api/v1/waste/analyze", dependencies=[Depends(limit)])
    async def analyze(): ...

Run uvicorn with --no-proxy-headers: with them it replaces the address of the
connection before this can look at it. limit, window, trusted_proxies and
ipv6_prefix are those of ONCEOVER_RATE_LIMIT, ONCEOVER_TRUSTED_PROXIES and
ONCEOVER_RATE_LIMIT_IPV6_PREFIX, where the window is fixed.
"""

import asyncio
import ipaddress
import logging
import math

from fastapi import HTTPException, Request, Response
from redis.asyncio import Redis
from redis.exceptions import RedisError

SCRIPT = """
local used = tonumber(redis.call('GET', KEYS[1])) or 0
local left = redis.call('PTTL', KEYS[1])
if used < 1 or left < 0 then
	redis.call('SET', KEYS[1], 1, 'PX', ARGV[2])
	return {1, 1, tonumber(ARGV[2])}
end
if used >= tonumber(ARGV[1]) then return {0, used, left} end
return {1, redis.call('INCR', KEYS[1]), left}
"""


class RateLimit:
    """A dependency that admits `limit` requests of an address to a route in `window` seconds.

    It answers 429 with Retry-After to more. While Redis does not answer within a
    second it admits all, or with allow_in_outage=False answers 503 to all.
    """

    def __init__(self, redis: Redis, limit: int = 60, window: float = 60, trusted_proxies=(), ipv6_prefix: int = 128,
                 allow_in_outage: bool = True):
        if limit < 1 or not 1 <= window <= 86400:
            raise ValueError(f"limit is {limit}, window {window}: expected at least 1, and 1 to 86400 seconds")
        self.limit, self.window = limit, window
        self.proxies = [ipaddress.ip_network(p, strict=False) for p in trusted_proxies]
        self.ipv6_prefix = ipv6_prefix
        self.allow_in_outage = allow_in_outage
        self.take = redis.register_script(SCRIPT)

    async def __call__(self, request: Request, response: Response) -> None:
        key = f"ratelimit:ip:{self.client(request)}:{request.scope['route'].path}"
        try:
            counted = self.take(keys=[key], args=[self.limit, round(self.window * 1000)])
            admitted, used, left = await asyncio.wait_for(counted, timeout=1)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            if self.allow_in_outage:
                logging.getLogger(__name__).warning("requests are not counted: %s", error)
                return
            raise HTTPException(503, "requests cannot be counted at the moment", {"Retry-After": "5"}) from error
        seconds = math.ceil(left / 1000)
        headers = {
            "RateLimit-Policy": f'"default";q={self.limit};w={math.ceil(self.window)}',
            "RateLimit": f'"default";r={max(0, self.limit - used)};t={seconds}',
        }
        if not admitted:
            raise HTTPException(429, "Too many requests", {**headers, "Retry-After": str(max(1, seconds))})
        response.headers.update(headers)

    def client(self, request: Request) -> str:
        """The client's address: what trusted proxies have appended to X-Forwarded-For is believed, from the right."""
        if request.client is None:
            return "unknown"
        try:
            client = plain(request.client.host)
        except ValueError:
            return "unknown"
        entries = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        while entries and any(client in network for network in self.proxies):
            try:
                client = forwarded(entries.pop().strip())
            except ValueError:
                break
        if client.version == 6:
            client = ipaddress.ip_network((client, self.ipv6_prefix), strict=False).network_address
        return str(client)


def plain(text: str):
    """An address in the one form in which it is counted: IPv4 as such, without a zone."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def forwarded(entry: str):
    """An entry of X-Forwarded-For: an address, with a port or without one."""
    if entry.startswith("["):
        inner, closed, port = entry[1:].partition("]")
        if not closed or port and not (port[0] == ":" and port[1:].isdecimal()) or ":" not in inner:
            raise ValueError(entry)
        return plain(inner)
    if entry.count(":") == 1:
        entry, _, port = entry.partition(":")
        if not port.isdecimal():
            raise ValueError(entry)
    return plain(entry)
