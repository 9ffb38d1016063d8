"""Prometheus metrics: the queue as the database has it, and the requests that this copy of the endpoint answered.

The queue looks the same from any copy. A scrape reaches one copy of several, so requests carry the copy's name as a
label; their routes are labelled by pattern, never by what a client sent. An answer is timed to its first byte, so that
streams of events, which stay open for minutes, do not drown the rest.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.state.database import Database
from serving.state.rows import Role


class QueueCollector(Collector):
    """Reads the database at each scrape."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: the metrics are known only when they are scraped."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Jobs by status; by role the tasks that may be claimed, those that run, and live workers."""
        jobs = GaugeMetricFamily("posegen_jobs", "Jobs by status.", labels=["status"])
        for status, count in self._database.jobs.counts().items():
            jobs.add_metric([status], count)
        tasks = GaugeMetricFamily(
            "posegen_tasks", "Tasks that are ready or running.", labels=["role", "state"]
        )
        workers = GaugeMetricFamily("posegen_workers", "Live workers.", labels=["role"])
        for role in Role:
            load = self._database.queue.load(role)
            tasks.add_metric([role, "ready"], load.ready)
            tasks.add_metric([role, "running"], load.running)
            workers.add_metric([role], load.workers)
        return [jobs, tasks, workers]


class Metrics:
    """The registry of one copy of the endpoint."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(QueueCollector(database))
        labels = ["copy", "method", "route"]
        self._copy = secrets.token_hex(4)
        self._requests = Counter(
            "posegen_requests", "Requests answered.", [*labels, "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "posegen_request_seconds", "Time to the answer's first byte.", labels, registry=self.registry
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Notes an answered request."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" else "any"
        self._requests.labels(self._copy, method, route, str(status)).inc()
        self._seconds.labels(self._copy, method, route).observe(seconds)


class CountRequests:
    """ASGI middleware that counts."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            self._metrics.count(scope, 500, time.perf_counter() - began)
            raise
