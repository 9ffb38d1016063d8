"""What may be asked for beside the picture and the movement: LoRAs by name, hands, a mask; refusals in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testkit.api_server import MODEL, Site, movie, post, refusal, sent

LORAS = ("ink", "oil")
HANDS, MASK = ("hands.mp4", movie(30)), ("mask.mp4", movie(30))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, model=replace(MODEL, loras=LORAS, hands=True))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"name": "ink"}, [{"name": "ink", "strength": 1.0}]),
        ([{"name": "oil", "strength": -0.5}], [{"name": "oil", "strength": -0.5}]),
        ([], []),
    ],
)
def test_loras_are_asked_for_by_name_and_strength(site: Site, asked: Any, kept: list[Any]) -> None:
    answer = post(site.client(), lora=json.dumps(asked))
    assert answer.status_code == 200, answer.text
    assert answer.json()["options"]["lora"] == kept
    assert site.database.jobs.get(answer.json()["id"]).request["lora"] == kept


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ('{"name": "chalk"}', "lora: there is no 'chalk'; choose from ink, oil."),
        ('{"name": "../ink"}', "lora: there is no '../ink'; choose from ink, oil."),
        ('{"name": "/etc/passwd"}', "lora: there is no '/etc/passwd'; choose from ink, oil."),
        ('[{"name": "ink"}, {"name": "ink"}]', "lora: a name comes twice; send each once."),
        ('{"name": "ink", "strength": 3}', "lora: input should be less than or equal to 2."),
        ('{"name": "ink", "strength": NaN}', "lora: input should be a finite number."),
        (
            '{"name": "ink", "path": "x"}',
            "lora: there is no such parameter; see /docs for those that there are.",
        ),
        ("ink", "lora: invalid JSON"),
    ],
)
def test_other_loras_are_refused(site: Site, asked: str, sentence: str) -> None:
    assert refusal(post(site.client(), lora=asked), 400).startswith(sentence)
    assert site.database.jobs.page() == []


def test_the_model_says_what_may_be_asked_for(site: Site, tmp_path: Path) -> None:
    (model,) = site.client().get("/v1/models").json()["data"]
    assert model["loras"] == [*LORAS] and model["hands"] is True
    plain = Site(tmp_path / "plain").client()
    assert (
        refusal(post(plain, lora='{"name": "ink"}'), 400) == "lora: there is no 'ink'; this server has none."
    )
    assert refusal(post(plain, sent(hands=HANDS)), 400) == "hands: mini takes none; leave it out."


def test_hands_and_mask_are_kept_with_the_job_and_sent_back(site: Site) -> None:
    client = site.client()
    answer = post(client, sent(hands=HANDS, mask=MASK), foreground="mask")
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert video["uploads"] == ["driving_video", "hands", "input_reference", "mask"]
    for name, (_, content) in {"hands": HANDS, "mask": MASK}.items():
        got = client.get(f"/v1/videos/{video['id']}/uploads/{name}")
        assert got.content == content and got.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    ("files", "fields", "sentence"),
    [
        ({}, {"foreground": "mask"}, "Send a mask with foreground=mask, and only then."),
        ({"mask": MASK}, {}, "Send a mask with foreground=mask, and only then."),
        ({"hands": ("hands.mp4", b"GIF89a" * 9)}, {}, "hands: it is no MP4"),
        ({"mask": ("mask.mp4", movie(30)[:700])}, {"foreground": "mask"}, "mask: "),
    ],
)
def test_what_cannot_be_such_a_video_is_refused(
    site: Site, files: dict[str, Any], fields: dict[str, str], sentence: str
) -> None:
    refused = refusal(post(site.client(), sent(**files), **fields), 400)
    assert refused.lower().startswith(sentence.lower())
    assert site.artifacts.folders() == []


def test_the_document_has_an_example_of_a_lora(site: Site) -> None:
    schemas = site.client().get("/openapi.json").json()["components"]["schemas"]
    lora = schemas["VideoCreate"]["properties"]["lora"]
    (example,) = lora["examples"]
    assert json.loads(example) == [{"name": "ink", "strength": 0.8}]
    assert lora["contentSchema"]["items"] == {"$ref": "#/components/schemas/LoraChoice"}
