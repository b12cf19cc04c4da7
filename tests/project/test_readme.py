"""The README: every snippet in it is executed here, and what it says it prints is what is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from motia_redis._steps.loading import load_application
from tests.support.applications import Command
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROGRAMS = [code for language, code in BLOCKS if language == "python" and "asyncio.run" in code]
STEPS = [code for language, code in BLOCKS if language == "python" and "@step" in code]
COMMANDS = [line for language, code in BLOCKS if language == "console" for line in code.splitlines()]


def test_every_block_is_of_a_kind_that_is_executed_here() -> None:
    assert len(BLOCKS) == len(PROGRAMS) + len(STEPS) + 3
    assert {language for language, _ in BLOCKS} == {"python", "console"}


@pytest.mark.parametrize("code", PROGRAMS, ids=lambda code: code.splitlines()[1])
def test_programs_print_what_the_readme_says(code: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("MOTIA_REDIS_URL", "MOTIA_REDIS_NAMESPACE")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == re.findall(r"print\(.*#\s+(.*)$", code, re.MULTILINE)


def test_the_steps_run_with_the_readme_s_commands(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "orders_step.py").write_text(STEPS[0])
    assert [step.name for step in load_application([str(tmp_path / "orders_step.py")]).steps] == [
        "CreateOrder",
        "ShipOrder",
        "SendMail",
    ]
    lines = [line.removeprefix("$ motia-redis ").split("#")[0].split() for line in COMMANDS if "$ motia-redis" in line]
    assert [line[0] for line in lines] == ["run", "serve", "worker", "doctor", "status", "dead", "steps"]
    run, *apart = [[word if word != "redis://db:6379/0" else server.url for word in line] for line in lines[:3]]
    with Command(tmp_path, *run, "--port", "0", ready="serving") as everything:
        order(everything)
        wait_until(lambda: "mail sent" in everything.output, "the order is shipped and the mail sent")
        assert everything.stop() == 0
    assert (tmp_path / ".motia").is_dir(), "the embedded Redis"
    common = ["--namespace", namespace]
    with (
        Command(tmp_path, *apart[0], *common, "--port", "0", ready="serving") as front,
        Command(tmp_path, *apart[1], *common) as back,
    ):
        order(front)
        wait_until(lambda: "mail sent" in back.output, "the order is shipped and the mail sent by the worker")
        assert "mail sent" not in front.output
        for line, code in zip(lines[3:], (0, 0, 0, 2), strict=True):
            command = [sys.executable, "-m", "motia_redis", *line, *common, "--redis", server.url]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == code, done.stderr
            if line[0] == "status":
                assert all(name in done.stdout for name in ("ShipOrder", "SendMail"))
            if line[0] == "steps":
                assert "OldStep" in done.stderr, "there is no such step to forget"


def order(process: Command) -> None:
    response = httpx.post(f"http://127.0.0.1:{process.port}/orders/7", json={"status": "paid"})
    assert response.status_code == 201
    assert response.json() == {"status": "paid"}


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\$ make (\w+)", "\n".join(COMMANDS), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_and_the_module_map_name_what_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    table = README.split("## Where things are")[1].split("`lua/`")[0]
    named = set(re.findall(r"`(\w+)`", table)) - {"StateManager"}
    modules = {path.stem for path in (ROOT / "motia_redis").glob("*.py")} - {"__init__", "__main__"}
    assert modules <= named
