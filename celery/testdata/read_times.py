"""Reads a JSON list of texts and writes how Celery's worker, or else
datetime.fromisoformat, reads each: microseconds since 1970, or null.

Left out, in either, is what they take by accident: a digit between day and
clock (Celery reads 20300102120405 as 20:40:05), and blanks and signs among the
digits of a number, which int() lets pass. For the same reason a text has to be
taken by fromisoformat in C and in Python: the one in C lets a stray character
pass before an offset, the one in Python a separator without a clock.
"""
import datetime as in_c
import importlib.util
import json
import re
import sys
from datetime import datetime, timedelta, timezone

from celery.utils.time import maybe_iso8601, maybe_make_aware


def load_in_python():
    in_python = importlib.util.spec_from_file_location("in_python", in_c.__file__)
    module = importlib.util.module_from_spec(in_python)
    sys.modules["_datetime"], kept = None, sys.modules["_datetime"]
    in_python.loader.exec_module(module)
    sys.modules["_datetime"] = kept
    return module


class IntType(type):
    def __instancecheck__(cls, value):
        return isinstance(value, int)


class DigitsOnly(metaclass=IntType):
    """int() that takes no blanks and signs."""

    def __new__(cls, value):
        if isinstance(value, (str, bytes)) and not (value.isascii() and value.isdigit()):
            raise ValueError(value)
        return int(value)


isoparser = importlib.import_module("dateutil.parser.isoparser")
in_python = load_in_python()
isoparser.int = in_python.int = DigitsOnly


def celery(text):
    _, end = isoparser.isoparser()._parse_isodate(text.encode("ascii"))
    if text[end:end + 1].isdigit():
        raise ValueError("a digit between day and clock")
    return maybe_iso8601(text)


DIGIT_FOLLOWS = re.compile(r"\d{4}(-\d\d-\d\d|\d{4}|W\d{3}|-W\d\d(-\d(?!\d))?)\d")


def python(text):
    if DIGIT_FOLLOWS.match(text):
        raise ValueError("a digit between day and clock")
    in_python.datetime.fromisoformat(text)
    return datetime.fromisoformat(text)


def read(text):
    for reader in celery, python:
        try:
            t = maybe_make_aware(reader(text)).astimezone(timezone.utc)
            return (t - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
        except (ValueError, OverflowError, AssertionError):
            pass


json.dump([read(text) for text in json.load(sys.stdin)], sys.stdout)
