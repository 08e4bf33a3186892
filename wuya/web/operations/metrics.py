"""Prometheus metrics. Labels are routes, methods, codes and model aliases; never users, keys or text.

metrics = metrics_of(service)
metrics.stops.inc()
"""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine, event

from wuya.inference.backends.protocol import ServingEngine
from wuya.web.service import Service

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody reads
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class EngineCollector(Collector):
    """The engine's own numbers, read when they are asked for."""

    def __init__(self, engine: ServingEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Slots, queue, memory, readiness."""
        info = self._engine.info()
        slots = GaugeMetricFamily("wuya_engine_slots", "Places of the engine's batch", labels=["state"])
        slots.add_metric(["used"], info.slots_used)
        slots.add_metric(["total"], info.slots_total)
        yield slots
        yield GaugeMetricFamily("wuya_engine_queue_length", "Requests that wait for a slot", value=info.queue_length)
        yield GaugeMetricFamily(
            "wuya_kv_cache_ratio", "Share of the keys' and values' memory", value=info.kv_cache_ratio
        )
        yield GaugeMetricFamily("wuya_engine_ready", "1 while the engine answers", value=float(info.ready))


class Metrics:
    """Every metric of the web process, in a registry of its own."""

    def __init__(self, engine: ServingEngine) -> None:
        registry = self.registry = CollectorRegistry()
        registry.register(EngineCollector(engine))
        started = Gauge("wuya_start_time_seconds", "When the process started, Unix seconds", registry=registry)
        started.set(time.time())
        route = ["route", "method", "status"]
        self.requests = Counter("wuya_http_requests", "Requests", route, registry=registry)
        self.request_seconds = Histogram(
            "wuya_http_request_seconds", "Until the last byte", ["route"], buckets=_SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "wuya_queue_seconds", "From a request to its slot", buckets=_SECONDS, registry=registry
        )
        self.ttft_seconds = Histogram(
            "wuya_time_to_first_token_seconds", "From a request to its first token", buckets=_SECONDS, registry=registry
        )
        self.inter_token_seconds = Histogram(
            "wuya_inter_token_seconds", "Between two tokens of a stream", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter("wuya_tokens", "Tokens read and written", ["kind", "model"], registry=registry)
        self.generations = Counter("wuya_generations", "Ended jobs", ["state"], registry=registry)
        self.stops = Counter("wuya_stops", "Stops by people", registry=registry)
        self.sse_clients = Gauge("wuya_sse_clients", "Event streams that are open", registry=registry)
        self.db_write_seconds = Histogram(
            "wuya_db_write_seconds", "Transactions that write", buckets=_SECONDS, registry=registry
        )
        self.login_failures = Counter("wuya_login_failures", "Wrong passwords", registry=registry)
        self.rate_limited = Counter("wuya_rate_limited", "Requests refused by a limit", registry=registry)
        self.label_submits = Counter("wuya_label_submits", "Labels submitted", ["project"], registry=registry)
        self.lease_expired = Counter("wuya_lease_expired", "Leases that ran out", registry=registry)
        self.moderation = Counter("wuya_moderation", "Rules that fired", ["stage", "action"], registry=registry)

    def watch(self, database: Engine) -> None:
        """Time the transactions of this database that write, from their begin to their commit."""

        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get("immediate"):
                connection.info["write_began"] = time.perf_counter()

        def commit(connection: Connection) -> None:
            if (began := connection.info.pop("write_began", None)) is not None:
                self.db_write_seconds.observe(time.perf_counter() - began)

        event.listen(database, "begin", begin)
        event.listen(database, "commit", commit)
        event.listen(database, "rollback", lambda connection: connection.info.pop("write_began", None))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


def metrics_of(service: Service) -> Metrics:
    """The service's metrics."""
    if Metrics not in service.parts:
        metrics = Metrics(service.engine)
        metrics.watch(service.database)
        service.put(metrics)
    return service.get(Metrics)
