"""A folder is a folder, on a disk or in a bucket, and a file in it is whole or not there."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posegen.common.storage import Folder, StorageError, absolute

NUMBERS = pa.table({"number": [1, 2, 3], "name": ["one", "two", "three"]})
MEGABYTES = 256


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(str(tmp_path / "folder"))
    return Folder(f"{request.getfixturevalue('bucket')}/some folder/within".replace(" ", "%20"))


def test_what_is_written_is_there(folder: Folder):
    assert not folder.exists()
    folder.write("deep/in/it.txt", b"text")
    assert folder.read("deep/in/it.txt") == b"text"
    assert folder.exists() and folder.exists("deep/in") and folder.exists("deep/in/it.txt")
    assert not folder.exists("deep/in/other.txt")
    assert folder.names("deep/in") == ["it.txt"]


def test_writing_again_replaces(folder: Folder):
    folder.write("it.txt", b"a longer text")
    folder.write("it.txt", b"text")
    assert folder.read("it.txt") == b"text"


def test_names_are_of_files_and_sorted(folder: Folder):
    for name in ("b.txt", "a.txt", "below/c.txt"):
        folder.write(name, b"")
    assert folder.names() == ["a.txt", "b.txt"]
    assert folder.names("nowhere") == []


def test_folders_are_deleted_with_what_is_in_them(folder: Folder):
    assert folder.folders() == []
    for name in ("b/1.txt", "a/1.txt", "a/deep/2.txt", "file.txt"):
        folder.write(name, b"")
    assert folder.folders() == ["a", "b"]
    folder.delete_folder("a")
    folder.delete_folder("a")
    assert folder.folders() == ["b"] and folder.names() == ["file.txt"]


def test_walk_finds_every_file_with_its_size(folder: Folder):
    files = {"a.mp4": b"1", "below/b c.mp4": b"22", "below/deep/ü.mp4": b"333"}
    for name, content in files.items():
        folder.write(name, content)
    found = list(folder.walk())
    assert {name: size for name, size, _ in found} == {name: len(content) for name, content in files.items()}
    assert all(changed > 1_600_000_000 * 10**9 for _, _, changed in found)


def test_tables_come_back_whole_or_by_column(folder: Folder):
    folder.write_table("numbers/part=1.parquet", NUMBERS, row_group_size=2)
    assert folder.read_table("numbers/part=1.parquet").equals(NUMBERS)
    assert folder.read_table("numbers/part=1.parquet", ["name"]).column_names == ["name"]


def test_a_missing_file_is_not_found(folder: Folder):
    with pytest.raises(FileNotFoundError):
        folder.read("it.txt")
    with pytest.raises(FileNotFoundError):
        folder.open("it.txt")
    with pytest.raises(FileNotFoundError), folder.local_copy("it.txt") as path:
        path.read_bytes()


def test_a_part_of_a_file_is_read(folder: Folder):
    folder.write("it.txt", b"second")
    with folder.open("it.txt") as stream:
        stream.seek(3)
        assert (stream.size(), stream.read()) == (6, b"ond")


def test_a_local_file_is_copied(folder: Folder, tmp_path: Path):
    (tmp_path / "it.bin").write_bytes(bytes(3 << 20))
    folder.save("below/it.bin", tmp_path / "it.bin")
    assert folder.read("below/it.bin") == bytes(3 << 20)


def test_what_ends_in_an_error_is_not_there(folder: Folder, tmp_path: Path):
    with pytest.raises(IsADirectoryError):
        folder.save("below/it.txt", tmp_path)
    with pytest.raises(RuntimeError), folder.sink("below/it.txt") as stream:
        stream.write(b"half")
        raise RuntimeError
    assert not folder.exists("below/it.txt")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_delete_takes_one_file(folder: Folder):
    folder.write("a.txt", b"")
    folder.write("b.txt", b"")
    folder.delete("a.txt")
    assert folder.names() == ["b.txt"]


def test_a_local_copy_is_there_for_as_long_as_it_is_needed(folder: Folder):
    folder.write("below/clip.mp4", b"frames")
    with folder.local_copy("below/clip.mp4") as path:
        assert path.read_bytes() == b"frames"
        assert path.name == "clip.mp4"
    assert folder.read("below/clip.mp4") == b"frames"
    assert path.exists() == folder.local


def test_it_travels_to_other_processes(folder: Folder):
    pickle.loads(pickle.dumps(folder)).write("it.txt", b"text")
    assert folder.read("it.txt") == b"text"


def test_a_uri_may_carry_options(bucket: str, s3_address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    address = s3_address.removeprefix("http://")
    uri = f"{bucket}/data?scheme=http&endpoint_override={address}"
    Folder(uri, "work").write("it.txt", b"text")
    assert Folder(uri).read("work/it.txt") == b"text"


def test_a_local_folder_has_any_name_and_may_be_a_uri(tmp_path: Path):
    odd = tmp_path / "50% of #1? ü&b"
    Folder(str(odd)).write("below/it.txt", b"text")
    assert (odd / "below" / "it.txt").read_bytes() == b"text"
    folder = Folder(f"file://{tmp_path}/folder")
    folder.write("below/it.txt", b"text")
    assert folder.local and Folder(str(tmp_path / "folder")).read("below/it.txt") == b"text"


def test_a_local_path_means_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("below") == str(tmp_path / "below")
    assert absolute("s3://bucket/below") == "s3://bucket/below"


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "below/../../a", "..", ""])
def test_names_stay_inside(tmp_path: Path, name: str):
    folder = Folder(str(tmp_path))
    for use in (folder.read, folder.delete, folder.delete_folder, lambda name: folder.write(name, b"")):
        with pytest.raises(ValueError, match="relative path"):
            use(name)


@pytest.mark.parametrize("uri", ["ftp://host/folder", "s3:///folder", "nonsense://bucket"])
def test_a_uri_that_opens_nothing_is_named(uri: str):
    with pytest.raises(StorageError, match=f"^{uri} is no folder that can be opened"):
        Folder(uri)


WRITER = f"""
import sys
from posegen.common.storage import Folder
Folder(sys.argv[1]).write("file", b"x" * ({MEGABYTES} << 20))
"""


def killed_while_writing(target: Path) -> bool:
    """Starts a writer and kills it once its file grows; False where it was quicker."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
    while writer.poll() is None and not list(target.glob(".*.part")):
        pass
    writer.kill()
    return writer.wait() == -signal.SIGKILL and bool(list(target.glob(".*.part")))


@pytest.mark.parametrize("before", [None, b"as it was"])
def test_a_writer_killed_in_the_middle_leaves_what_was_there(tmp_path: Path, before: bytes | None):
    for attempt in range(10):
        folder = Folder(str(tmp_path), str(attempt))
        folder.write("beside", b"")
        if before is not None:
            folder.write("file", before)
        if killed_while_writing(tmp_path / str(attempt)):
            break
    (part,) = (tmp_path / str(attempt)).glob(".*.part")
    assert part.stat().st_size < MEGABYTES << 20
    assert folder.names() == ["beside"] + ["file"] * (before is not None)
    assert before is None or folder.read("file") == before


def test_what_a_killed_writer_left_hides_from_readers(tmp_path: Path):
    folder = Folder(str(tmp_path))
    folder.write_table("numbers.parquet", NUMBERS)
    (tmp_path / ".numbers.parquet.77.part").write_bytes(b"half a table")
    assert folder.names() == ["numbers.parquet"]
    assert pq.read_table(tmp_path).equals(NUMBERS)
