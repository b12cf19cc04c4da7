"""The pytest plugin in projects of others: with pytest-asyncio, anyio, xdist and unittest. It leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.embedded import eventually, processes_of
from tests.support.snippets import ROOT

STEPS = """
from motia_redis import queue, state, step, stateManager

@step({"name": "Count", "triggers": [state(scope="orders"), queue("orders")]})
async def count(input, ctx):
    await ctx.state.update("counts", "n", [{"op": "increment", "path": "/n", "value": 1}])

@step({"name": "Thread", "triggers": [state(scope="orders")]})
def thread(input, ctx):
    ctx.state.set("threads", input.item_id, input.new_value)
    stateManager.set("global", input.item_id, input.new_value)
"""
BODY = """
    app = motia_app("order_step.py")
    assert app.state is motia_state
    assert await motia_state.items("counts") == {}
    await motia_state.set("orders", "1", NUMBER)
    await app.settle()
    assert await motia_state.get("counts", "n") == {"n": 1}
    assert await motia_state.get("threads", "1") == NUMBER
    assert await stateManager.get("global", "1") == NUMBER
    app.crash_before_ack()
    await motia_state.enqueue("orders", 1, delay=1000)
    await app.advance(1000)
    assert await motia_state.get("counts", "n") == {"n": 3}
"""
ASYNCIO = f"""
import pytest
from motia_redis import stateManager

@pytest.mark.asyncio
@pytest.mark.parametrize("NUMBER", range(4))
async def test_function_loop(motia_app, motia_state, NUMBER):{BODY}

@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("NUMBER", range(4))
async def test_session_loop(motia_app, motia_state, NUMBER):{BODY}
"""
ANYIO = f"""
import pytest
from motia_redis import stateManager

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def app(motia_app):
    return motia_app("order_step.py")

@pytest.mark.anyio
@pytest.mark.parametrize("NUMBER", range(4))
async def test_anyio(motia_app, motia_state, NUMBER):{BODY}

@pytest.mark.anyio
async def test_async_fixture(app):
    await app.state.enqueue("orders", 1)
    await app.settle()
    assert await app.state.get("counts", "n") == {{"n": 1}}
"""
UNITTEST = """
import asyncio, unittest
from motia_redis import testing

class OrdersTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.app = await self.enterAsyncContext(testing.application("order_step.py"))

    async def test_one(self):
        await self.app.state.set("orders", "1", 1)
        await self.app.settle()
        self.assertEqual(await self.app.state.get("counts", "n"), {"n": 1})

    async def test_two(self):
        self.assertEqual(await self.app.state.items("counts"), {})

class PlainTest(unittest.TestCase):
    def test_without_event_loop(self):
        async def main():
            async with testing.application("order_step.py") as app:
                await app.state.enqueue("orders", 1)
                await app.settle()
                return await app.state.get("counts", "n")
        self.assertEqual(asyncio.run(main()), {"n": 1})
"""
SYNC = """
def test_plain_function(motia_app):
    import asyncio
    async def main():
        app = motia_app("order_step.py")
        await app.state.enqueue("orders", 1)
        await app.settle()
        return await app.state.get("counts", "n")
    assert asyncio.run(main()) == {"n": 1}

def test_sync_manager(motia_state):
    from motia_redis import sync
    assert sync.stateManager.namespace == motia_state.namespace
    sync.stateManager.set("a", "b", 1)
    assert sync.stateManager.get("a", "b") == 1
"""


def run(directory: Path, *command: str, temporary: str = "t") -> str:
    """Run a command in a project of a few files. Check that it succeeds, and leaves no file and no process."""
    directory.joinpath("order_step.py").write_text(STEPS)
    home = directory / temporary
    home.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(home)}
    environment = {name: value for name, value in environment.items() if not name.startswith(("PYTEST_", "MOTIA_REDIS_URL"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arning" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert [path for path in home.iterdir() if not path.name.startswith("pytest-of-")] == []
    assert eventually(lambda: processes_of(home) == [])
    return done.stdout + done.stderr


def project(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        directory.joinpath(f"{name}.py").write_text(text)
    directory.joinpath("pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    return directory


PYTEST = ["-m", "pytest", "-p", "pytest_motia_redis", "-p", "no:cacheprovider", "-q"]


def test_fixtures_work_with_pytest_asyncio_and_anyio_under_xdist(tmp_path: Path) -> None:
    files = {"test_asyncio": ASYNCIO, "test_anyio": ANYIO, "test_unittest": UNITTEST, "test_sync": SYNC}
    assert "18 passed" in run(project(tmp_path, **files), *PYTEST, "-n", "2")


def test_fixtures_work_in_one_process_whose_directories_have_long_names(tmp_path: Path) -> None:
    files = {"test_asyncio": ASYNCIO, "test_anyio": ANYIO, "test_unittest": UNITTEST, "test_sync": SYNC}
    assert "18 passed" in run(project(tmp_path, **files), *PYTEST, temporary="t" * 60)


def test_fixtures_work_with_the_auto_mode_of_pytest_asyncio(tmp_path: Path) -> None:
    text = ASYNCIO.replace("@pytest.mark.asyncio\n", "")
    assert "8 passed" in run(project(tmp_path, test_asyncio=text), *PYTEST, "-o", "asyncio_mode=auto")


def test_unittest_needs_no_pytest(tmp_path: Path) -> None:
    assert "Ran 3 tests" in run(project(tmp_path, test_unittest=UNITTEST), "-m", "unittest", "-v")


def test_project_may_name_another_redis(tmp_path: Path, server: object) -> None:
    url = server.url  # type: ignore[attr-defined]
    conftest = f"import pytest\n@pytest.fixture(scope='session')\ndef motia_url():\n    return {url!r}\n"
    text = f"def test_it(motia_state):\n    assert motia_state.url == {url!r}\n"
    assert "1 passed" in run(project(tmp_path, conftest=conftest, test_it=text), *PYTEST)


def test_plugin_imports_nothing_of_the_package_before_a_fixture_is_used() -> None:
    program = "import sys, pytest_motia_redis; print([name for name in sys.modules if name.startswith('motia_redis')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    program = "import sys, motia_redis.testing; print({'pytest', 'starlette', 'httpx', '_pytest'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
