"""Faults of a storage that say nothing about a file: throttling, lost connections, expired credentials, a full disk.

Calls to a bucket are repeated with growing pauses, as its owner asks of whoever is throttled. What still fails is a
`StorageFaultError`, so that nobody takes it for a property of the file.
"""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt; each pause is drawn from between half and the whole of it."""
LONG_ENOUGH_S = 15.0
"""After which no further attempt is made: a bucket that cannot be reached takes seconds for each."""
OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS),
    *(errno.ETIMEDOUT, errno.ESTALE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
}
OF_THE_BUCKET = re.compile(
    "SLOW_?DOWN|THROTTL|REQUEST_?LIMIT|TOO_?MANY_?REQUESTS|SERVICE_?UNAVAILABLE|INTERNAL_?(FAILURE|ERROR)"
    "|REQUEST_?TIME|NETWORK_?CONNECTION|EXPIRED_?TOKEN|TOKEN_?REFRESH|INVALID_?TOKEN|INVALID_?CLIENT|INVALID_?ACCESS_?KEY"
    "|SIGNATURE_?DOES_?NOT_?MATCH|UNRECOGNIZED_?CLIENT|curlCode|HTTP status (400|401|408|429|500|502|503|504)",
    re.IGNORECASE,
)
"""What pyarrow's messages say of such answers of a bucket; 400 and 401 are what expired credentials get."""


class StorageFaultError(OSError):
    """The storage could not be used just now; the message says how. It is no fault of the file that was asked for."""


def is_fault(error: BaseException) -> bool:
    """Whether an error is the storage's or the machine's, and not the file's."""
    if isinstance(error, StorageFaultError):
        return True
    return isinstance(error, OSError) and (
        error.errno in OF_THE_MACHINE or bool(OF_THE_BUCKET.search(str(error)))
    )


def patiently(call: Callable[[], T]) -> T:
    """What the call returns; one that meets a fault is made again after a pause.

    Raises StorageFaultError where the fault stays, and at once what is no fault.
    """
    start = time.monotonic()
    for pause in (*PAUSES, None):
        try:
            return call()
        except OSError as error:
            if not is_fault(error):
                raise
            if pause is None or time.monotonic() - start > LONG_ENOUGH_S:
                raise StorageFaultError(error.errno, " ".join(str(error).split())) from error
            time.sleep(pause * random.uniform(0.5, 1.0))
    raise AssertionError("the last attempt returns or raises")
