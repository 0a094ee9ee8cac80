# One image, two processes: `entitlements sidecar` (default) and `entitlements planstore`.

FROM python:3.11-slim-bookworm AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# Dependencies change less often than the product: a layer of their own.
COPY requirements/run.txt requirements/run.txt
RUN python -m venv /opt/entitlements \
 && /opt/entitlements/bin/python -m pip install --require-hashes -r requirements/run.txt
COPY LICENSE README.md pyproject.toml ./
COPY src src
COPY migrations migrations
COPY examples examples
RUN /opt/entitlements/bin/python -m pip install --no-deps --no-build-isolation . \
 && /opt/entitlements/bin/python -m pip uninstall --yes hatchling editables pip \
 && mkdir -p /var/lib/entitlements

FROM python:3.11-slim-bookworm
COPY --from=builder /opt/entitlements /opt/entitlements
# The state volume: snapshots and usage that is not yet in the ledger. Mount it where it may not be lost.
COPY --from=builder --chown=65532:65532 /var/lib/entitlements /var/lib/entitlements
ENV PATH=/opt/entitlements/bin:$PATH \
    HOME=/var/lib/entitlements \
    PYTHONDONTWRITEBYTECODE=1 \
    ENTITLEMENTS_STATE_DIR=/var/lib/entitlements \
    HEALTH_URL=http://127.0.0.1:7401/livez
# By number: Kubernetes can then see that it is not root.
USER 65532:65532
# The sidecar's gRPC and HTTP, the plan store's HTTP and gRPC.
EXPOSE 7400 7401 7410 7411
# For the plan store set HEALTH_URL=http://127.0.0.1:7410/livez.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(os.environ['HEALTH_URL'], timeout=2)"]
ENTRYPOINT ["entitlements"]
CMD ["sidecar"]
