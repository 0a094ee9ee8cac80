"""The reference page of the metrics, from their declarations."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from entitlement_sidecar.telemetry import metrics

HEAD = """# Metrics

Both processes show them at `/metrics` (sidecar: port 7401, plan store: port 7410), in Prometheus' text format.
A process shows the metrics of its own part; the others stay at zero.
Written by `make generate` from `src/entitlement_sidecar/telemetry/metrics.py`.

| metric | type | labels | meaning |
|---|---|---|---|
"""

SUFFIXES = {"counter": "_total"}


def declared() -> list[MetricWrapperBase]:
    """Every metric that the module declares, in its order."""
    return [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]


def exposed_name(metric: MetricWrapperBase) -> str:
    """The name on the page that Prometheus reads: counters end in `_total`."""
    return metric._name + SUFFIXES.get(metric._type, "")  # noqa: SLF001 - the library shows it no other way


def row(metric: MetricWrapperBase) -> str:
    """One line of the table."""
    labels = ", ".join(f"`{name}`" for name in metric._labelnames)  # noqa: SLF001 - as above
    cells = (f"`{exposed_name(metric)}`", metric._type, labels, metric._documentation)  # noqa: SLF001 - as above
    return f"| {' | '.join(cells)} |"


def render() -> str:
    """The whole page."""
    return HEAD + "".join(f"{row(metric)}\n" for metric in declared())
