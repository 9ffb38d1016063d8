"""The endpoint's settings: who may call, how much each caller may send and ask for, which model answers.

Tokens are kept as hashes, so whoever reads the settings cannot call. Without tokens only this machine is answered,
unless the server is declared open. What could only fail at a later request is checked when the settings are made; they
raise ValueError, a sentence.
"""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from dataclasses import dataclass

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 24, 64
"""Least and most of a webhook's key, as Standard Webhooks asks."""


def secret_key(secret: str) -> bytes:
    """The key of a webhook secret; ValueError, a sentence, for what is none."""
    least, most = SECRET_BYTES
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not least <= len(key) <= most:
        raise ValueError(
            f"webhook_secret: it is not {SECRET_PREFIX} and {least} to {most} bytes in base64 with its padding; make "
            f"one by: echo {SECRET_PREFIX}$(openssl rand -base64 32)"
        )
    return key


@dataclass(frozen=True)
class Token:
    """A caller: their name, the SHA-256 of their bearer token in hexadecimal digits, how many unfinished jobs they may
    have (None for no limit of their own), and the secret that signs their webhooks (`whsec_` and base64)."""

    name: str
    sha256: str
    jobs: int | None = None
    webhook_secret: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise ValueError(
                f"sha256: that of {self.name!r} is not 64 hexadecimal digits; make it by: printf %s TOKEN | sha256sum"
            )
        if self.webhook_secret is not None:
            secret_key(self.webhook_secret)


@dataclass(frozen=True)
class Model:
    """The model as its clients see it: its name; its videos' size (width, height) in pixels unless another is asked
    for, multiples of `unit`; its rate in frames/s; its steps unless others are asked for; its blocks; how many GPUs
    share a video's frames, which have a multiple of so many squares of `unit`; what it can do, in a sentence or two;
    the LoRAs that may be asked for; whether it takes hand videos."""

    name: str = "posegen"
    size: tuple[int, int] = (720, 1280)
    unit: int = 16
    rate: float = 30.0
    steps: int = 25
    blocks: int = 40
    shared_by: int = 1
    summary: str = ""
    loras: tuple[str, ...] = ()
    hands: bool = False


@dataclass(frozen=True)
class ApiSettings:
    """How the endpoint is set up.

    open: whether callers from elsewhere are answered though there are no tokens. webhook_secret: signs the webhooks of
    callers without a token. origins: SCHEME://HOST[:PORT] of sites whose pages may call, beside the server's own.
    webhook_hosts: hosts (HOST or HOST:PORT) that may be called by http and at private addresses; all others need https
    and a public address. upload_bytes: of one request. field_bytes: of one of its fields that is no file. pixels,
    seconds: of a picture or a video sent. video_pixels, video_seconds, steps: most that may be asked for. inspections:
    how many uploads are inspected at once. disks: folders on the disks that must have free_bytes, or no video is taken.
    poll: seconds between polls that are advised to clients at first, see `Server.pause`. refresh: seconds between looks
    into the database for a stream of events.
    """

    model: Model = Model()
    tokens: tuple[Token, ...] = ()
    open: bool = False
    webhook_secret: str | None = None
    origins: tuple[str, ...] = ()
    webhook_hosts: tuple[str, ...] = ()
    upload_bytes: int = 512 * 2**20
    field_bytes: int = 32 * 2**20
    pixels: int = 2**25
    seconds: float = 600.0
    video_pixels: int = 2**20
    video_seconds: float = 600.0
    steps: int = 100
    inspections: int = 2
    disks: tuple[str, ...] = (tempfile.gettempdir(),)
    free_bytes: int = 2**30
    poll: float = 1.0
    refresh: float = 1.0

    def __post_init__(self) -> None:
        if self.webhook_secret is not None:
            secret_key(self.webhook_secret)
        for origin in self.origins:
            if not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?", origin):
                raise ValueError(
                    f"origins: {origin!r} is not as browsers name a site; give SCHEME://HOST[:PORT] in small letters"
                )
