"""A record is one line whatever it holds."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interceptor.policy.verdict import Denial, Reason
from interceptor.telemetry.access_log import format_record
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction


def test_open_record_is_not_logged() -> None:
    record = ConnectionRecord(Direction.OUTBOUND, "c1", "t1", None, None, 0.0, 0.0)
    with pytest.raises(ValueError, match="c1 is still open"):
        format_record(record)


@given(st.text(st.characters(codec=None)))
@example('"\n\r\0\x85\u2028\u2029\ud800')
def test_finished_record_is_one_line_of_json_in_key_order(detail: str) -> None:
    record = ConnectionRecord(Direction.OUTBOUND, "c1", detail, None, None, 0.0, 0.0)
    record.decide(Denial(Reason.HANDSHAKE_FAILED, detail))
    record.finish(1.0, ClosedBy.INTERCEPTOR, CloseKind.RESET)
    line = format_record(record)
    assert len(line.splitlines()) == 1
    assert line.isascii()
    shown = json.loads(line)
    assert list(shown.items()) == list(record.to_dict(1.0).items())
    assert shown["detail"] == detail
