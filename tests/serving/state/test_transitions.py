"""Which states may follow each other."""

from __future__ import annotations

import pytest

from serving.state.transitions import TRANSITIONS, IllegalTransition, JobStatus, TaskState, check_transition


def test_what_is_no_transition_raises() -> None:
    for old in TRANSITIONS:
        for new in TRANSITIONS:
            if new in TRANSITIONS[old]:
                check_transition(old, new)
            else:
                with pytest.raises(IllegalTransition):
                    check_transition(old, new)
    assert not TRANSITIONS[JobStatus.FAILED] and not TRANSITIONS[TaskState.CANCELLED]
