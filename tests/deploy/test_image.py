"""The image, without containers: the instructions of the Dockerfile run in a folder, and the result runs as its user there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.deploying import DEPLOY, at_home, services
from tests.support.http import ask
from tests.support.servers import RedisServer
from tests.support.snippets import ROOT
from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCKERFILE = DEPLOY / "Dockerfile"
PLACES = ("/opt/", "/src", "/app")  # the folders of the image that the Dockerfile names


def instructions() -> list[tuple[str, str]]:
    """Return the words and arguments of the Dockerfile."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def base_python() -> str:
    """Return a Python for the image that another user may run: that of the tests, or the system's if that lies in a home."""
    own = Path(sys.executable).resolve()
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in own.parents):
        return str(own)
    return "/usr/bin/python3"


@dataclass
class Image:
    """Run the instructions with the folders of the image below `root`. All stages share it, as they name no folder twice."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    directory: Path = Path()

    def place(self, text: str) -> str:
        """Replace the image's folders by those below the root."""
        return re.sub(rf"(?<![\w./])({'|'.join(PLACES)})", lambda m: f"{self.root}{m[1]}", text)

    def build(self) -> None:
        arguments: dict[str, str] = {}
        stages: dict[str, dict[str, str]] = {}  # the environment of each
        for word, rest in instructions():
            match word:
                case "FROM":
                    base, _, name = rest.split()
                    fresh = {"PATH": os.pathsep.join([str(self.root / "bin"), "/usr/bin", "/bin"])}
                    self.environment = stages[name] = dict(stages.get(base, fresh))
                case "ARG":
                    name, _, value = rest.partition("=")
                    arguments[name] = value
                case "WORKDIR":
                    self.directory = Path(self.place(rest))
                    self.directory.mkdir(exist_ok=True)
                case "COPY" if not rest.startswith("--from="):
                    *sources, target = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], rest).split()
                    for source in sources:
                        self._copy(ROOT / source, self.directory / self.place(target))
                case "RUN":
                    words = json.loads(rest) if rest.startswith("[") else ["sh", "-c", rest]
                    self._run([self.place(each) for each in words], arguments)
                case "ENV":
                    for name, value in (each.split("=", 1) for each in rest.split()):
                        self.environment[name] = self.place(value).replace("$PATH", self.environment["PATH"])
                case "USER":
                    self.user = rest
                case "ENTRYPOINT":
                    self.entrypoint = json.loads(rest)

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_file():
            shutil.copy(source, target)
        else:
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    def _run(self, words: list[str], arguments: dict[str, str]) -> None:
        needed = re.compile("PIP_.*|HOME|.*_proxy", re.IGNORECASE)  # to reach the package index
        machine = {name: value for name, value in os.environ.items() if needed.fullmatch(name)}
        environment = {**machine, **self.environment, **arguments}
        done = subprocess.run(
            words, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, log: Path, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start the entry point as the image's user; as the own user if that may not change users."""
        user, group = (int(number) for number in self.user.split(":"))
        as_user = {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}
        program = shutil.which(self.entrypoint[0], path=self.environment["PATH"])
        assert program is not None
        with log.open("wb") as output:
            return subprocess.Popen(
                [program, *self.entrypoint[1:], *words],
                cwd=self.directory,
                env={**self.environment, **variables},
                stdout=output,
                stderr=output,
                **as_user,  # type: ignore[arg-type]
            )


def test_build_sees_what_it_copies_and_any_application_but_no_secret() -> None:
    left_out = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]

    def is_seen(path: str) -> bool:
        parts = [path, *(str(parent) for parent in Path(path).parents)]
        return not any(
            fnmatch(part, line) or fnmatch(f"./{part}", line.replace("**/", "*/")) for part in parts for line in left_out
        )

    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    for source in {source for sources in copied for source in sources if "$" not in source} | {
        "deploy/app",
        "examples",
        "my/steps",
    }:
        assert is_seen(source), source
    for secret in ("deploy/console_token", ".env", "my/steps/.env", ".git/config", ".venv/bin/python", ".venv-matrix/log"):
        assert not is_seen(secret), secret


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """An image below a folder that any user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="motia-image-"))
    folder.chmod(0o755)
    (folder / "opt").mkdir()
    (folder / "bin").mkdir()
    for name, program in {"python": base_python(), "pip": shutil.which("pip", path=Path(sys.executable).parent)}.items():
        assert program is not None
        (folder / "bin" / name).symlink_to(program)
    built = Image(folder)
    built.build()
    yield built
    shutil.rmtree(folder)


@pytest.mark.alone
def test_image_runs_as_its_user_and_writes_no_file(image: Image, tmp_path: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in image.root.rglob("*")}
    words = at_home(services()["worker"]["command"], image.root / "app")
    log = tmp_path / "worker.log"
    with RedisServer(tmp_path, "--unixsocketperm", "777") as server:
        server.socket.parent.chmod(0o755)
        process = image.start(log, *words, MOTIA_REDIS_URL=server.url)
        try:
            wait_until(lambda: "worker ready" in log.read_text() or process.poll() is not None, "the worker is ready")
            assert process.poll() is None, log.read_text()
            if os.geteuid() == 0:
                assert Path(f"/proc/{process.pid}").stat().st_uid == int(image.user.partition(":")[0]) != 0
            ports = dict(re.findall(r"(probes|metrics) at http://127\.0\.0\.1:(\d+)", log.read_text()))
            wait_until(lambda: ask(f"http://127.0.0.1:{ports['probes']}/readyz")[0] == 200, "its first heartbeat")
            assert "motia_redis_workers{" in ask(f"http://127.0.0.1:{ports['metrics']}/metrics")[1]
            process.terminate()
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            process.wait()
    assert {path: path.stat().st_mtime_ns for path in image.root.rglob("*")} == files
