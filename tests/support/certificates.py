"""Self-signed certificates for servers on 127.0.0.1."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path


class Certificate(NamedTuple):
    """The files of a certificate and its key, both in PEM format."""

    certificate: Path
    key: Path


def create_certificate(directory: Path) -> Certificate:
    """Create a certificate that is valid for two days. Skip the test if openssl is not installed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    created = Certificate(directory / "cert.pem", directory / "key.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(created.key), "-out", str(created.certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return created
