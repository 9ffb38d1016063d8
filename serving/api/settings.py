"""The endpoint's settings: who may call, how much each caller may send and ask for, which model answers.

Tokens are kept as hashes, so whoever reads the settings cannot call. Without tokens only this machine is answered,
unless the server is declared open.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """A caller: their name, the SHA-256 of their bearer token in hexadecimal digits, how many unfinished jobs they may
    have (None for no limit of their own), and the secret that signs their webhooks (`whsec_` and base64)."""

    name: str
    sha256: str
    jobs: int | None = None
    webhook_secret: str | None = None


@dataclass(frozen=True)
class Model:
    """The model as its clients see it: its name; its videos' size (width, height) in pixels unless another is asked
    for, multiples of `unit`; its rate in frames/s; its steps unless others are asked for; its blocks; how many GPUs
    share a video's frames, which have a multiple of so many squares of `unit`."""

    name: str = "posegen"
    size: tuple[int, int] = (720, 1280)
    unit: int = 16
    rate: float = 30.0
    steps: int = 25
    blocks: int = 40
    shared_by: int = 1


@dataclass(frozen=True)
class ApiSettings:
    """How the endpoint is set up.

    open: whether callers from elsewhere are answered though there are no tokens. webhook_secret: signs the webhooks of
    callers without a token. webhook_hosts: hosts (HOST or HOST:PORT) that may be called by http and at private
    addresses; all others need https and a public address. upload_bytes: of one request. field_bytes: of one of its
    fields that is no file. pixels: of a picture sent or asked for. seconds: of a video. steps: most that may be asked
    for. inspections: how many uploads are inspected at once. disks: folders on the disks that must have free_bytes, or
    no work can be done. poll: seconds between polls, advised to clients. refresh: seconds between looks into the
    database for a stream of events.
    """

    model: Model = Model()
    tokens: tuple[Token, ...] = ()
    open: bool = False
    webhook_secret: str | None = None
    webhook_hosts: tuple[str, ...] = ()
    upload_bytes: int = 512 * 2**20
    field_bytes: int = 32 * 2**20
    pixels: int = 2**25
    seconds: float = 600.0
    steps: int = 100
    inspections: int = 2
    disks: tuple[str, ...] = (tempfile.gettempdir(),)
    free_bytes: int = 2**30
    poll: float = 1.0
    refresh: float = 1.0
