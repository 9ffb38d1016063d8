"""The page's choice of a style: there where the server has any, sent with its strength, filled in again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from serving.api.settings import Model
from testkit.page_visits import PATIENCE, RATE, STEPS, Studio, visited

pytestmark = pytest.mark.slow


def test_a_style_is_chosen_by_its_name(browser: Browser, tmp_path: Path) -> None:
    model = Model("puppets", (240, 360), 8, RATE, STEPS, loras=("ink", "oil"))
    with Studio(tmp_path, model=model) as studio, visited(browser, studio) as tab:
        tab.page.click("summary:has-text('More')")
        tab.page.select_option("[name=style]", "oil")
        tab.page.fill("[name=strength]", "strong")
        tab.ask_for("A dance")
        tab.see("#error", re.compile("^ ?Style strength: input should be a valid number"))
        expect(tab.page.locator("[name=strength]")).to_have_attribute("aria-invalid", "true")
        tab.screens("7-style")
        tab.page.fill("[name=strength]", "0.6")
        tab.page.click("text=Make the video")
        tab.see("#stage-title", "A dance")
        (job,) = studio.database.jobs.page()
        assert job.request["lora"] == [{"name": "oil", "strength": 0.6}]
        tab.page.click("#cancel")
        tab.page.click("#ask button[value=yes]")
        tab.see("#status", "The video was cancelled.")
        tab.page.select_option("[name=style]", "")
        tab.page.click("#reuse")
        expect(tab.page.locator("[name=style]")).to_have_value("oil", timeout=PATIENCE)
        expect(tab.page.locator("[name=strength]")).to_have_value("0.6")


def test_without_styles_there_is_nothing_to_choose(browser: Browser, tmp_path: Path) -> None:
    with Studio(tmp_path) as studio, visited(browser, studio) as tab:
        tab.see("#model", "Model puppets")
        tab.page.click("summary:has-text('More')")
        expect(tab.page.locator("#styles")).to_be_hidden()
        tab.ask_for("A dance")
        tab.see("#stage-title", "A dance")
        (job,) = studio.database.jobs.page()
        assert job.request["lora"] == []
