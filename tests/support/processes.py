"""The real processes, started as an operator starts them, on ports chosen free."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx

from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc, usage_pb2, usage_pb2_grpc
from support.waiting import until

ENTITLEMENTS = [sys.executable, "-W", "error::ResourceWarning", "-m", "entitlement_sidecar.cli"]

_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For calls without TLS: to load what is trusted would take longer than a call."""


def clean_environment() -> dict[str, str]:
    """The environment without settings of the product: tests say what they want."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ENTITLEMENTS_")}


class Process:
    """A process of the product, its log, and how it ends."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*ENTITLEMENTS, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**clean_environment(), "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """Everything it has printed."""
        return "\n".join(self.lines)

    def wait_for(self, text: str) -> str:
        """The first line that holds a text."""

        def found() -> str:
            line = next((line for line in self.lines if text in line), "")
            if not line and self._process.poll() is not None:
                self._reader.join(5)
                raise AssertionError(f"ended with {self._process.returncode} before {text!r}:\n{self.output}")
            return line

        # A busy machine may take long to start an interpreter.
        return until(found, text, timeout=60)

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self._process.kill()
        self._ended()

    def stop(self) -> int:
        """SIGTERM, and waits; its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._ended()

    def interrupt(self) -> int:
        """SIGINT, as Ctrl-C sends it; its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self._ended()

    def _ended(self) -> int:
        code = self._process.wait(30)
        self._reader.join(5)
        return code


class Planstore:
    """A plan store process with a state folder; restarts on the ports it had."""

    def __init__(self, state: Path, *, database: str = "", redis: str = "", sink: str = "") -> None:
        self.state = state
        self._options = [
            *(["--database", database] if database else []),
            *(["--redis", redis] if redis else []),
            *(["--usage-sink", sink] if sink else []),
        ]
        self.http_port, self.grpc_port = 0, 0
        self.process: Process | None = None

    def start(self, *, migrated: bool = False) -> Planstore:
        """Migrates, unless that was done, and starts it, and waits until it serves."""
        common = ["--state-dir", str(self.state)]
        if not migrated:
            options = self._options[:2] if "--database" in self._options else []
            migrating = [*ENTITLEMENTS, "planstore", "migrate", *common, *options]
            subprocess.run(migrating, check=True, capture_output=True, timeout=60, env=clean_environment())
        ports = ["--http", f"127.0.0.1:{self.http_port}", "--grpc", f"127.0.0.1:{self.grpc_port}"]
        self.process = Process(["planstore", *common, *ports, *self._options])
        words = json.loads(self.process.wait_for("REST on port"))["message"].replace(",", "").split()
        self.http_port, self.grpc_port = int(words[3]), int(words[7])
        return self

    @property
    def token(self) -> str:
        """The bearer token."""
        return (self.state / "token").read_text().strip()

    def rest(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One REST call with the token."""
        return httpx.request(
            method,
            f"http://127.0.0.1:{self.http_port}{path}",
            headers={"authorization": f"Bearer {self.token}", **more.pop("headers", {})},
            timeout=30,
            verify=_NO_CERTIFICATES,
            **more,
        )

    def apply(self, catalogue: Path) -> None:
        """Applies a catalogue file."""
        headers = {"content-type": "application/yaml"}
        answer = self.rest("POST", "/api/billing/catalogue", content=catalogue.read_bytes(), headers=headers)
        assert answer.is_success, answer.text

    def subscribe(self, tenant: str, plan: str, **more: Any) -> dict[str, Any]:
        """Creates or changes a tenant's subscription."""
        answer = self.rest(
            "POST", f"/api/billing/organizations/{tenant}/subscription", json={"plan": plan, **more}
        )
        assert answer.is_success, answer.text
        changed: dict[str, Any] = answer.json()
        return changed

    def usage(self, tenant: str) -> dict[str, Any]:
        """What the ledger says of a tenant."""
        answer = self.rest("GET", f"/api/billing/organizations/{tenant}/usage")
        assert answer.is_success, answer.text
        summary: dict[str, Any] = answer.json()
        return summary

    def stop(self) -> None:
        """SIGTERM."""
        if self.process is not None:
            code, output = self.process.stop(), self.process.output
            self.process = None
            assert code == 0, output

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process = None


class Sidecar:
    """A sidecar process with a state folder; restarts on the port it had."""

    def __init__(
        self, state: Path, *options: str, front: str = "fast", env: dict[str, str] | None = None
    ) -> None:
        self.state = state
        self._options = [*options, "--front", front]
        self._env = env
        self.port, self.http_port = 0, 0
        self.process: Process | None = None
        self._channel: grpc.Channel | None = None

    def start(self) -> Sidecar:
        """Starts it, and waits until it serves."""
        self.process = Process(
            [
                "sidecar",
                *("--listen", f"127.0.0.1:{self.port}", "--http", f"127.0.0.1:{self.http_port}"),
                *("--state-dir", str(self.state), *self._options),
            ],
            self._env,
        )
        words = json.loads(self.process.wait_for("serving on"))["message"].replace(",", "").split()
        self.port, self.http_port = int(words[2].rpartition(":")[2]), int(words[-1])
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        return self

    @property
    def channel(self) -> grpc.Channel:
        """A channel to it."""
        assert self._channel is not None
        return self._channel

    def check(self, tenant: str, feature: str, **more: Any) -> decision_pb2.Decision:
        """One CheckEntitlement."""
        stub = decision_pb2_grpc.EntitlementServiceStub(self.channel)
        request = decision_pb2.CheckEntitlementRequest(tenant_id=tenant, feature=feature, **more)
        decision: decision_pb2.Decision = stub.CheckEntitlement(request, timeout=10).decision
        return decision

    def consume(self, tenant: str, feature: str, **more: Any) -> decision_pb2.Decision:
        """One CheckEntitlement that consumes."""
        return self.check(tenant, feature, mode=decision_pb2.CHECK_MODE_CONSUME, **more)

    def report(self, events: Sequence[usage_pb2.UsageEvent]) -> list[usage_pb2.UsageResult]:
        """One ReportUsage."""
        stub = usage_pb2_grpc.UsageServiceStub(self.channel)
        return list(stub.ReportUsage(usage_pb2.ReportUsageRequest(events=events), timeout=30).results)

    def http(self, path: str) -> httpx.Response:
        """One probe."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        return httpx.get(url, timeout=10, verify=_NO_CERTIFICATES)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.http("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " "))
        )

    def stop(self) -> None:
        """SIGTERM."""
        self._end(lambda process: process.stop())

    def kill(self) -> None:
        """SIGKILL."""
        self._end(lambda process: process.kill())

    def _end(self, how: Callable[[Process], object]) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self.process is not None:
            how(self.process)
            self.process = None


class Site(NamedTuple):
    """A plan store, and a sidecar of it on each front."""

    store: Planstore
    beside: dict[str, Sidecar]
