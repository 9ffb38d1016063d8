"""The settings of a curation; the command line is made from these fields and their comments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.verdict import DEFAULT as DEFAULT_THRESHOLDS
from posegen.captions import QUESTION
from posegen.dataset import content_id

COMPOSED = "composed"


class Pool(Protocol):
    """How many processes measure, and the share of a GPU that each has."""

    @property
    def workers(self) -> int | None: ...

    @property
    def gpus_per_worker(self) -> float: ...


@dataclass(frozen=True)
class CurateConfig:
    """Turn a folder of raw video into clips of exactly one person, with whole-body pose and caption."""

    input: str
    """Folder of raw video: a local path, s3://bucket/folder or gs://bucket/folder."""
    output: str
    """Folder for the tables and the report; a run that was interrupted goes on where it stopped."""
    rate: float = 30.0
    """Frames a second of the finished clips; the published PoseGen weights were trained at 30."""
    shots: Literal["auto", "adaptive", "transnetv2"] = "auto"
    """Shot detector; auto takes transnetv2 where networks run on GPUs, on every machine alike."""
    poses: Literal["blazepose", "dwpose", "sapiens"] = "blazepose"
    """Pose estimator; blazepose needs no GPU and no download but a PyPI wheel."""
    pose_weights: str | None = None
    """File, folder, URI or hub name of the estimator's weights (dwpose, sapiens)."""
    person_detector: str | None = None
    """YOLOX model (ONNX file, folder, URI or hub name) that counts people; more reliable than the built-in evidence."""
    explicit_detector: str | None = None
    """Detector of explicit content (ONNX file, folder, URI or hub name) of your own, in the form that
    pipeline/score/explicit.py describes; without one it is not measured, and its threshold not applied."""
    embedder: str | None = None
    """CLIP vision model (a folder that all nodes read, or a hub name) that gives each clip an embedding, by which clips
    that show the same are found: the folder image_encoder of Wan2.1-I2V-14B, or openai/clip-vit-large-patch14."""
    aesthetics: str | None = None
    """Head (.pth or .safetensors; file, folder, URI or hub name) that scores these embeddings, as LAION's predictor
    does those of openai/clip-vit-large-patch14; a rule in the thresholds makes use of it."""
    captioner: str = COMPOSED
    """'composed' from what was measured, or a Qwen2.5-VL folder or hub name such as Qwen/Qwen2.5-VL-7B-Instruct."""
    caption_engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model: vllm is faster on GPUs and takes newer models, and asks for the packages of ray[llm]."""
    caption_prompt: str = QUESTION
    """What the model is asked about the frames of a clip."""
    caption_tokens: int = 96
    """Longest answer of the model, in tokens."""
    captions: str | None = None
    """Parquet or CSV file with captions of your own, columns path and caption; they win over every model's, as do text
    files beside the videos, walk.txt beside walk.mp4."""
    trigger: str | None = None
    """A word in front of every caption, by which a training is told from others."""
    thresholds: Path = DEFAULT_THRESHOLDS
    """YAML of what a clip must score to be kept: the rules that differ from pipeline/thresholds.yaml."""
    workers: int | None = None
    """Processes that measure; by default one for each CPU of the cluster."""
    gpu_share: float = 0.0
    """Share of a GPU for each process that runs networks on GPUs (dwpose, sapiens, detectors, transnetv2, embedder);
    those that measure send them batches."""
    retry_failed: bool = False
    """Try clips and videos again that failed in an earlier run."""
    people: Literal["one", "crop"] = "one"
    """Keep clips of one person alone, or also make a clip of each of two or three who can be cropped out alone."""
    tilted: Literal["reject", "turn"] = "reject"
    """Reject clips of someone filmed sideways or upside down, or turn them by 90, 180 or 270 degrees so that the person
    is upright; someone who lies is turned too."""
    limit: int | None = None
    """Only so many of the files, whichever are found first: for a try of the settings. The tables cover these alone."""
    dry_run: bool = False
    """Only list the files, and say what curating them would take."""
    rescore: bool = False
    """Only apply the thresholds to the scores already stored; no video is opened but to cut out newly kept clips."""

    @property
    def gpus_per_worker(self) -> float:
        """A process that measures has no GPU of its own."""
        return 0.0

    @property
    def detector(self) -> str:
        """The shot detector of the whole run."""
        if self.shots == "auto":
            return "transnetv2" if self.gpu_share > 0 else "adaptive"
        return self.shots

    @property
    def plan_version(self) -> str:
        """Names the settings that a plan depends on."""
        return content_id("plan", 2, self.rate, self.detector)

    @property
    def crop_version(self) -> str:
        """Names the settings that crops depend on."""
        return content_id("crop", 1, self.poses, self.pose_weights, self.person_detector)

    @property
    def score_version(self) -> str:
        """Names the settings that scores depend on, so that no run takes over scores of another estimator."""
        return content_id(
            *("score", 6, self.poses, self.pose_weights, self.person_detector),
            *(self.explicit_detector, self.tilted),
            # Left out where there is none, so that older records stay valid.
            *((self.embedder, self.aesthetics) if self.embedder else ()),
        )
