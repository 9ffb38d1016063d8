"""Several processes of one machine that denoise a segment together: rank 0, and workers of rank 1 and above.

Rank 0 is the process that holds the pipeline. It starts the workers, each on a GPU of its own (or all on the CPU). They
map its transformer's weights, so the host holds one copy of them. All take the same steps in lockstep, each computing a
part of the passes (`posegen.distributed.branches`); a slow one is waited for as long as the group gets on. What only
rank 0 does (the callback after a step, the store of the record) ends in a message to the workers: go on, or stop and
wait for the next segment. So a cancelled segment stops all of them at the same step. A group that lost a process is of
no use any more: its owner replaces it.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import MappingProxyType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from posegen.distributed.progress import STUCK_S, Patience, counts
from posegen.distributed.shared_weights import share
from posegen.distributed.worker import GroupSettings, SegmentStopped, SegmentTask, moved, run_worker
from posegen.longvideo.conditions import Conditions
from posegen.longvideo.sampling import Guidance, Schedule, Step, denoise
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import Position, SegmentSharing, SharedEntry, SharedRecord, SharedStore
from posegen.sharing.parts import gather, part_shape, scatter

GRACE_S = 10.0
"""How long rank 0 may take to notice by itself that a worker has ended."""
LOOK_S = 1.0
"""How often rank 0 looks whether the group gets on."""

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class GroupError(RuntimeError):
    """A process of the group has ended, and with it the group."""

    def __init__(self) -> None:
        super().__init__("a process that denoises with this one has ended, see above; start anew")


class Group:
    """Rank 0 and its workers: `pipeline.group = Group(pipeline, processes)`."""

    def __init__(
        self,
        pipeline: PoseGenPipeline,
        processes: int,
        device: str = "cpu",
        offload: bool = False,
        patience: float = STUCK_S,
    ) -> None:
        """Starts the workers, which take the transformer over as it is; returns when all are ready.

        The pipeline is on the CPU; its transformer goes to the device, "cuda" for the first GPU, and the workers' to
        the next ones. offload: whether blocks stay on the host until they compute. patience: seconds without a block
        done by any process after which the group counts as stuck.
        Raises ValueError, a sentence, for a number of processes that cannot be, GroupError where one ends.
        """
        transformer, context = pipeline.transformer, _context()
        self._device = torch.device(device)
        _check_size(transformer, processes, self._device)
        self._scratch = tempfile.TemporaryDirectory()
        settings = GroupSettings(
            device=self._device.type,
            processes=processes,
            offload=offload,
            rendezvous=f"{self._scratch.name}/rendezvous",
            counts=counts(processes),
        )
        self._counts, self._patience = settings.counts, Patience(patience)
        self._processes: list[BaseProcess] = []
        self._channels: list[Connection] = []
        self._ended = self._stopped = False
        self._idle = threading.Event()
        self._idle.set()
        atexit.register(self.close)
        for rank in range(1, processes):
            ours, theirs = context.Pipe()
            self._processes.append(
                context.Process(target=run_worker, args=(settings, rank, theirs), daemon=True)
            )
            self._channels.append(ours)
            self._processes[-1].start()
            theirs.close()  # so that the end of the process is the end of the pipe
        try:
            self._hand_over(transformer, settings)
            self._passes = settings.join(0, transformer)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._watch, name="group", daemon=True).start()

    def _hand_over(self, transformer: Any, settings: GroupSettings) -> None:
        """Shares the transformer with the workers; all of them have loaded it afterwards, however long that takes."""
        shared = share(transformer)
        try:
            for channel in self._channels:
                channel.send_bytes(shared.content)
            settings.place(0, transformer)
            for channel in self._channels:
                channel.recv_bytes()
            for channel in self._channels:
                channel.send_bytes(b"all have loaded")
        except (OSError, EOFError) as error:
            raise GroupError from error
        finally:
            shared.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [process.pid for process in self._processes if process.pid]

    def check_tokens(self, tokens: int) -> None:
        """Raises ValueError where the processes cannot share frames of so many tokens equally."""
        processes = 1 + len(self._processes)
        if tokens % processes:
            raise ValueError(
                f"{processes} processes cannot share a frame's {tokens} tokens: choose another size, or another number "
                "of processes."
            )

    def check(self) -> None:
        """Raises GroupError where a process has ended."""
        if self._ended:
            raise GroupError

    def close(self) -> None:
        """Ends the workers; the pipeline's transformer is of no use alone."""
        atexit.unregister(self.close)
        self._ended = True
        for process in self._processes:
            process.kill()
            process.join()
        if self._device.type == "cpu" and dist.is_initialized():  # nccl might wait for those that are no more
            dist.destroy_process_group()
        self._scratch.cleanup()

    def denoise(
        self,
        transformer: Any,
        conditions: Conditions,
        noise: torch.Tensor,
        schedule: Schedule,
        guidance: Guidance,
        sharing: SegmentSharing | None = None,
        callback: Callable[[Step], object] | None = None,
        strengths: Mapping[str, float] = MappingProxyType({}),
    ) -> torch.Tensor:
        """`denoise` by all processes. What its callback or its store raise leaves the group whole.

        strengths: of adapters, as they are set in the transformer; the workers set them too.
        Raises GroupError where a process has ended.
        """
        self.check()
        task = SegmentTask(
            adapters=_active_adapters(transformer),
            strengths=dict(strengths),
            conditions=moved(conditions, torch.device("cpu")),
            noise=noise.cpu(),
            schedule=schedule,
            guidance=guidance,
            sharing=sharing and replace(sharing, store=SharedRecord()),
        )
        if sharing is not None:
            sharing = replace(sharing, store=_GroupRecord(sharing.store, self._run_and_tell, self._device))
        tell = partial(self._after_step, callback)
        self._stopped = False
        self._idle.clear()
        try:
            self._send(task)
            return denoise(transformer, conditions, noise, schedule, guidance, sharing, tell, self._passes)
        except BaseException:
            if not self._stopped:
                self._end_workers()
            raise
        finally:
            self._idle.set()

    def _after_step(self, callback: Callable[[Step], object] | None, step: Step) -> None:
        self._run_and_tell(lambda: None if callback is None else callback(step), lambda _: None)

    def _run_and_tell(self, do: Callable[[], Result], tell: Callable[[Result], object]) -> Result:
        """Does what only rank 0 does, then tells the workers to go on, or to stop where it raised.

        tell: from the result to the message that the workers receive.
        """
        self._idle.set()  # no exchange waits for it
        try:
            result = do()
        except BaseException:
            self._send(SegmentStopped())
            self._stopped = True
            raise
        finally:
            self._idle.clear()
        self._send(tell(result))
        return result

    def _send(self, message: object) -> None:
        # As bytes: torch would hand over memory that the other process keeps alive.
        content = pickle.dumps(message)
        try:
            for channel in self._channels:
                channel.send_bytes(content)
        except OSError as error:
            raise GroupError from error

    def _end_workers(self) -> None:
        """Ends the workers, which are in the middle of a step; raises GroupError where one of them was the first."""
        lost = wait([process.sentinel for process in self._processes], timeout=1)
        self.close()
        if lost:
            raise GroupError

    def _watch(self) -> None:
        """Ends the workers where the group is stuck, and this process where it waits in vain for one that has ended.

        It may wait within a GPU's kernel, which nothing else ends.
        """
        sentinels = [process.sentinel for process in self._processes]
        while not wait(sentinels, timeout=LOOK_S):
            if self._idle.is_set():
                self._patience.renew()
            elif self._patience.ended(self._counts, time.monotonic()):
                log.error("no process of the group has done a block for %.0f s", self._patience.limit)
                for process in self._processes:
                    process.kill()
        if self._ended:
            return
        self._ended = True
        log.error("a process that denoises with this one has ended")
        if not self._idle.wait(GRACE_S):
            log.error("this one waits for it in vain, and ends too")
            os._exit(1)


