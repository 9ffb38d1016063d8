"""What a visitor of the page finds again later or elsewhere, and what is said before something goes wrong; the browser,
the server and the workers are those of test_page.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from posegen.video.sound import extract_sound
from serving.api.page import FOLDER
from serving.api.settings import Model
from serving.state.artifacts import sound_artifact
from testkit.page_visits import PHONE, RATE, SEGMENTS, STEPS, Studio, Visit, visited
from testkit.sounds import sounding

pytestmark = pytest.mark.slow

SUMMARY = "Knows drawn people only."
ALL = 1 + SEGMENTS * STEPS
SHOWN = "['driver', 'result'].every(id => document.querySelector(`#${id} video`).videoWidth > 0)"


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with Studio(tmp_path, model=Model("puppets", (240, 360), 8, RATE, STEPS, summary=SUMMARY)) as studio:
        yield studio


def requests(studio: Studio) -> list[dict[str, object]]:
    """What was asked for, newest first."""
    return [job.request for job in studio.database.jobs.page()]


def test_a_link_shows_picture_movement_and_video_and_the_same_can_be_asked_for_again(
    browser: Browser, studio: Studio
) -> None:
    with visited(browser, studio) as tab:
        studio.allow(ALL)
        tab.ask_for("")
        tab.see("#status", "The video is finished.")
        tab.see("#stage-title", "Video, ")
        link = tab.page.url
        with browser.new_context(viewport=PHONE) as elsewhere:  # type: ignore[arg-type]
            other = Visit(elsewhere.new_page(), tab.address, link.removeprefix(tab.address))
            other.see("#status", "The video is finished.")
            other.until(SHOWN)
            top = "document.querySelector('#stage').getBoundingClientRect().top"
            assert other.page.evaluate(top) < PHONE["height"] / 3, "the video is what a phone shows first"
            other.screens("7-link")
            other.page.click("text=Use these again")
            other.see(".drop[data-kind=movement]", "as before")
            other.page.fill("#prompt", "Once more")
            other.page.click("text=Make the video")
            other.see("#stage-title", "Once more")
            studio.allow(ALL)
            other.see("#status", "The video is finished.")
            assert other.complaints == []
        second, first = requests(studio)
        assert second == first | {"prompt": "Once more"}
        assert tab.complaints == []


def test_a_failed_video_is_tried_again_as_it_was_asked_for(browser: Browser, studio: Studio) -> None:
    with visited(browser, studio) as tab:
        tab.page.click("summary:has-text('More')")
        tab.page.fill("[name=seed]", "7")
        tab.page.fill("[name=seconds]", "3.5")
        tab.ask_for("A dance")
        tab.see("#status", "Reading the movement.")
        (job,) = studio.database.jobs.page()
        studio.database.jobs.cancel(job.id)
        tab.see("#status", "The video was cancelled.")
        tab.see("#result .wait", "The video was not finished.")
        tab.screens("8-failed")
        tab.page.click("text=Try again")
        tab.see("#status", "Reading the movement.")
        second, first = requests(studio)
        assert second == first and first["seed"] == 7
        assert tab.complaints == []


def test_the_video_before_is_kept_beside_the_new_one(browser: Browser, studio: Studio) -> None:
    with visited(browser, studio) as tab:
        studio.allow(ALL)
        tab.ask_for("A dance")
        tab.see("#status", "The video is finished.")
        assert tab.page.locator("#before").is_hidden()
        tab.page.click("#timeline [data-index='3']")
        for answer in ("Keep it", "Make it anew"):
            tab.see("#segment", "Segment 3, bridge")
            tab.page.click("text=Make anew")
            tab.see("#ask", "A finished video stays beside the new one, to compare.")
            tab.page.click(f"text={answer}")
        tab.see("#status", f"{SEGMENTS - 1} of {SEGMENTS} segments are made.")
        studio.allow(STEPS)
        tab.see("#status", "The video is finished.")
        tab.until("document.querySelector('#before video').duration == 7")
        tab.page.reload()
        tab.until("document.querySelector('#before video').duration == 7")
        tab.until("document.querySelector('#result video').duration == 7")
        tab.page.wait_for_timeout(500)
        tab.screens("9-before")
        assert tab.complaints == []


def test_a_wrong_file_or_field_is_marked_and_said_by_its_name(
    browser: Browser, studio: Studio, tmp_path: Path
) -> None:
    torn, letter = tmp_path / "torn.jpg", tmp_path / "letter.jpg"
    torn.write_bytes((FOLDER / "samples" / "person.jpg").read_bytes()[:300])
    letter.write_text("Dear all")
    with visited(browser, studio) as tab:
        for file, sentence in ((letter, "it is no JPEG, PNG or WebP picture"), (torn, "it is damaged")):
            tab.page.set_input_files(".drop[data-kind=picture] input", file)
            tab.see("#error", f"Picture: {file.name}: {sentence}")
            tab.see("[aria-invalid=true] ~ strong", "Picture")
            assert tab.page.locator(".drop[data-kind=picture] img").is_hidden()
        tab.page.click("summary:has-text('More')")
        tab.page.fill("[name=size]", "480p")
        tab.ask_for("A dance")
        tab.see(
            "#error", "Width x height: '480p' is not WIDTHxHEIGHT in pixels; choose from 240x360, 360x240"
        )
        expect(tab.page.locator("[name=size]")).to_have_attribute("aria-invalid", "true")
        expect(tab.page.locator("[name=size]")).to_be_focused()
        tab.page.fill("[name=size]", "")
        tab.page.click("summary:has-text('Advanced')")
        tab.page.fill("[name=anchor]", "3")
        tab.page.select_option("[name=align]", "proportions")
        tab.ask_for("A dance")
        tab.see("#error", "Anchor segment: input should be a multiple of 2")
        expect(tab.page.locator("[name=anchor]")).to_be_focused()
        tab.screens("10-wrong")


def test_the_model_says_what_it_can_do(browser: Browser, studio: Studio) -> None:
    with visited(browser, studio) as tab:
        tab.see("#model", "Model puppets: 240")
        tab.see("#model", f"360, 12 frames/s, up to 10 min. {SUMMARY}")
        sizes = tab.page.eval_on_selector_all("#sizes option", "all => all.map(one => one.value)")
        assert sizes[:2] == ["240x360", "360x240"]
        assert tab.complaints == []


def test_how_far_it_is_is_said_without_contradiction(browser: Browser, studio: Studio) -> None:
    """In the tab's title, while the movement is read, and where the video will be."""
    with visited(browser, studio) as tab:
        tab.ask_for("A dance")
        tab.see("#status", "Reading the movement.")
        tab.until("document.title.startsWith('Reading')")
        tab.see("#result .wait", "Nothing of the video is finished yet.")
        studio.reading = (21, 84)
        tab.see("#stages [data-stage=prepare] small", "21 of 84 frames")
        assert tab.page.title() == "Reading 25 % · A dance · PoseGen"
        studio.allow(1 + STEPS)
        contradiction = (
            "document.querySelector('#stages [data-stage=stitch] small').textContent.includes(' of ')"
            " && document.querySelector('#result .wait').checkVisibility()"
            " && document.querySelector('#result .wait').textContent.startsWith('Nothing')"
        )
        for _ in range(SEGMENTS - 1):
            studio.allow(STEPS)
            for _ in range(5):
                assert not tab.page.evaluate(contradiction)
                tab.page.wait_for_timeout(100)
        tab.see("#status", "The video is finished.")
        assert tab.page.title() == "A dance · PoseGen"
        assert tab.complaints == []


