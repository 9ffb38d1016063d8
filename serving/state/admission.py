"""What is kept of an anchor's attention for a job's other segments, and when a node has room for it: pure functions.

A record lies on the node where it is made: in the memory of its store and, beyond that, on its local disk. So what
counts is what that node holds, not the sum over the cluster. The two forms of a record give the same bits; keys and
values take twice the room of the attention's input, which each reader has to project again.
"""

from __future__ import annotations

from dataclasses import replace

from serving.state.rows import JobPlan, QueueLimits

AT_ONCE = 8
"""Records that a node's memory must be able to hold before they may take twice the room: one for each GPU of the usual
machine. With fewer, GPUs would wait for memory, which costs more than projecting again."""


def choose_form(plan: JobPlan, limits: QueueLimits) -> JobPlan:
    """A plan whose record is of keys and values, with the form that is to be kept and its bytes.

    Raises ValueError, in a sentence for the client, where no node could ever hold it.
    """
    if AT_ONCE * plan.record_bytes <= limits.record_bytes:
        return plan
    half = plan.record_bytes // 2
    if plan.shares and half > limits.node_bytes:
        raise ValueError(
            f"The shared background would take {half / 2**30:.1f} GiB of the {limits.node_bytes / 2**30:.1f} GiB that "
            "a machine has for it; ask for a smaller size, fewer steps or framing=off."
        )
    return replace(plan, record_bytes=half, record_form="input")


def has_room(record_bytes: int, held: int, limits: QueueLimits) -> bool:
    """Whether a node that holds so many bytes of records may take another; alone, any record is taken."""
    return held == 0 or held + record_bytes <= limits.node_bytes
