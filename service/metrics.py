"""Prometheus metrics of one app; each app has its own registry, so that tests can make many."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All series, named `cnclip_…`; seconds everywhere."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cnclip_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "cnclip_request_seconds", "Whole request", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.stage_seconds = Histogram(
            "cnclip_stage_seconds",
            "One stage of a request: decode, queue, encode, search, write",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "cnclip_batch_size", "Inputs per model call", ["kind"], buckets=_SIZES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "cnclip_batch_seconds", "One model call", ["kind"], buckets=_SECONDS, registry=self.registry
        )
        self.cache_lookups = Counter(
            "cnclip_embedding_cache_lookups", "Query vectors looked up", ["result"], registry=self.registry
        )
        self.model_info = Gauge(
            "cnclip_model_info", "1 for the model in use", ["model", "fingerprint"], registry=self.registry
        )
        self.activation_items = Gauge(
            "cnclip_activation_items",
            "Items of the activation that runs or ran last: done, total",
            ["state"],
            registry=self.registry,
        )
        self.activations = Counter(
            "cnclip_activations",
            "Activations of a model that ended: done, refused, cancelled, failed",
            ["outcome"],
            registry=self.registry,
        )
        self.repeated = Counter(
            "cnclip_requests_repeated",
            "Requests begun with one model and done with the next",
            registry=self.registry,
        )
        self.feedback = Counter(
            "cnclip_feedback", "Feedback taken: relevant or not", ["relevant"], registry=self.registry
        )
        self.queries_dropped = Counter(
            "cnclip_query_log_dropped", "Searches that the query log had no room for", registry=self.registry
        )
        self.queue_depth = Gauge("cnclip_queue_depth", "Inputs waiting for the model", registry=self.registry)
        self.gallery_items = Gauge("cnclip_gallery_items", "Items in the gallery", registry=self.registry)

    def watch(
        self,
        *,
        queue_depth: Callable[[], int],
        gallery_items: Callable[[], int],
        activation: Callable[[], tuple[int, int]],
    ) -> None:
        """Read these whenever somebody scrapes. activation: items done and in all."""
        self.queue_depth.set_function(queue_depth)
        self.gallery_items.set_function(gallery_items)
        self.activation_items.labels("done").set_function(lambda: activation()[0])
        self.activation_items.labels("total").set_function(lambda: activation()[1])

    def model_in_use(self, label: str, fingerprint: str) -> None:
        self.model_info.clear()
        self.model_info.labels(label, fingerprint).set(1)

    def activation_ended(self, outcome: str) -> None:
        self.activations.labels(outcome).inc()

    def observe_batch(self, kind: str, size: int, seconds: float) -> None:
        self.batch_size.labels(kind).observe(size)
        self.batch_seconds.labels(kind).observe(seconds)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
