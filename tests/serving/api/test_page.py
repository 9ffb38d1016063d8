"""The page as its visitors see it: a real browser, a real server, real worker loops.

Only the model is stood in for: segments are the sample's pictures with two colours changed over, handed in step by
step as a test allows. Screenshots are left in build/screens.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from posegen.longvideo.segments import plan
from posegen.video import probe, read_frames
from posegen.video.pictures import jpeg
from serving.api.page import FOLDER
from serving.api.settings import Model, Token
from serving.state.artifacts import preview_artifact
from serving.state.rows import Claim, JobPlan, Role
from serving.work.loop import Beat, Work, Worker
from serving.work.stitch import Stitch
from testkit import ROOT
from testkit.api_server import Site

pytestmark = pytest.mark.slow

SCREENS = ROOT / "build/screens"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 780}
RATE, STEPS, SEGMENTS = 12.0, 4, 9
PATIENCE = 30_000  # milliseconds, for a machine that has much else to do
POLL = 0.02
GROWING = "[...Array(player.buffered.length).keys()].some(at => player.buffered.end(at) > 0.9 && player.duration == 7)"
GROWING = f"(player => {GROWING})(document.querySelector('#result video'))"
NAME = "el => el.getAttribute('aria-label') ?? (el.labels?.[0] ?? el).textContent"
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
    """A site with workers that do as many steps as they are allowed; a preparation counts as one."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        model = Model("puppets", (240, 360), 8, RATE, STEPS)
        super().__init__(folder, **{"model": model} | settings)
        (folder / "artifacts").mkdir(exist_ok=True)
        self._allowed = threading.Semaphore(0)
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
        self._turn(beat, 0, 0)
        return PLAN

    def _generate(self, claim: Claim, beat: Beat) -> None:
        for step in range(STEPS):
            self._turn(beat, step, STEPS)
            preview = np.hstack([*self._frames[[0, 20, 40, 60]]])
            self.artifacts.write(preview_artifact(claim.job.id, claim.task.index), jpeg(preview, 192))
            beat(step + 1, STEPS)
        if claim.records:
            self.database.queue.publish_record_step(claim, "a store", PLAN.shared_steps)
        self.artifacts.save_frames(
            claim.task.artifact, self._frames[TIMELINE.driving_frames(claim.task.index)]
        )


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with Studio(tmp_path) as studio:
        yield studio


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("There is no Chromium for the page's tests; install it: apt install chromium.")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