def test_sound_can_be_turned_on(browser: Browser, studio: Studio, tmp_path: Path) -> None:
    with visited(browser, studio) as tab:
        tab.ask_for("A dance")
        tab.see("#status", "Reading the movement.")
        (job,) = studio.database.jobs.page()
        assert extract_sound(sounding(tmp_path / "tone.mp4", 3.0), 7.0, tmp_path / "sound.mp4")
        studio.artifacts.save(sound_artifact(job.id), tmp_path / "sound.mp4")
        studio.allow(ALL)
        tab.see("#status", "The video is finished.")
        tab.page.click("#sound")
        assert tab.page.evaluate("!document.querySelector('#result video').muted")
        expect(tab.page.locator("#sound")).to_have_attribute("aria-pressed", "true")
        tab.screens("11-sound")
        assert tab.complaints == []


def test_the_endpoints_description_needs_nothing_from_elsewhere(browser: Browser, studio: Studio) -> None:
    with visited(browser, studio) as tab:
        tab.page.goto(f"{tab.address}/docs")
        tab.see("main", "POST /v1/videos")
        tab.see("main", "driving_video")
        tab.see("main", "/v1/videos/{video_id}/content")
        tab.page.wait_for_timeout(200)
        tab.screens("12-docs")
        assert tab.complaints == []
