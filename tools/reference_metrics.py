"""The reference page of the metrics, from their declarations."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from entitlement_sidecar.telemetry import metrics

HEAD = """# Metrics

Both processes show them at `/metrics` in Prometheus' text format (sidecar: port 7401, plan store: port 7410).
A process shows the metrics of its own part; the others stay at zero.
Written by `make generate` from `src/entitlement_sidecar/telemetry/metrics.py`.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def declared() -> list[MetricWrapperBase]:
    """Every metric that the module declares, in its order."""
    return [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]


def exposed_name(metric: MetricWrapperBase) -> str:
    """The name on the page that Prometheus reads: counters end in `_total`."""
    family = next(iter(metric.describe()))
    return f"{family.name}_total" if family.type == "counter" else family.name


def row(metric: MetricWrapperBase) -> str:
    """One line of the table."""
    family = next(iter(metric.describe()))
    labels = ", ".join(f"`{name}`" for name in metric._labelnames)  # noqa: SLF001 - there is no public way
    return f"| `{exposed_name(metric)}` | {family.type} | {labels} | {family.documentation} |"


def render() -> str:
    """The whole page."""
    return HEAD + "".join(f"{row(metric)}\n" for metric in declared())
