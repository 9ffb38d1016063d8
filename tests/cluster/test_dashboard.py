"""What is watched: Prometheus takes its file, and each query of the dashboard names a metric that is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest
import ray
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.metrics import dashboards
from ray.util.metrics import Counter, Histogram, Metric

import pipeline.metrics
import serving.work.metrics
import training.metrics
from serving.api.metrics import Metrics
from serving.state.database import Database
from testkit import ROOT

FOLDER = ROOT / "cluster"
ROOMS = (pipeline.metrics, training.metrics, serving.work.metrics)
FUNCTIONS = {"sum", "max", "avg", "by", "rate", "increase", "histogram_quantile"}
OF_RAY = {
    name
    for file in Path(str(dashboards.__file__)).parent.glob("*_panels.py")
    for name in re.findall(r"\bray_\w+", file.read_text())
}
"""What Ray's own dashboards ask for."""


def queries() -> list[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def named(query: str) -> set[str]:
    """The metrics of a query: its words, less functions, labels (behind `by` or in braces) and durations."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)", "", query)
    return set(re.findall(r"[a-z_]\w*", bare)) - FUNCTIONS


def metrics_of(room: ModuleType) -> list[Metric]:
    found = list(vars(room).values())
    found += [value for each in found if isinstance(each, dict) for value in each.values()]
    return [each for each in found if isinstance(each, Metric)]


def exported(metric: Metric) -> str:
    """What Prometheus calls a metric of Ray's."""
    suffix = "_total" if isinstance(metric, Counter) else "_bucket" if isinstance(metric, Histogram) else ""
    return f"ray_{metric.info['name']}{suffix}"


def of_the_endpoint(tmp_path: Path) -> set[str]:
    """What a copy of the endpoint answers, after one request."""
    metrics = Metrics(Database(f"sqlite:///{tmp_path}/queue.db"))
    metrics.count({"method": "GET"}, 200, 0.1)
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {sample.name for family in families for sample in family.samples}


def test_each_query_names_a_metric_that_is_exported(tmp_path: Path) -> None:
    known = {exported(metric) for room in ROOMS for metric in metrics_of(room)} | of_the_endpoint(tmp_path)
    for query in queries():
        assert named(query) and named(query) <= known | OF_RAY, query


def test_each_metric_of_the_jobs_is_on_the_dashboard() -> None:
    shown = {name for query in queries() for name in named(query)}
    assert {exported(metric) for room in ROOMS for metric in metrics_of(room)} <= shown


def test_an_unknown_name_would_be_seen() -> None:
    query = 'sum by (kind) (rate(ray_posegen_taks_total{kind="segment"}[5m]))'
    assert named(query) == {"ray_posegen_taks_total"}


def test_prometheus_takes_its_file_and_the_queries(tmp_path: Path) -> None:
    """By its own promtool, where it is installed (Debian's package prometheus)."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert {job["job_name"] for job in config["scrape_configs"]} == {"ray", "posegen"}
    rules = [{"record": f"query:{index}", "expr": query} for index, query in enumerate(queries())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    if promtool := shutil.which("promtool"):
        for command in (["config", "--syntax-only", str(FOLDER / "prometheus.yaml")], ["rules", str(file)]):
            done = subprocess.run([promtool, "check", *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_panels_lie_side_by_side_and_ask_the_chosen_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
        assert all(target["datasource"]["uid"] == "${source}" for target in panel.get("targets", []))


@pytest.mark.slow
def test_ray_exports_what_a_job_tells() -> None:
    """A process sets every metric; its machine's page then has it by the name of the dashboard's queries."""
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        wanted = {exported(metric) for room in ROOMS for metric in metrics_of(room)}
        telling = tell_all.remote()
        (node,) = ray.nodes()
        page = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
        deadline = time.monotonic() + 120
        while missing := wanted - set(re.findall(r"(?m)^(\w+)\{", read(page))):
            assert time.monotonic() < deadline, missing
            time.sleep(1)
        ray.cancel(telling)
    finally:
        ray.shutdown()


def read(url: str) -> str:
    """A page's text; empty while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


@ray.remote
def tell_all() -> None:
    """Sets each metric as the jobs do, and goes on, as a worker would."""
    pipeline.metrics.count_clip(81, False, ["blurred"])
    training.metrics.tell("run", 1, dict.fromkeys(training.metrics.GAUGES, 1.0))
    serving.work.metrics.RECORD_BYTES.set(1)
    serving.work.metrics.TASKS.inc(tags={"kind": "segment", "result": "done"})
    for histogram in (serving.work.metrics.STEP_SECONDS, serving.work.metrics.TASK_SECONDS):
        histogram.observe(1.0, {"kind": "segment"})
    time.sleep(600)
