"""What the storage refuses is asked for again, and what stays refused is no property of a file."""

from __future__ import annotations

import errno

import pytest

from posegen.common import faults
from posegen.common.faults import StorageFaultError, is_fault, patiently

OF_THE_STORAGE = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(
        "When reading 'a.mp4': AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."
    ),
    OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."),
    OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation"),
    OSError(
        "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7, Couldn't connect to server"
    ),
    OSError(
        "AWS Error UNKNOWN: Unable to parse ExceptionName: ExpiredToken Message: The provided token has expired."
    ),
    StorageFaultError("told before"),
]
OF_A_FILE = [
    FileNotFoundError(errno.ENOENT, "No such file"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError("AWS Error ACCESS_DENIED during GetObject operation"),
    IsADirectoryError(errno.EISDIR, "Is a directory"),
    ValueError("SLOW_DOWN in the name of a file"),
]


@pytest.mark.parametrize("error", OF_THE_STORAGE, ids=str)
def test_what_the_storage_refuses_is_a_fault(error: Exception):
    assert is_fault(error)


@pytest.mark.parametrize("error", OF_A_FILE, ids=str)
def test_what_a_file_lacks_is_none(error: Exception):
    assert not is_fault(error)


class Refusing:
    """Refuses the first calls."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.left:
            raise self.error
        return "answer"


def test_a_fault_is_tried_again_until_it_is_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "PAUSES", (0.0, 0.0))
    call = Refusing(2, OF_THE_STORAGE[0])
    assert patiently(call) == "answer" and call.calls == 3


def test_a_fault_that_stays_is_said_as_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "PAUSES", (0.0, 0.0))
    with pytest.raises(StorageFaultError, match="No space left"):
        patiently(Refusing(3, OF_THE_STORAGE[0]))


def test_another_error_is_not_tried_again():
    call = Refusing(1, OF_A_FILE[0])
    with pytest.raises(FileNotFoundError):
        patiently(call)
    assert call.calls == 1