class Visit:
    """A visitor's tab; what the browser complains of and what it asks others for is kept."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._line)
        page.on("request", self._request)
        page.goto(address)

    def _line(self, line: Any) -> None:
        # That nothing more of a growing video is there yet is answered 404 or 416, which browsers count as errors.
        if line.type == "error" and "partial=true" not in line.location["url"]:
            self.complaints.append(line.text)

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


def test_a_video_from_the_samples_to_the_end_and_in_part_again(browser: Browser, studio: Studio) -> None:
    with visited(browser, studio) as tab:
        tab.see("#none", "None yet.")
        tab.screens("1-start")
        tab.ask_for("A woman in a dotted dress dances in a park.")
        tab.see("#status", "Reading the movement.")
        tab.screens("2-movement")
        studio.allow(1 + 6 * STEPS + 2)
        tab.see("#status", f"6 of {SEGMENTS} segments are made.")
        expect(tab.page.locator("#timeline [data-state=running]")).to_have_attribute(
            "aria-label", re.compile(r"is made, 2 of 4 steps"), timeout=PATIENCE
        )
        tab.until(GROWING)
        tab.see("#making", re.compile(r"Segment \d, step 2 of 4"))
        tab.until("document.querySelector('#making img').naturalWidth == 512")
        tab.screens("3-half")
        studio.allow(3 * STEPS - 2)
        tab.see("#status", "The video is finished.")
        expect(tab.page.locator("#making")).to_be_hidden(timeout=PATIENCE)
        tab.until("document.querySelector('#result video').src.endsWith('/content')")
        tab.until("document.querySelector('#result video').duration == 7")
        assert tab.page.locator("#driver video").is_visible()
        tab.page.wait_for_selector(".thumb img:not([hidden])")
        tab.screens("4-end")
        tab.page.click("#timeline [data-index='3']")
        tab.see("#segment", "seed 0, made in")
        tab.page.wait_for_timeout(300)
        tab.screens("5-segment")
        tab.page.click("text=Make anew")
        tab.see("#status", f"{SEGMENTS - 1} of {SEGMENTS} segments are made.")
        studio.allow(STEPS)
        tab.see("#status", "The video is finished.")
        tab.page.click("#delete")
        with tab.page.expect_response(lambda answer: answer.request.method == "DELETE"):
            tab.page.click("text=Delete it")
        tab.see("#none", "None yet.")
        assert studio.artifacts.folders() == []
        assert tab.complaints == []


def test_all_can_be_done_by_keyboard(browser: Browser, studio: Studio) -> None:
    with visited(browser, studio) as tab:
        keys = tab.page.keyboard

        def focus(text: str, steps: int = 12) -> None:
            """Tabs on to the element of that name."""
            for _ in range(steps):
                keys.press("Tab")
                if text in tab.page.eval_on_selector(":focus", NAME):
                    outline = "el => getComputedStyle(el.closest('.drop')?.querySelector('.shown') ?? el).outlineStyle"
                    assert tab.page.eval_on_selector(":focus", outline) == "solid", text
                    return
            raise AssertionError(f"{text} is not among the next {steps} places of the focus")

        focus("Skip to the video")
        focus("Token")
        focus("Picture")
        focus("Movement")
        focus("use the samples")
        keys.press("Enter")
        tab.page.wait_for_selector(".drop img:not([hidden])")
        focus("What is to be seen")
        keys.type("A dance")
        focus("Make the video")
        keys.press("Enter")
        tab.see("#stage:focus", "A dance")
        studio.allow(2)
        expect(tab.page.locator("#live")).to_have_text(
            f"0 of {SEGMENTS} segments are made.", timeout=PATIENCE
        )
        tab.page.wait_for_selector("#timeline button")
        focus("Segment 0, anchor")
        for key in ("ArrowRight", "ArrowRight", "Enter"):
            keys.press(key)
        tab.see("#segment", "Segment 2, base")
        tab.see("#segment", "Made anew with it: 1 and 3.")
        focus("Cancel")
        keys.press("Enter")
        tab.see("#ask", "Stop making this video?")
        tab.see(":focus", "Keep it")
        keys.press("Shift+Tab")
        keys.press("Enter")
        tab.see("#status", "The video was cancelled.")
        focus("Delete")
        assert tab.complaints == []


def test_what_was_sent_is_text_and_refusals_are_the_servers_sentences(
    browser: Browser, studio: Studio, tmp_path: Path
) -> None:
    with visited(browser, studio) as tab:
        tab.page.click("text=Make the video")
        tab.see("#error", "Choose a picture of the person first.")
        note = tmp_path / "note.mp4"
        note.write_text("no video")
        tab.page.set_input_files(".drop[data-kind=movement] input", note)
        tab.page.set_input_files(".drop[data-kind=picture] input", FOLDER / "samples" / "person.jpg")
        tab.page.click("text=Make the video")
        tab.see("#error", "driving_video: it is no MP4, MOV, WebM, Matroska or AVI file; export it as MP4.")
        tab.screens("6-refused")
        tab.ask_for("<img src=x onerror=alert(1)>")
        tab.see("#stage-title", "<img src=x onerror=alert(1)>")
        tab.see("#past", "<img src=x onerror=alert(1)>")
        tab.page.goto(f"{tab.address}/page/#video_{'0' * 24}")
        tab.see("#error", f"There is no video video_{'0' * 24}.")


def test_a_token_is_asked_for_and_opens_the_video(browser: Browser, tmp_path: Path) -> None:
    known = Token("ann", hashlib.sha256(b"secret").hexdigest())
    with Studio(tmp_path, tokens=(known,)) as studio, visited(browser, studio) as tab:
        tab.see("#error", "The bearer token is missing or not known")
        tab.page.fill("#token", "secret")
        tab.page.click("text=Use >> visible=true")
        tab.see("#none", "None yet.")
        studio.allow(1 + 6 * STEPS + 1)
        tab.ask_for("")
        tab.until(GROWING)
        tab.see("#making", "step 1 of 4")
        tab.until("document.querySelector('#making img').naturalWidth == 512")
        studio.allow(3 * STEPS - 1)
        tab.see("#status", "The video is finished.")
        tab.until("document.querySelector('#result video').duration == 7")
        tab.page.reload()
        tab.see("#status", "The video is finished.")
        tab.until("document.querySelector('#result video').duration == 7")
        assert tab.page.evaluate("localStorage.length") == 0


def test_pages_may_run_no_script_but_their_own(studio: Studio) -> None:
    client = studio.client()
    front = client.get("/")
    assert front.url.path == "/page/" and "<title>PoseGen</title>" in front.text
    for name in ("", "app.js", "style.css", "samples/dance.mp4"):
        answer = client.get(f"/page/{name}")
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src)", front.text)
    assert client.get("/page/../api/page.py").status_code == 404
    assert client.put("/page/app.js").status_code == 405
    assert client.get("/page/nothing").json()["error"]["message"].endswith(".")
    samples = sum(path.stat().st_size for path in (FOLDER / "samples").iterdir())
    assert samples < 300_000
