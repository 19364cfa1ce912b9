"""What a server counts, for Prometheus. Names and labels are stable."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from turnkeeper.worker.health import Health

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "turnkeeper_http_requests",
            "Requests answered.",
            ("operation", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "turnkeeper_http_request_seconds",
            "From a request's headers to the end of its answer; streams are not in it.",
            ("operation",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._inputs = Counter(
            "turnkeeper_inputs_submitted",
            "Inputs submitted over HTTP, by what was decided.",
            ("decision",),
            registry=self.registry,
        )
        self._decisions = {
            decision: self._inputs.labels(decision)
            for decision in ("accepted", "deduplicated", "conflict")
        }
        self._gauges = {
            name: Gauge(f"turnkeeper_{name}", text, registry=self.registry)
            for name, text in _GAUGES.items()
        }
        self._children: dict[tuple[str, str], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def answered(self, operation: str, status: int, seconds: float | None) -> None:
        """Count one answer; `seconds` is None for a stream."""
        name = (operation, str(status))
        child = self._children.get(name)
        if child is None:
            child = self._children[name] = self._requests.labels(*name)
        child.inc()
        if seconds is not None:
            histogram = self._histograms.get(operation)
            if histogram is None:
                histogram = self._histograms[operation] = self._seconds.labels(operation)
            histogram.observe(seconds)

    def submitted(self, decision: str) -> None:
        """Count one submitted input: `accepted`, `deduplicated` or `conflict`."""
        self._decisions[decision].inc()

    def text(self, health: Health, *, requests: int, streams: int) -> bytes:
        """Everything, in the text format."""
        for name, value in _measured(health, requests, streams):
            self._gauges[name].set(value)
        return generate_latest(self.registry)


_GAUGES = {
    "http_requests_in_progress": "Requests in progress, streams included.",
    "event_streams": "Event streams that are open.",
    "sessions_in_memory": "Sessions in memory.",
    "active_inputs": "Inputs that have not ended, of the sessions in memory.",
    "runs": "Runs in progress.",
    "sessions_waiting_for_a_place": "Sessions that wait for a place under max_running.",
    "oldest_due_work_seconds": "How long the oldest due input has waited without a run; 0: none.",
    "given_up_runs": "Runs that ignored their cancellation and still exist.",
    "store_up": "1 if the store answers, else 0.",
}


def _measured(health: Health, requests: int, streams: int) -> Iterator[tuple[str, float]]:
    yield "http_requests_in_progress", requests
    yield "event_streams", streams
    yield "sessions_in_memory", health.sessions_in_memory
    yield "active_inputs", health.active_inputs
    yield "runs", health.runs
    yield "sessions_waiting_for_a_place", health.sessions_waiting_for_a_place
    yield "oldest_due_work_seconds", health.oldest_due_work_seconds or 0.0
    yield "given_up_runs", len(health.given_up_runs)
    yield "store_up", float(health.store == "ok")
