"""An S3 server on loopback, in a process of its own."""

import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bai_pipeline.store.remote import RemoteStore, open_remote_store

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an empty server, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the S3 server did not start"
                time.sleep(0.05)
        yield endpoint
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of the server that this process, and those that it starts, find as S3."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{name}", method="PUT"), timeout=30).close()
    return f"s3://{name}/some/prefix"


@pytest.fixture
def machines(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Machines":
    return Machines(bucket, tmp_path, monkeypatch)


class Machines:
    """Machines that have nothing in common but a bucket."""

    def __init__(self, location: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.location, self._directory, self._monkeypatch = location, directory, monkeypatch

    def be(self, name: str) -> RemoteStore:
        """From now on, this process and those that it starts are on this machine."""
        self._monkeypatch.setenv("BAI_STORE_CACHE", str(self._directory / name))
        return open_remote_store(self.location)


def files_of(store: RemoteStore, prefix: str = "") -> list[str]:
    """Names of all files in the bucket, as the store has it."""
    return sorted(entry.name for entry in store.bucket.list(prefix))
