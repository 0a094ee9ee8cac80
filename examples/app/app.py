"""A service that asks its sidecar once per request.

    PORT=8080 python app.py
    curl -H 'X-Tenant: acme' http://127.0.0.1:8080/reports/weekly

It renders reports. Each one is a task of the tenant that asks for it; the decision says whether there is one
left, and where not, enough to answer well.
"""

from __future__ import annotations

import json
import os
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from entitlement_sidecar.client import Answer, Decision, EntitlementsClient, EntitlementsError, Reason

FEATURE = "tasks"

# What a denial means to the one who called. Any other reason is a plan without the feature.
STATUS = {
    Reason.QUOTA_EXCEEDED: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.UNDETERMINED: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.TENANT_UNKNOWN: HTTPStatus.FORBIDDEN,
}


class ReportServer(ThreadingHTTPServer):
    """Serves reports; one client for all its threads."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], entitlements: EntitlementsClient) -> None:
        self.entitlements = entitlements
        super().__init__(address, ReportHandler)


class ReportHandler(BaseHTTPRequestHandler):
    """One request, one check."""

    server: ReportServer

    def do_GET(self) -> None:
        """Renders a report when the tenant has a task left."""
        if not self.path.startswith("/reports/"):
            self._answer(HTTPStatus.NOT_FOUND, {"error": "try /reports/weekly"})
            return
        try:
            decision = self.server.entitlements.check(
                self.headers.get("X-Tenant", ""),
                FEATURE,
                consume=True,
                # The caller's own id makes its retries one task; without it every request is one.
                request_id=self.headers.get("X-Request-Id", ""),
                correlation_id=self.path,
            )
        except EntitlementsError as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            return
        if decision.allowed:
            self._answer(HTTPStatus.OK, {"report": self.path, "tasks_left": decision.remaining})
        else:
            self._deny(decision)

    def _deny(self, decision: Decision) -> None:
        reset_at = decision.reset_at and decision.reset_at.isoformat()
        body = {"error": decision.reason.name, "limit": decision.limit, "more_at": reset_at}
        self._answer(STATUS.get(decision.reason, HTTPStatus.PAYMENT_REQUIRED), body)

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing: what happened is in the answers and in the sidecar's metrics."""


def main() -> None:
    """Serves until Ctrl-C."""
    sidecar = os.environ.get("ENTITLEMENTS_SIDECAR", "127.0.0.1:7400")
    # Reports are worth more than a task given away: without a sidecar they go on.
    with EntitlementsClient(sidecar, if_unreachable=Answer.ALLOW) as entitlements:
        server = ReportServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), entitlements)
        print(f"http://127.0.0.1:{server.server_port}/reports/weekly")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()


if __name__ == "__main__":
    main()
