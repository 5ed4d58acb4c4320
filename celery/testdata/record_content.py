"""Records bodies as kombu serialises and compresses them, with what Python itself
reads of each, into content.json beside this file.

    python record_content.py        needs celery, pyyaml, msgpack, backports.zstd
"""
import base64
import datetime
import decimal
import json
import os
import uuid

from kombu import compression, serialization
from kombu.utils.json import dumps

VALUES = [
    ["안녕", "a\"b\\c\n", "😀", -1, 2**40, 0.5, True, None, [], {"키": {"n": [1, 2]}}],
    {"image": "사진.jpg", "empty": "", "nested": {"a": [{"b": None}]}},
    {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
]
RICH = [
    datetime.datetime(2030, 1, 2, 3, 4, 5, 600000, tzinfo=datetime.timezone.utc),
    b"bytes", b"\xff\xfe",
]


def record():
    out = []

    def add(name, data, serializer, compress=None):
        content_type, encoding, body = serialization.dumps(data, serializer)
        header = ""
        if compress:
            body, header = compression.compress(body, compress)
        raw = body.encode() if isinstance(body, str) else body
        out.append({
            "name": name, "content_type": content_type, "content_encoding": encoding, "compression": header,
            "body_base64": base64.b64encode(raw).decode(), "want": json.loads(dumps(data)),
        })

    for serializer in ("json", "yaml", "msgpack"):
        add(serializer, VALUES, serializer)
        for compress in ("zlib", "bzip2", "zstd"):
            add(f"{serializer}, {compress}", VALUES, serializer, compress)
    add("json, rich types", [[RICH[0], RICH[1], RICH[2], uuid.UUID(int=7), decimal.Decimal("1.50")], {}, {}], "json")
    add("msgpack, bytes", [[b"bytes", b"\xff\xfe"], {}, {}], "msgpack")
    add("yaml, times", [[RICH[0], datetime.date(2030, 1, 2)], {}, {}], "yaml")
    return out


if __name__ == "__main__":
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "content.json"), "w") as f:
        json.dump(record(), f, ensure_ascii=False, indent=1)
        f.write("\n")
