"""One line per finished connection."""

import json

from interceptor.telemetry.connection_record import ConnectionRecord


def format_record(record: ConnectionRecord) -> str:
    """A finished record as one line of JSON, ASCII only and without the newline at its end.

    Keys are those of `ConnectionRecord.to_dict`, in its order. Whatever an attribute holds, it cannot end the line:
    JSON escapes every control character. Raises ValueError when the record is not finished.
    """
    if record.closed_monotonic is None:
        raise ValueError(f"connection {record.id} is still open, finish it before it is logged")
    return json.dumps(record.to_dict(record.closed_monotonic), separators=(",", ":"))
