"""What tests of the page share: a server with worker loops that make no new pictures, and a visitor's tab in a real
browser. Segments are the sample's pictures with two colours changed over, handed in step by step as a test allows.
Screenshots are left in build/screens.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect

from posegen.longvideo.segments import plan
from posegen.video import probe, read_frames
from posegen.video.pictures import jpeg
from serving.api.page import FOLDER
from serving.api.settings import Model
from serving.state.artifacts import preview_artifact
from serving.state.rows import Claim, JobPlan, Role
from serving.work.loop import Beat, Work, Worker
from serving.work.stitch import Stitch
from testkit import ROOT
from testkit.api_server import Site

SCREENS = ROOT / "build/screens"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 780}
RATE, STEPS, SEGMENTS = 12.0, 4, 9
PATIENCE = 30_000  # milliseconds, for a machine that has much else to do
POLL = 0.02
TIMELINE = plan(84, 13, 1, 4)
PLAN = JobPlan(
    frames=TIMELINE.frames,
    segment_frames=TIMELINE.segment_frames,
    head=TIMELINE.head,
    tail=TIMELINE.tail,
    anchor=TIMELINE.anchor,
    steps=STEPS,
    seed=0,
    shared_steps=1,
    record_bytes=1000,
    content_id="made-in-a-test",
)


class Studio(Site):
    """A site with workers that do as many steps as they are allowed; a preparation counts as one.

    reading: how many of how many frames a preparation tells.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        model = Model("puppets", (240, 360), 8, RATE, STEPS)
        super().__init__(folder, **{"model": model} | settings)
        (folder / "artifacts").mkdir(exist_ok=True)
        self._allowed = threading.Semaphore(0)
        self.reading = (0, 0)
        info = probe(FOLDER / "samples" / "dance.mp4")
        self._frames = np.concatenate(list(read_frames(info, range(TIMELINE.frames))))[..., ::-1]
        stitch = Stitch(self.database, self.artifacts, RATE, POLL)
        works: dict[Role, Work] = {
            Role.PREPARE: self._prepare,
            Role.GENERATE: self._generate,
            Role.STITCH: stitch,
        }
        self._workers = [Worker(role, self.database, work, 60.0, POLL) for role, work in works.items()]

    def __enter__(self) -> Studio:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.ask_to_stop()
        assert all(worker.join(PATIENCE / 1000) for worker in self._workers)

    def allow(self, steps: int) -> None:
        """Lets the workers do so many steps more."""
        self._allowed.release(steps)

    def _turn(self, beat: Beat, step: int, steps: int) -> None:
        while not self._allowed.acquire(timeout=POLL):
            beat(step, steps)

    def _prepare(self, claim: Claim, beat: Beat) -> JobPlan:
        while not self._allowed.acquire(timeout=POLL):
            beat(*self.reading)
        return PLAN

    def _generate(self, claim: Claim, beat: Beat) -> None:
        for step in range(STEPS):
            self._turn(beat, step, STEPS)
            preview = np.hstack(list(self._frames[[0, 20, 40, 60]]))
            self.artifacts.write(preview_artifact(claim.job.id, claim.task.index), jpeg(preview, 192))
            beat(step + 1, STEPS)
        if claim.records:
            self.database.queue.publish_record_step(claim, PLAN.shared_steps)
        self.artifacts.save_frames(
            claim.task.artifact, self._frames[TIMELINE.driving_frames(claim.task.index)]
        )


class Visit:
    """A visitor's tab; what the browser complains of and what it asks others for is kept."""

    def __init__(self, page: Page, address: str, place: str = "") -> None:
        """Opens a place on the site, by its path and fragment."""
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._line)
        page.on("request", self._request)
        page.goto(f"{address}{place}")

    def _line(self, line: Any) -> None:
        if line.type == "error":
            self.complaints.append(f"{line.text} ({line.location['url']})")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:")):
            self.complaints.append(f"asked for {request.url}")

    def see(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Waits until an element says so."""
        expect(self.page.locator(selector)).to_contain_text(text, timeout=PATIENCE)

    def until(self, condition: str) -> None:
        """Waits until a condition in JavaScript holds; the page's policy lets Playwright's own way not run."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(50)

    def screens(self, name: str) -> None:
        """Screenshots as on a desktop by day and on a phone by night; nothing is wider than the phone."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        for device, size, scheme in (("phone", PHONE, "dark"), ("desktop", DESKTOP, "light")):
            self.page.set_viewport_size(size)  # type: ignore[arg-type]
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            self.page.screenshot(path=SCREENS / f"{name}-{device}.png", full_page=device == "phone")
            assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

    def ask_for(self, prompt: str) -> None:
        """Asks for a video of the samples."""
        self.page.click("#samples")
        self.page.wait_for_selector(".drop video:not([hidden])")
        self.page.wait_for_selector(".drop img:not([hidden])")
        self.page.fill("#prompt", prompt)
        self.page.click("text=Make the video")

    def states(self) -> list[str]:
        """The states of the segments on the timeline."""
        return self.page.eval_on_selector_all("#timeline button", "all => all.map(one => one.dataset.state)")


@contextmanager
def visited(browser: Browser, studio: Studio) -> Iterator[Visit]:
    """A tab on the page of a studio's server; closed first, as a server that stops waits for its streams."""
    with studio.served() as address, browser.new_context(viewport=DESKTOP) as context:  # type: ignore[arg-type]
        yield Visit(context.new_page(), address)
