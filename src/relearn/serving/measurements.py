"""What a server counts, as Prometheus reads it, and the log of refusals."""

import logging
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from relearn.inference.exported import ExportRecord
from relearn.runtime.text import escape_controls

log = logging.getLogger(__name__)

# Of one kind, the log has one line in this time.
QUIET_SECONDS = 60
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_N_IMAGES = (1, 2, 4, 8, 16, 32, 64)
_IMAGE_KINDS = ("empty", "too large", "unsupported", "damaged")


class Measurements:
    """Counters of one server, in a registry of its own. Threads may share it."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("relearn_requests", "Requests.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "relearn_predict_seconds", "From the head of a prediction request to its answer.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.images = Counter("relearn_images", "Images that got a label.", registry=registry)
        self.request_images = Histogram(
            "relearn_request_images", "Files in one answered request.", buckets=_N_IMAGES, registry=registry
        )
        self.waiting = Gauge("relearn_waiting_images", "Images that are decoded or wait.", registry=registry)
        self.failed = Gauge("relearn_reload_failed", "1 if the newest model could not be loaded.", registry=registry)
        self.reloads = Counter("relearn_reloads", "Changes of the model.", ("outcome",), registry=registry)
        self._refusals = Counter("relearn_refusals", "Refused requests and images.", ("reason",), registry=registry)
        self._model = Gauge("relearn_model_info", "The model that answers.", ("version", "sha256"), registry=registry)
        self._logged: dict[str, tuple[float, int]] = {}

    def name_model(self, record: ExportRecord) -> None:
        """Let the metrics name another model."""
        self._model.clear()
        self._model.labels(record.version or "", record.model_sha256).set(1)

    def refuse(self, reason: str, detail: str) -> None:
        """Count a refusal, and log it unless one for the same reason was logged a short time ago."""
        self._refusals.labels(reason).inc()
        now = time.monotonic()
        logged_at, n_unlogged = self._logged.get(reason, (-QUIET_SECONDS, 0))
        if now - logged_at < QUIET_SECONDS:
            self._logged[reason] = logged_at, n_unlogged + 1
            return
        self._logged[reason] = now, 0
        more = f" ({n_unlogged:,} more since the last line of this kind)" if n_unlogged else ""
        text = detail if detail.startswith(reason) else f"{reason}: {detail}"
        log.warning("refused: %s%s", escape_controls(text), more)

    def refuse_image(self, detail: str) -> None:
        """Count an image that cannot be read, by the kind of the reason."""
        self.refuse(next((kind for kind in _IMAGE_KINDS if detail.startswith(kind)), "not an image"), detail)

    def describe(self) -> bytes:
        """Return all figures in the text format of Prometheus."""
        return generate_latest(self._registry)
