"""The Celery app of a producer, as Flower is given it: it knows the task's name."""
from celery import Celery

app = Celery("producer")


@app.task(name="image.analyze")
def analyze(**kwargs):
    raise NotImplementedError("this is the worker's")
