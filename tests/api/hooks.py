"""What schemathesis can't know by itself: how lines are sent."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/ndjson", "application/jsonl")
def lines(context, value):
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()
