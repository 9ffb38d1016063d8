"""What clients may send and ask for: everything else gets a 4xx with a sentence, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load

from posegen.dataset import pack_keypoints
from serving.api.errors import ApiError
from serving.api.guard import bounded
from serving.uploads import uploads
from serving.uploads.inspection import UploadLimits
from testkit.api_server import Site, movie, picture, post, refusal, sent
from testkit.videos import cut_short, numbered_picture, write_sound, write_video


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(
        tmp_path_factory.mktemp("site"),
        upload_bytes=2**20,
        field_bytes=2**19,
        pixels=2**20,
        seconds=2.0,
        video_seconds=2.0,
    )


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    before = site.artifacts.folders()
    yield site.client()
    assert site.artifacts.folders() == before, "files of a refused request were left"


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and which holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def gif() -> bytes:
    file = io.BytesIO()
    Image.fromarray(numbered_picture(1)).save(file, "GIF")
    return file.getvalue()


SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>"

PICTURES = {
    "empty": (b"", "cannot be read as a picture"),
    "text": (b"no picture " * 100, "cannot be read as a picture"),
    "svg": (SVG, "cannot be read as a picture"),
    "gif": (gif(), "cannot be read as a picture"),
    "video": (movie(30), "cannot be read as a picture"),
    "truncated": (picture()[:200], "cannot be read as a picture"),
    "zip bomb": (png(60000, 60000), "60000x60000; send at most 1048576 pixels"),
    "one row": (png(20000, 1), "send sides of 16 pixels or more"),
    "a ribbon": (png(2000, 100), "the longer at most 4 times the shorter"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_none_are_refused(client: TestClient, name: str) -> None:
    content, why = PICTURES[name]
    sentence = refusal(post(client, sent(input_reference=("person.png", content))), 400)
    assert sentence.startswith("input_reference: ") and why in sentence


def videos(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Videos that cannot be taken, and why."""
    whole = folder / "whole.mp4"
    whole.write_bytes(movie(60))
    front = cut_short(whole, folder / "front.mp4", 0.8)
    back = cut_short(write_video(folder / "late.mp4"), folder / "back.mp4", 0.6)
    long = write_video(folder / "long.mp4", range(0, 30 * 4, 3))
    gap = write_video(folder / "gap.mp4", [*range(20), *range(900, 920)])
    wide = write_video(folder / "wide.mp4", range(2), picture=lambda number: np.zeros((64, 512, 3), np.uint8))
    return {
        "empty": (b"", "no MP4"),
        "text": (b"no video " * 100, "no MP4"),
        "gif": (gif(), "no MP4"),
        "picture": (picture(), "no MP4"),
        "renamed text": (b"\0\0\0\x18ftypisom" + b"text " * 100, "cannot be opened as video"),
        "sound": (write_sound(folder / "sound.mp4").read_bytes(), "holds audio but no readable video"),
        "cut in front": (front.read_bytes(), "cut short"),
        "cut at the back": (back.read_bytes(), "export it again"),
        "too long": (long.read_bytes(), "send at most 2 s"),
        "a gap": (gap.read_bytes(), "no pictures from 0.7 s to 30.0 s"),
        "a ribbon": (wide.read_bytes(), "the longer at most 4 times the shorter"),
    }


def test_videos_that_are_none_are_refused(client: TestClient, tmp_path: Path) -> None:
    for name, (content, why) in videos(tmp_path).items():
        sentence = refusal(post(client, sent(driving_video=("dance.mp4", content))), 400)
        assert sentence.startswith("driving_video: ") and why in sentence, name


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


POSES = np.random.default_rng(0).uniform(0, 1, (5, 133, 3)).astype(np.float32)
PACKED = {name: [value] for name, value in pack_keypoints(POSES).items()}

