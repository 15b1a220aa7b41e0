"""A PostgreSQL server of its own on a loopback port, from Debian's package; it is gone afterwards."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "dagster"
DEBIAN = Path("/usr/lib/postgresql")
UNPRIVILEGED = "postgres"
"""Whom the server runs as when root starts it: PostgreSQL refuses to run as root."""


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """A running server; yields the environment variables that deploy/dagster-postgres.yaml reads.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
        subprocess.CalledProcessError: it does not start.
    """
    binaries = _binaries()
    password, port = secrets.token_urlsafe(16), free_port()
    base = Path(tempfile.mkdtemp(prefix="bai-postgresql-"))
    (base / "password").write_text(password + "\n", encoding="utf-8")
    (base / "password").chmod(0o600)
    if os.getuid() == 0:
        for path in (base, base / "password"):
            shutil.chown(path, UNPRIVILEGED)
    data, log = base / "data", base / "log"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
    try:
        _run(binaries / "initdb", "-D", data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={base / 'password'}")
        _run(binaries / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield {
                "DAGSTER_PG_HOST": "127.0.0.1",
                "DAGSTER_PG_PORT": str(port),
                "DAGSTER_PG_USERNAME": USER,
                "DAGSTER_PG_PASSWORD": password,
                "DAGSTER_PG_DB": "postgres",
            }
        finally:
            _run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(base)


def _binaries() -> Path:
    """Debian keeps them out of PATH, in a directory for each version."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not versions:
        raise FileNotFoundError("no initdb in PATH or under /usr/lib/postgresql: install the package postgresql")
    return versions[-1].parent


def _run(*command: object) -> None:
    prefix = ["runuser", "-u", UNPRIVILEGED, "--"] if os.getuid() == 0 else []
    # To a file and not to a pipe: the server inherits what pg_ctl has open.
    with tempfile.TemporaryFile() as output:
        subprocess.run([*prefix, *map(str, command)], check=True, stdout=output, stderr=output, cwd="/")
