# Dagster's image: webserver, daemon, code location and runs. It orchestrates; nothing heavy runs in it.
#   docker build -f deploy/images/code-location.Dockerfile -t registry.example/bai-code:0.1.0 .
# Torch is a dependency of the library that is not used here: name its CPU build to save some gigabytes,
#   --build-arg TORCH=torch==2.13.0+cpu --build-arg PIP_EXTRA_INDEX_URL=…

FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS build
ARG TORCH=torch==2.13.0
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
# The compiler of the native kernels; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --constraint constraints.txt pip "$TORCH"
COPY pyproject.toml hatch_build.py README.md LICENSE CHANGELOG.md ./
COPY bai_pipeline bai_pipeline
RUN /opt/venv/bin/pip install --constraint constraints.txt ".[dagster]"

FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
RUN groupadd --gid 10001 bai \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin bai \
    && mkdir --parents /opt/dagster/dagster_home
COPY --from=build /opt/venv /opt/venv
COPY assets /opt/bai/assets
COPY resources /opt/bai/resources
COPY deploy/deepspeed /opt/bai/deploy/deepspeed
# The root file system may be read-only: what is written goes to /tmp, DAGSTER_HOME and the store, which are volumes.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/bai \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    DAGSTER_HOME=/opt/dagster/dagster_home \
    DAGSTER_DISABLE_TELEMETRY=1 \
    GX_ANALYTICS_ENABLED=false \
    HF_HUB_OFFLINE=1
WORKDIR /opt/bai
USER 10001:10001
EXPOSE 3030
CMD ["dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "3030", "--module-name", "assets.definitions"]
