# The image of jobs: what a GPU pod runs. No Dagster in it beyond its Pipes client.
#   docker build -f deploy/images/job.Dockerfile -t registry.example/bai-jobs:0.1.0 .
# Torch's CUDA build brings CUDA's libraries; the node brings the driver. There is no compiler: DeepSpeed's own optimizers
# for offloading, which are compiled when first used, need an image with CUDA's toolkit instead.
# vLLM lives in a Python environment of its own (docs/guide/rollouts.md): derive an image that has it, and set
# BAI_VLLM_PYTHON in the compute file's `env`.

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
RUN /opt/venv/bin/pip install --constraint constraints.txt ".[evals]"

FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
# Sandboxes for the programs that models write; they need user namespaces in the pod (docs/guide/evaluation.md).
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 bai \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin bai
COPY --from=build /opt/venv /opt/venv
# The root file system may be read-only: what is written goes to /tmp and the store, which are volumes.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["python", "-m", "bai_pipeline.jobs"]
