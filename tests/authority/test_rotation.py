"""The rotation of the root: no step too early, and always said who is waited for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.authority.node_record import NodeRecord
from interceptor.authority.reports import NodeReport
from interceptor.authority.rotation import Phase, RotationState, Step, laggards, require_permitted, status
from interceptor.errors import AuthorityError

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
OLD, NEW = "aa" * 32, "bb" * 32
CURRENT, PAST = "sha256:" + "cc" * 32, "sha256:" + "dd" * 32
STABLE = RotationState(Phase.STABLE, NOW, OLD, None)
PREPARED = STABLE.after(Step.PREPARE, NOW, NEW)
DISTRIBUTED = PREPARED.after(Step.DISTRIBUTE, NOW)
ACTIVATED = DISTRIBUTED.after(Step.ACTIVATE, NOW)
STATES = [STABLE, PREPARED, DISTRIBUTED, ACTIVATED]


def node(name="a", bundle=CURRENT, issuers=(NEW,), reported_at=LATER, *, revoked=False, unkept=""):
    report = NodeReport(bundle, bundle, issuers, (), NOW, unkept)
    return NodeRecord(name, (), NOW, revoked, report, reported_at)


def silent(name="a", *, revoked=False):
    return NodeRecord(name, (), NOW, revoked, None, None)


def test_rotation_runs_through_its_phases_and_ends_with_the_new_root():
    assert [state.phase for state in STATES] == list(Phase)
    assert [state.trusted() for state in STATES] == [(OLD,), (OLD,), (OLD, NEW), (NEW, OLD)]
    assert [state.active for state in STATES] == [OLD, OLD, OLD, NEW]
    assert ACTIVATED.after(Step.RETIRE, LATER) == RotationState(Phase.STABLE, LATER, NEW, None)


@pytest.mark.parametrize("state", [PREPARED, DISTRIBUTED])
def test_abort_leads_back_to_the_old_root(state):
    require_permitted(Step.ABORT, state, laggards(state, CURRENT, [silent()]))
    assert state.after(Step.ABORT, LATER) == RotationState(Phase.STABLE, LATER, OLD, None)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("step", Step)
def test_step_out_of_turn_is_refused_and_the_right_one_named(state, step):
    turn = {
        Phase.STABLE: {Step.PREPARE},
        Phase.PREPARED: {Step.DISTRIBUTE, Step.ABORT},
        Phase.DISTRIBUTED: {Step.ACTIVATE, Step.ABORT},
        Phase.ACTIVATED: {Step.RETIRE},
    }[state.phase]
    if step in turn:
        require_permitted(step, state, ())
        return
    following = status(state, CURRENT, []).next_step
    with pytest.raises(
        AuthorityError, match=f"cannot {step} a rotation that is {state.phase} .*next step is {following}"
    ):
        require_permitted(step, state, ())


@pytest.mark.parametrize("state", [STABLE, PREPARED])
def test_first_steps_wait_for_nobody(state):
    assert laggards(state, CURRENT, [silent()]) == ()


@pytest.mark.parametrize(
    ("state", "record", "why"),
    [
        (DISTRIBUTED, silent(), "has not reported yet"),
        (DISTRIBUTED, node(bundle=PAST), "uses another trust bundle"),
        (DISTRIBUTED, node(issuers=(OLD,)), ""),
        (ACTIVATED, silent(), "has not reported yet"),
        (ACTIVATED, node(bundle=PAST), "uses another trust bundle"),
        (ACTIVATED, node(issuers=(NEW, OLD)), "still has certificates of the old root"),
        (ACTIVATED, node(reported_at=NOW), "has not reported since the activation"),
        (ACTIVATED, node(), ""),
        (ACTIVATED, node(issuers=()), ""),
        (ACTIVATED, silent(revoked=True), ""),
        (DISTRIBUTED, node(bundle=PAST, revoked=True), ""),
    ],
)
def test_node_that_is_not_ready_is_named_with_the_reason(state, record, why):
    found = laggards(state, CURRENT, [record])
    assert [laggard.why.split(", last")[0] for laggard in found] == ([why] if why else [])


def test_step_that_must_wait_is_refused_and_names_who_lags():
    waiting = laggards(DISTRIBUTED, CURRENT, [silent(f"n{number}") for number in range(7)])
    with pytest.raises(AuthorityError) as caught:
        require_permitted(Step.ACTIVATE, DISTRIBUTED, waiting)
    assert "cannot activate yet, not ready: n0 (has not reported yet), n1" in str(caught.value)
    assert "n4 (has not reported yet) and 2 more" in str(caught.value)
    with pytest.raises(AuthorityError, match=r"not ready: n0 \(has not reported yet\): wait"):
        require_permitted(Step.ACTIVATE, DISTRIBUTED, waiting[:1])


def test_status_shows_the_next_step_and_laggards_sorted():
    shown = status(DISTRIBUTED, CURRENT, [silent("b"), node("c"), silent("a")])
    assert shown.next_step is Step.ACTIVATE
    assert [laggard.node for laggard in shown.laggards] == ["a", "b"]


nodes = st.lists(
    st.builds(
        node,
        bundle=st.sampled_from([CURRENT, PAST]),
        issuers=st.sets(st.sampled_from([OLD, NEW])).map(tuple),
        reported_at=st.sampled_from([NOW, LATER]),
        revoked=st.booleans(),
    ),
    max_size=5,
)


@given(nodes)
def test_retirement_is_permitted_exactly_when_no_certificate_in_use_leads_to_the_old_root(records):
    records = [replace(record, name=f"n{number}") for number, record in enumerate(records)]
    in_force = [record for record in records if not record.revoked]
    safe = all(
        record.report.bundle_hash == CURRENT and OLD not in record.report.issuers and record.reported_at > NOW
        for record in in_force
    )
    assert (laggards(ACTIVATED, CURRENT, records) == ()) is safe


@pytest.mark.parametrize("state", [DISTRIBUTED, ACTIVATED])
def test_node_that_cannot_keep_the_bundle_is_waited_for_with_its_reason(state):
    full = node(bundle="sha256:" + "9" * 64, unkept="cannot write trust.json: no space left\n")
    (laggard,) = laggards(state, CURRENT, [full])
    assert laggard.why == (
        "cannot keep the trust bundle, a restart would lose it: 'cannot write trust.json: no space left\\n'"
    )
    # What it has kept is current: a revocation alone cannot be kept, which no rotation waits for.
    assert laggards(state, CURRENT, [node(unkept="full")]) == ()
