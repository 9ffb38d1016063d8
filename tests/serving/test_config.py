"""Settings of the server: by file, environment and arguments, the later ones first; errors in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.config import ConfigError, Replicas, ServingConfig, load_config


def test_arguments_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(
        "lease: 1\npoll: 1\ndrain: 1\ngenerators: {max_workers: 3}\n"
        f"api: {{tokens: [{{name: a, sha256: {64 * 'b'}}}]}}\n"
    )
    environment = {"POSEGEN_CONFIG": str(file), "POSEGEN_POLL": "2", "POSEGEN_DRAIN": "2"}
    config = load_config({"drain": "3"}, environment)
    assert (config.lease, config.poll, config.drain) == (1, 2, 3)
    assert config.generators == Replicas(max_workers=3)
    assert config.api.tokens[0].name == "a"


def test_paths_mean_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({}, {})
    assert config.database == f"sqlite:///{tmp_path}/serving.db"
    assert config.artifacts == str(tmp_path / ServingConfig.artifacts)
    shared = {"database": "postgresql+psycopg://me:secret@host/name", "artifacts": "s3://bucket/videos"}
    config = load_config(shared, {})
    assert (config.database, config.artifacts) == (shared["database"], shared["artifacts"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"leas": "1"}, "There is no setting 'leas'; choose from database"),
        ({"lease": "long"}, "lease: Input should be a valid number"),
        ({"generators": "{max_workers: many}"}, "generators.max_workers: Input should be a valid integer"),
        ({"api": "{"}, "api is no YAML"),
        ({"pose_weights": "dwpose"}, "^blazepose brings its own weights"),
        (
            {"preparers": "{gpus: 1}"},
            "^preparers: blazepose computes on the CPU; leave gpus out, or set poses",
        ),
        ({"hand_normals": "normals.onnx"}, "^hand_normals and hand_segmentation see hands together"),
        (
            {"poses": "dwpose", "pose_weights": "s3://weights/dwpose"},
            "pose_weights: what reads uploads has no access to 's3://weights/dwpose'",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_named(arguments: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(arguments, {})


def test_weights_beside_the_server_are_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dwpose").mkdir()
    settings = {"poses": "dwpose", "preparers": "{gpus: 0.5}"}
    assert load_config(settings | {"pose_weights": "dwpose"}, {}).pose_weights == str(tmp_path / "dwpose")
    assert load_config(settings | {"pose_weights": "yzd-v/DWPose"}, {}).pose_weights == "yzd-v/DWPose"
