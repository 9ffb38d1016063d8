"""What a curation would take is said before it runs, from a few files' lengths."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import CurateConfig
from pipeline.curate import refused, run
from pipeline.estimate import CLIP_SECONDS, EMBED_CPU, duration, estimate, length_of, size
from pipeline.feeds import LISTED_KEYS, listed_videos
from pipeline.plan.listing import list_videos
from pipeline.workers import SetupError
from posegen.common.faults import StorageFaultError
from posegen.common.storage import Folder
from testkit.videos import write_video


@pytest.fixture
def config(tmp_path: Path) -> CurateConfig:
    """Three videos, of 9 s in all, and a file that is none."""
    (tmp_path / "videos").mkdir()
    for number, frames in enumerate((60, 90, 120)):
        write_video(tmp_path / "videos" / f"{number}.mp4", range(frames))
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    return CurateConfig(str(tmp_path / "videos"), str(tmp_path / "dataset"))


def test_the_length_is_known_from_heads(config: CurateConfig):
    folder = Folder(config.input)
    assert duration(folder, "0.mp4") == pytest.approx(2, abs=0.05) and duration(folder, "text.mp4") is None
    list_videos(config)
    assert length_of(config, listed_videos(config)) == pytest.approx(9, rel=0.05)


def test_a_dry_run_says_what_it_would_take_and_measures_nothing(
    config: CurateConfig, capsys: pytest.CaptureFixture[str]
):
    dry = CurateConfig(config.input, config.output, dry_run=True, captioner="a model", gpu_share=0.5)
    assert run(dry) == {}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 files, ") and "about 0.0 hours" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["plan", "score", "cut", "caption", "write"]
    assert [path.name for path in Path(config.output).rglob("*") if path.is_file()] == ["000000.parquet"]


def test_embedding_takes_time(config: CurateConfig):
    # By the one file that can be read, all last an hour.
    rows = {"path": ["0.mp4", "text.mp4"], "key": ["a", "b"], "bytes": [1, 1799]}
    listed = pa.table(rows, LISTED_KEYS)
    texts = [estimate(how, listed) for how in (config, dataclasses.replace(config, embedder="a/model"))]
    plain, embedding = (float(text.splitlines()[3].split()[1]) for text in texts)
    assert embedding - plain == pytest.approx(EMBED_CPU / CLIP_SECONDS, abs=0.1)


def test_a_limit_takes_so_many_files(config: CurateConfig):
    limited = CurateConfig(config.input, config.output, limit=2)
    list_videos(limited)
    assert listed_videos(limited).num_rows == 2
    with pytest.raises(SetupError, match="--limit 0 leaves nothing to do"):
        run(CurateConfig(config.input, config.output, limit=0))


def test_sizes_are_said_as_people_do():
    assert [size(count) for count in (12, 1500, 2.5e12)] == ["12 B", "1.5 kB", "2.5 TB"]


def test_a_storage_that_refuses_too_much_stops_the_job():
    refused({}, 0)
    refused({"a.mp4": "SlowDown"}, 20)
    with pytest.raises(
        StorageFaultError, match=r"refused 2 of 20 videos, such as a.mp4 \(SlowDown\).*run the job again"
    ):
        refused({"a.mp4": "SlowDown", "b.mp4": "SlowDown"}, 20)