BAD_POSES = {
    "empty": (b"", "no JSON array"),
    "text": (b"poses", "no JSON array"),
    "pickle": (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x07os.name\x94.", "no JSON array"),
    "an object": (b'{"keypoints": []}', "no JSON array"),
    "a number": (b"5", "no JSON array"),
    "nothing": (b"[]", "the shape [0]"),
    "ragged": (b"[[1], [1, 2]]", "no JSON array"),
    "deep": (b"[" * 100_000, "no JSON array"),
    "another shape": (json.dumps(POSES[:, :17].tolist()).encode(), "the shape [5, 17, 3]"),
    "nobody": (b"[null, null]", "no frame shows a person"),
    "half a person": (json.dumps((POSES * [np.nan, 1, 1]).tolist()).encode(), "a coordinate is no number"),
    "infinite": (json.dumps((POSES * [np.inf, 1, 1]).tolist()).encode(), "a coordinate is no number"),
    "sure beyond 1": (json.dumps((POSES + 1).tolist()).encode(), "a confidence is no number"),
    "too many": (json.dumps([None] * 61).encode(), "send at most 60"),
    "cut Parquet": (b"PAR1" + b"\0" * 100, "no Parquet file"),
    "other columns": (parquet(a=[1]), "no Parquet file with the columns"),
    "two rows": (parquet(**{name: 2 * value for name, value in PACKED.items()}), "2 rows"),
    "other bytes": (parquet(keypoints=[b"12"], keypoints_shape=[[1, 133, 3]]), "no Parquet file"),
}


@pytest.mark.parametrize("name", BAD_POSES)
def test_poses_that_are_none_are_refused(client: TestClient, name: str) -> None:
    content, why = BAD_POSES[name]
    sentence = refusal(post(client, sent(driving_video=None, poses=("poses", content))), 400)
    assert sentence.startswith("poses: ") and why in sentence


@pytest.mark.parametrize("form", ["json", "parquet", "field"])
def test_poses_are_kept_in_one_form(site: Site, form: str) -> None:
    gap = [*POSES.tolist()[:2], None, *POSES.tolist()[2:]]
    if form == "field":
        answer = post(site.client(), sent(driving_video=None), poses=json.dumps(gap))
    else:
        content = json.dumps(gap).encode() if form == "json" else parquet(**PACKED)
        answer = post(site.client(), sent(driving_video=None, poses=("poses", content)))
    job_id = answer.json()["id"]
    kept = load(site.artifacts.read(uploads.upload_artifact(job_id, "poses")))["keypoints"]
    expected = POSES if form == "parquet" else np.insert(POSES, 2, np.nan, axis=0)
    np.testing.assert_array_equal(kept, expected)
    assert float(answer.json()["seconds"]) == pytest.approx(len(expected) / 30, abs=1e-3)


FIELDS = {
    "no picture": (sent(input_reference=None), {}, "input_reference: is missing"),
    "no movement": (sent(driving_video=None), {}, "either driving_video or poses"),
    "two movements": (sent(poses=("poses.json", b"[]")), {}, "either driving_video or poses"),
    "a misspelt option": (None, {"sead": "1"}, "sead: there is no such parameter"),
    "no number": (None, {"seed": "one"}, "seed: "),
    "seed too large": (None, {"seed": str(2**53)}, "seed: "),
    "no steps": (None, {"steps": "0"}, "steps: "),
    "too many steps": (None, {"steps": "101"}, "steps: ask for at most 100"),
    "not a number": (None, {"guidance_scale": "nan"}, "guidance_scale: "),
    "endless": (None, {"seconds": "inf"}, "seconds: "),
    "too long": (None, {"seconds": "3"}, "seconds: ask for at most 2"),
    "no size": (None, {"size": "64"}, "size: "),
    "size between": (None, {"size": "70x96"}, "multiples of 16"),
    "too large": (None, {"size": "2048x2048"}, "more than 1048576 pixels"),
    "another model": (None, {"model": "sora-2"}, "has only 'mini'"),
    "a NUL": (None, {"prompt": "a\0b"}, "prompt: holds a NUL"),
    "a long prompt": (None, {"prompt": "a" * 4001}, "prompt: "),
    "size of no poses": (None, {"poses_size": "64x64"}, "poses_size goes with poses"),
    "another framing": (None, {"framing": "far"}, "framing: "),
    "steps that are not": (None, {"framing": "0:26,34:40"}, "framing: steps 0:26 and blocks 34:40 cannot be"),
    "another fit": (None, {"fit": "stretch"}, "fit: "),
    "no data URL": (sent(driving_video=None), {"driving_video": "https://a.example/b.mp4"}, "a data URL"),
    "broken data URL": (sent(driving_video=None), {"driving_video": "data:video/mp4;base64,!"}, "a data URL"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_what_cannot_be_made_is_refused(client: TestClient, name: str) -> None:
    files, fields, why = FIELDS[name]
    assert why in refusal(post(client, files, **fields), 400)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data", b"no boundary", 400),
        ("multipart/form-data; boundary=a", b"--a\r\nno part", 400),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\n\r\n--a--", 400),
        ("multipart/form-data; boundary=" + "a" * 1000, b"x", 400),
        ("application/json", b'{"prompt": "a dancer"}', 415),
        ("application/x-www-form-urlencoded", b"prompt=%zz", 415),
        ("text/plain", b"\xff\xfe", 415),
    ],
)
def test_bodies_that_are_no_form_are_refused(client: TestClient, kind: str, body: bytes, status: int) -> None:
    refusal(client.post("/v1/videos", content=body, headers={"Content-Type": kind}), status)


def test_only_forms_may_be_large(site: Site, client: TestClient) -> None:
    url = f"/v1/videos/{site.job()}/segments/0/regenerate"
    assert "more than 65536 bytes" in refusal(client.post(url, content=b" " * 65537), 413)


def test_a_request_is_read_up_to_its_limit_whatever_it_says(client: TestClient) -> None:
    def body() -> Iterator[bytes]:
        yield b'--a\r\nContent-Disposition: form-data; name="driving_video"; filename="a"\r\n\r\n'
        for _ in range(17):
            yield b"a" * 2**16

    form = "multipart/form-data; boundary=a"
    for said in ({}, {"Content-Length": "100"}):
        answer = client.post("/v1/videos", content=body(), headers={"Content-Type": form, **said})
        assert "more than 1048576 bytes" in refusal(answer, 413)
    field = "data:video/mp4;base64," + "a" * 2**19
    refusal(post(client, sent(driving_video=None), driving_video=field), 400)


def test_no_more_is_read_than_the_limit() -> None:
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 10
        return {"type": "http.request", "body": b"a" * 10, "more_body": True}

    async def drain() -> None:
        limited = bounded(receive, 95)
        while True:
            await limited()

    with pytest.raises(ApiError, match="more than 95 bytes"):
        asyncio.run(drain())
    assert read == 100


def test_names_that_clients_give_are_never_used(site: Site) -> None:
    answer = post(site.client(), sent(input_reference=("../../../etc/passwd", picture())))
    job_id = answer.json()["id"]
    assert site.artifacts.read(uploads.upload_artifact(job_id, "input_reference")) == picture()


def test_what_an_upload_holds_is_part_of_the_request(site: Site) -> None:
    job = site.database.jobs.get(post(site.client(), size="96x64", seconds=0.5).json()["id"])
    assert (
        job.request["uploads"]["driving_video"].items()
        >= {"width": 160, "height": 96, "seconds": 1.0}.items()
    )
    assert job.request["size"] == "96x64" and job.request["steps"] == 4 and job.request["seconds"] == 0.5
    assert site.client().get(f"/v1/videos/{job.id}").json()["seconds"] == "0.5"


LIMITS = UploadLimits(pixels=2**20, seconds=2.0, pose_frames=60)


@pytest.mark.parametrize(
    ("name", "content", "limits"),
    [
        ("input_reference", png(8192, 8192), UploadLimits(2**27, 2.0, 60, memory=2**20)),
        ("poses", json.dumps(POSES.tolist()).encode(), UploadLimits(2**20, 2.0, 60, written=2)),
    ],
    ids=["memory", "disk"],
)
def test_a_file_that_takes_too_much_is_refused_and_the_next_is_read(
    tmp_path: Path, name: str, content: bytes, limits: UploadLimits
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(uploads.UploadError, match=f"{name}: it takes too much"):
        uploads.inspect({name: path}, limits)
    path.write_bytes(picture())
    assert uploads.inspect({"input_reference": path}, LIMITS) == {
        "input_reference": {"width": 160, "height": 96}
    }


def test_an_inspection_that_hangs_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "poses"
    os.mkfifo(path)
    with pytest.raises(uploads.UploadError, match="too much time"):
        uploads.inspect({"poses": path}, UploadLimits(2**20, 2.0, 60, time=1))


def test_a_client_who_leaves_leaves_a_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve cancels what answers a client who is gone; a worker must still never meet a job without its files."""
    site = Site(tmp_path)
    arrived, go, create = threading.Event(), threading.Event(), site.database.jobs.create

    def create_slowly(*arguments: Any) -> Any:
        arrived.set()
        assert go.wait(timeout=300)
        return create(*arguments)

    monkeypatch.setattr(site.database.jobs, "create", create_slowly)

    async def leave() -> None:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(site.app, client=("127.0.0.1", 5)), base_url="http://127.0.0.1"
        ) as client:
            answer = asyncio.create_task(client.post("/v1/videos", files=sent(), timeout=300))
            while not arrived.is_set():
                await asyncio.sleep(0.01)
            answer.cancel()
            await asyncio.wait([answer], timeout=1)
            go.set()
            while not site.database.jobs.page():
                await asyncio.sleep(0.01)

    asyncio.run(leave())
    (job,) = site.database.jobs.page()
    assert all(
        site.artifacts.exists(uploads.upload_artifact(job.id, name)) for name in job.request["uploads"]
    )


def test_an_inspecting_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "person.png"
    path.write_bytes(picture())
    uploads.inspect({"input_reference": path}, LIMITS)
    idle = uploads._idle.get_nowait()
    idle.kill()
    idle.wait()
    uploads._idle.put(idle)
    assert uploads.inspect({"input_reference": path}, LIMITS)["input_reference"]["width"] == 160
