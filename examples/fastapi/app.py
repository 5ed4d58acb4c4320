"""An API in front of Onceover's worker, which shares its limits with the gateway.

    pip install fastapi uvicorn "celery[redis]"
    uvicorn app:app --no-proxy-headers

BROKER_URL, REDIS_URL and TRUSTED_PROXIES say where it finds what it needs.
"""

import json
import os

from celery import Celery
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from redis.asyncio import Redis

from ratelimit import RateLimit

redis_url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
celery = Celery(broker=os.environ.get("BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//"), backend=redis_url + "/0")
progress = Redis.from_url(redis_url + "/2")
limit = RateLimit(
    Redis.from_url(redis_url + "/3"), limit=60, window=60,
    trusted_proxies=[p for p in os.environ.get("TRUSTED_PROXIES", "").split(",") if p],
)
app = FastAPI()


class Order(BaseModel):
    image_url: str
    user_input: str | None = None


@app.post("/api/v1/waste/analyze", status_code=202, dependencies=[Depends(limit)])
def analyze(order: Order):
    result = celery.send_task(
        "image.analyze", kwargs=order.model_dump(exclude_none=True), exchange="tasks", routing_key="ai.analyze",
    )
    return {"job_id": result.id}


@app.get("/status/{job_id}")
async def status(job_id: str):
    document = await progress.get(f"job:{job_id}:progress")
    if document is None:
        raise HTTPException(404, "no job of this id has begun")
    return json.loads(document)