@dataclass(frozen=True)
class _GroupRecord:
    """Rank 0's store of whole entries, which all processes read and write at the same places."""

    store: SharedStore
    run_and_tell: Callable[..., Any]
    device: torch.device

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Gathers the heads of all ranks and keeps them."""
        whole = gather(entry)
        self.run_and_tell(lambda: self.store.put(position, whole), lambda _: None)

    def get(self, position: Position) -> SharedEntry:
        """Reads an entry, sends each worker its heads and returns rank 0's."""
        whole = self.run_and_tell(lambda: self.store.get(position), part_shape)
        return scatter(part_shape(whole), self.device, whole)


def _context() -> Any:
    """Starts processes that have imported all they need, and share the memory of that (300 MB)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["posegen.distributed.worker", "posegen.model.transformer"])
    return context


def _check_size(transformer: Any, processes: int, device: torch.device) -> None:
    """Raises ValueError where so many processes cannot denoise together."""
    heads, gpus = transformer.config.num_attention_heads, torch.cuda.device_count()
    if heads % processes:
        raise ValueError(
            f"{processes} processes cannot share the model's {heads} attention heads; take a number that divides them."
        )
    if device.type == "cuda" and processes > gpus:
        raise ValueError(f"{processes} processes need a GPU each, and there are {gpus}; take fewer.")


def _active_adapters(transformer: Any) -> list[str]:
    return transformer.active_adapters() if getattr(transformer, "peft_config", {}) else []
