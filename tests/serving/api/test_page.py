"""The page as its visitors see it: a real browser, a real server, real worker loops; see testkit/page_visits.py."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from serving.api.page import FOLDER
from serving.api.settings import Token
from testkit.page_visits import PATIENCE, SEGMENTS, STEPS, Studio, visited

pytestmark = pytest.mark.slow

GROWING = "[...Array(player.buffered.length).keys()].some(at => player.buffered.end(at) > 0.9 && player.duration == 7)"
GROWING = f"(player => {GROWING})(document.querySelector('#result video'))"
NAME = "el => el.getAttribute('aria-label') ?? (el.labels?.[0] ?? el).textContent"


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with Studio(tmp_path) as studio:
        yield studio


def test_a_video_from_the_samples_to_the_end_and_in_part_again(browser: Browser, studio: Studio) -> None:
    with visited(browser, studio) as tab:
        tab.see("#none", "None yet.")
        tab.screens("1-start")
        tab.ask_for("A woman in a dotted dress dances in a park.")
        tab.see("#status", "Reading the movement.")
        tab.screens("2-movement")
        studio.allow(1 + 6 * STEPS + 2)
        tab.see("#status", f"6 of {SEGMENTS} segments are made.")
        assert tab.page.title().endswith("% · A woman in a dotted dress dances in a park. · PoseGen")
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
        tab.see("#segment", "variation 0, made in")
        tab.page.wait_for_timeout(300)
        tab.screens("5-segment")
        tab.page.click("text=Make anew")
        tab.see("#ask", "Make segment 3 anew?")
        tab.page.click("text=Make it anew")
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
        tab.see(
            "#error",
            "Movement: note.mp4: it is no MP4, MOV, WebM, Matroska or AVI video; choose another file.",
        )
        tab.page.set_input_files(".drop[data-kind=picture] input", FOLDER / "samples" / "person.jpg")
        tab.page.wait_for_selector(".drop img:not([hidden])")
        note.write_bytes(b"\0\0\0\x18ftypmp42 and no more")
        tab.page.set_input_files(".drop[data-kind=movement] input", note)
        tab.page.wait_for_selector(".drop video:not([hidden])", state="attached")
        tab.page.click("text=Make the video")
        tab.see("#error", re.compile("Movement: .*(damaged|export it)"))
        tab.see("[aria-invalid=true] ~ strong", "Movement")
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
