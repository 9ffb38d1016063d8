"""Other ways to make a long video, by the pipeline itself with another plan, and what each costs.

`Independent` makes all segments of a plan alone and cross-fades them; `Sequential` continues each from the last frames
of the one before, as Wan-Animate and SCAIL-2 do; `averaged_windows` denoises all segments side by side and averages
what they see where they overlap after each step, as UniAnimate and MimicMotion do. All use the bundled adapters, none
of which was trained for a segment that is given frames at its beginning alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from posegen.longvideo.conditions import Conditions, decode_latents, encode_frames, pose_condition
from posegen.longvideo.job import EncodedJob, VideoJob
from posegen.longvideo.sampling import Schedule, Step, denoise, flow_shift, initial_noise, schedule
from posegen.longvideo.segments import Plan, Segment, Stitcher
from posegen.pipeline import Callback, PoseGenPipeline
from posegen.sharing import SharedStore


class Independent(Plan):
    """The same segments, none of them given frames: where they overlap they are only cross-faded."""

    def _segment(self, index: int) -> Segment:
        return replace(super()._segment(index), kind="base", head=0, tail=0)

    def dependencies(self, index: int) -> tuple[int, ...]:
        """The anchor, whose background may be shared."""
        return () if index == self.anchor else (self.anchor,)


class Sequential(Plan):
    """Each segment but the first is given the last `head` frames of the one before."""

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """As many as cover the video."""
        new = self.segment_frames - self.head
        count = 1 + max(0, -(-(self.frames - self.segment_frames) // new))
        first = Segment(0, 0, self.segment_frames, "base", 0, 0)
        return first, *(
            Segment(index, index * new, self.segment_frames, "bridge", self.head, 0)
            for index in range(1, count)
        )

    def overlap(self, index: int) -> int:
        """The given frames, 0 for the last segment."""
        return self.head if index < len(self.segments) - 1 else 0

    def dependencies(self, index: int) -> tuple[int, ...]:
        """The one before."""
        return (index - 1,) if index else ()

    def order(self) -> tuple[int, ...]:
        """One after the other."""
        return tuple(range(len(self.segments)))

    def with_given_frames(
        self, index: int, frames: np.ndarray, generated: Mapping[int, np.ndarray]
    ) -> np.ndarray:
        """A segment's frames (F, H, W, 3) that begin with the last ones of the segment before."""
        if not index:
            return frames
        return np.concatenate([generated[index - 1][-self.head :], frames[self.head :]])


def planned(kind: type[Plan], plan: Plan) -> Plan:
    """A plan of another kind for the same video and segments of the same length."""
    return kind(plan.frames, plan.segment_frames, plan.head, plan.tail, plan.anchor)


class FreshNoise(PoseGenPipeline):
    """The pipeline with another initial noise for each segment."""

    def _latents(
        self,
        job: VideoJob,
        encoded: EncodedJob,
        index: int,
        neighbours: Mapping[int, np.ndarray],
        record: SharedStore | None,
        callback: Callback | None,
    ) -> torch.Tensor:
        """One segment's latents, which a segment alone and a whole video are made of."""
        other = replace(job, seed=job.seed + 1000 * index)
        return super()._latents(other, encoded, index, neighbours, record, callback)


@torch.no_grad()
def averaged_windows(pipeline: PoseGenPipeline, job: VideoJob) -> np.ndarray:
    """The video (T, H, W, 3) uint8 of a job whose plan is `Independent`, without sharing.

    The codec is causal, so clean pictures are averaged, by the cross-fade of the stitcher, and encoded again.
    """
    encoded, vae = pipeline.encode(job), pipeline.vae
    conditions = [_conditions(pipeline, job, encoded, index) for index in range(len(job.plan.segments))]
    levels = schedule(job.num_inference_steps, flow_shift(pipeline.scheduler.config))
    noise = initial_noise(job.seed, (1, vae.config.z_dim, *conditions[0].pose.shape[2:]))
    latents = [noise for _ in conditions]
    video = np.empty(0)
    pipeline.transformer.set_adapter("base")
    for number, timestep in enumerate(levels.timesteps):
        sigma, following = levels.sigmas[number : number + 2]
        seen: list[Step] = []
        for condition, noisy in zip(conditions, latents, strict=True):
            step = Schedule([sigma, following], [timestep])
            denoise(pipeline.transformer, condition, noisy, step, job.guidance, None, seen.append)
        stitcher = Stitcher(job.plan)
        pieces = [decode_latents(vae, step.preview)[0].numpy() for step in seen]
        video = np.stack(
            [frame for index, piece in enumerate(pieces) for frame in stitcher.add(index, piece)]
        )
        clean = [encode_frames(vae, video[job.plan.driving_frames(i)][None]) for i in range(len(pieces))]
        latents = [
            mean + following / sigma * (noisy - mean) for mean, noisy in zip(clean, latents, strict=True)
        ]
    return video


def _conditions(pipeline: PoseGenPipeline, job: VideoJob, encoded: EncodedJob, index: int) -> Conditions:
    poses = job.pose_video(index, pipeline.config.pose_oversampling)[None]
    given = torch.zeros(poses.shape[:2], dtype=torch.bool)
    return Conditions(
        pose=pose_condition(pipeline.vae, poses, given),
        reference=encoded.reference,
        text=encoded.text,
        negative_text=encoded.negative_text,
        image=encoded.image,
        hands=encoded.hands,
    )


def costs(pipeline: PoseGenPipeline, job: VideoJob, together: bool = False) -> dict[str, float]:
    """Passes of the network in all, and how many one after the other on ever so many machines.

    together: all segments wait for each other at every step, as averaged windows do.
    """
    plan, steps = job.plan, job.num_inference_steps
    sigmas = schedule(steps, flow_shift(pipeline.scheduler.config)).sigmas[:-1]
    passes = sum(1 + job.guidance.applies(sigma) for sigma in sigmas)
    ends: dict[int, float] = {}
    for index in plan.order():
        before, begins = plan.dependencies(index), 0.0
        if plan.segments[index].kind == "bridge":
            begins = max(ends[other] for other in before)
        elif before and job.sharing:  # the anchor's first steps, no more, must be there
            begins = passes * job.sharing.shared.steps.stop / steps
        ends[index] = begins + passes
    return {
        "passes": passes * len(plan.segments),
        "critical_path": passes if together else max(ends.values()),
    }
