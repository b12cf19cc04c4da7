"""The README and the docs: every block of code in them runs, and what they say it prints is what is printed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import httpx
import pytest
import redis
from click.testing import CliRunner

import motia_redis
from motia_redis import StateManager, errors
from tests.support import snippets
from tests.support.applications import Command
from tests.support.servers import RedisServer
from tests.support.snippets import PAGES, ROOT, Block, blocks_in, blocks_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is read here as what it says it is, and what is not code.
DATA = {"json": json.loads, "toml": tomllib.loads}
NO_CODE = {"text", "yaml", "ini", "dockerfile", "nginx"}
# Programs that have nothing to do with this project; their lines are not run.
FOREIGN_PROGRAMS = {"curl", "docker", "git", "kubectl", "systemctl"}

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.kind == "python"})
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that keeps its data on disk, so that programs print no warning, with the namespace `console`."""

    async def create_namespace(url: str) -> None:
        async with StateManager(url, namespace="console"):
            pass

    with RedisServer(tmp_path_factory.mktemp("durable"), "--appendonly", "yes") as server:
        asyncio.run(create_namespace(server.url))
        yield server


def commands_of(block: Block) -> list[tuple[list[str], str]]:
    """Return the commands of a console block, in words, each with the output that is shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            assert found, f"{block.place}: output before the first command: {line}"
            found[-1][1].append(line)
    return [(shlex.split(command, comments=True), "\n".join(output)) for command, output in found]


#: Lua as it may stand in a page, where `require` finds the parts of the scripts.
LUA_SAMPLE = """
```lua
return type(require("lib.container").put) -- function
```
"""


def of_kind(kind: str, sample: str = "") -> Any:
    blocks = [*BLOCKS, *blocks_in(sample, "sample")]
    return pytest.mark.parametrize("block", [pytest.param(b, id=b.place) for b in blocks if b.kind == kind])


def test_every_block_is_of_a_kind_that_is_tested_here() -> None:
    known = {"python", "lua", "console", *DATA, *NO_CODE}
    assert [f"{b.place}: {b.kind!r}" for b in BLOCKS if b.kind not in known and not re.fullmatch(r"\{[\w-]+\}.*", b.kind)] == []


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_prints_what_its_comments_say(page: str, durable: RedisServer, tmp_path: Path) -> None:
    blocks = [block for block in BLOCKS if block.page == page and block.kind == "python"]
    environment = {"MOTIA_REDIS_URL": durable.url, "MOTIA_REDIS_NAMESPACE": re.sub(r"\W", "-", page)}
    printed = snippets.run_page(blocks, tmp_path / "page", environment)
    assert [(b.place, lines) for b, lines in zip(blocks, printed, strict=True)] == [(b.place, b.expected) for b in blocks]


@of_kind("lua", LUA_SAMPLE)
def test_lua_returns_what_its_last_line_says(block: Block, raw: redis.Redis) -> None:
    """The last line is `return ... -- what it returns`."""
    *_, last = block.code.rstrip().splitlines()
    assert run_lua(block.code, raw) == last.partition("-- ")[2]


def run_lua(code: str, client: redis.Redis) -> str:
    """Run code in Redis, where `require` finds the parts in lua/lib."""
    parts = [f"['lib.{part.stem}'] = function() {part.read_text()} end" for part in sorted((ROOT / "lua" / "lib").glob("*.lua"))]
    prelude = f"local require, made = nil, {{}} local parts = {{ {', '.join(parts)} }}\n"
    prelude += "require = function(name) made[name] = made[name] or parts[name]() return made[name] end\n"
    returned = client.eval(prelude + code, 0)
    return returned.decode() if isinstance(returned, bytes) else str(returned)


@pytest.mark.parametrize("kind", DATA)
def test_data_can_be_read(kind: str) -> None:
    for block in BLOCKS:
        if block.kind == kind:
            DATA[kind](block.code)


# -- console ------------------------------------------------------------------------------------------------------------------


@of_kind("console")
def test_console_commands_run(block: Block, durable: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run_console(block, durable, monkeypatch)


def run_console(block: Block, durable: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run or check each command, by what kind of program it is."""
    monkeypatch.setenv("MOTIA_REDIS_URL", durable.url)
    monkeypatch.setenv("MOTIA_REDIS_NAMESPACE", "console")
    for words, output in commands_of(block):
        match words:
            case ["make", *targets]:
                for target in targets:
                    assert "=" in target or re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{block.place}: make {target}"
            case ["motia-redis", *arguments]:
                printed = _run_command(arguments, durable, block.place)
                assert not output or _fits(printed, output), f"{block.place}: {printed}"
            case ["pip" | "uv", *rest]:
                for extra in re.findall(r"\[([\w,-]+)\]", " ".join(rest)):
                    assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), f"{block.place}: {extra}"
            case ["python" | "python3", "-m", module, *_]:
                assert importlib.util.find_spec(module), f"{block.place}: python -m {module}"
            case ["python" | "python3", script, *_]:
                assert (ROOT / script).is_file(), f"{block.place}: {script}"
            case ["redis-cli", *arguments]:
                _redis_cli(durable, arguments)
            case [program, *_]:
                assert program in FOREIGN_PROGRAMS, f"{block.place}: the tests do not know how to run {program!r}"


def _cli() -> click.Group:
    """Return the command that the package installs."""
    module, _, name = PROJECT["scripts"]["motia-redis"].partition(":")
    command: click.Group = getattr(importlib.import_module(module), name)
    return command


def _run_command(arguments: list[str], durable: RedisServer, place: str) -> str:
    """Run a command that ends by itself, and parse the arguments of others. Return what was printed."""
    if arguments[0] in ("run", "serve", "worker") and "--help" not in arguments:
        command = _cli().commands[arguments[0]]
        try:
            command.make_context(arguments[0], arguments[1:])
        except click.ClickException as error:
            pytest.fail(f"{place}: {error.format_message()}")
        return ""
    words = [re.sub(r"^(redis|rediss|unix|embedded)(\+\w+)?://.*", durable.url, word) for word in arguments]
    done = CliRunner().invoke(_cli(), words)
    # An error of the command itself, such as a step that does not exist, is one line that begins so; wrong usage is not.
    is_reported = done.stderr.startswith("motia-redis: error:")
    failed_check = done.exit_code == 1 and words[0] == "doctor"
    assert done.exit_code == 0 or failed_check or is_reported, f"{place}: {done.output} {done.exception!r}"
    return done.stdout


def _fits(printed: str, shown: str) -> bool:
    """Tell whether a command prints what is shown, where `...` stands for anything and spaces for any number of them."""
    pattern = re.escape(" ".join(shown.split())).replace(r"\.\.\.", ".*").replace("\\ ", " ")
    return re.fullmatch(pattern, " ".join(printed.split())) is not None


def _redis_cli(durable: RedisServer, arguments: list[str]) -> None:
    """Run what follows the options of redis-cli, which say where Redis is."""
    while arguments and arguments[0].startswith("-"):
        arguments = arguments[2:]
    if arguments:
        with redis.Redis.from_url(durable.url) as client:
            client.execute_command(*arguments)


def tours() -> list[str]:
    """Return the pages that show requests to an application that they define."""
    return sorted({block.page for block in BLOCKS if block.kind == "console" and "$ curl" in block.code})


@pytest.mark.parametrize("page", tours())
def test_an_application_answers_as_shown(page: str, durable: RedisServer, namespace: str, tmp_path: Path) -> None:
    """Each answer is the one shown, and the log has all messages: in one process, and in two where the page shows both ways."""
    steps = [block for block in BLOCKS if block.page == page and block.is_step_file]
    for block in steps:
        (tmp_path / block.file_name).write_text(block.code)
    messages = re.findall(r'ctx\.logger\.info\("([^"]+)"', "".join(block.code for block in steps))
    consoles = [block for block in BLOCKS if block.page == page and block.kind == "console"]
    commands = [command for block in consoles for command in commands_of(block)]
    starts = {words[1]: words[1:] for words, _ in commands if words[0] == "motia-redis"}
    requests = [(words[1:], output) for words, output in commands if words[0] == "curl"]

    def ask(process: Command) -> None:
        for words, output in requests:
            assert _curl(words, process.port) == output

    def wait_for_messages(process: Command) -> None:
        for message in messages:
            wait_until(lambda message=message: message in process.output, f"{page}: the log says {message!r}")

    with Command(tmp_path, *starts["run"], "--port", "0", ready="serving") as everything:
        ask(everything)
        wait_for_messages(everything)
        assert everything.stop() == 0
    assert (tmp_path / ".motia").is_dir(), "the embedded Redis"
    if "serve" in starts:
        options = ["--redis", durable.url, "--namespace", namespace]
        with (
            Command(tmp_path, *starts["serve"], *options, "--port", "0", ready="serving") as front,
            Command(tmp_path, *starts["worker"], *options) as back,
        ):
            ask(front)
            wait_for_messages(back)
            assert not any(message in front.output for message in messages)
            shown = _run_command(["status", *options], durable, page)
            names = re.findall(r'"name": "(\w+)", "triggers": \[(?:state|queue)', "".join(block.code for block in steps))
            assert names
            assert all(name in shown for name in names), shown


def _curl(words: list[str], port: int) -> str:
    """Do what curl does with `-i`, `-X METHOD`, `-H HEADER`, `--json TEXT` and a URL, and return what it prints."""
    method, body, headers, show_status, url = "GET", None, {}, False, ""
    rest = iter(words)
    for word in rest:
        match word:
            case "-i":
                show_status = True
            case "-s":
                pass
            case "-X":
                method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            case "--json":
                method, body = ("POST" if method == "GET" else method), next(rest)
                headers["content-type"] = "application/json"
            case _:
                url = re.sub(r"^http://(localhost|127\.0\.0\.1):\d+", f"http://127.0.0.1:{port}", word)
    response = httpx.request(method, url, content=body, headers=headers)
    status = f"HTTP/1.1 {response.status_code} {response.reason_phrase}\n...\n" if show_status else ""
    return status + response.text


# -- tables, links ------------------------------------------------------------------------------------------------------------


def operations() -> list[Any]:
    """Return the rows of the tables in docs/updates.md: before, operation, lenient, strict."""
    rows = []
    for number, line in enumerate((ROOT / "docs" / "updates.md").read_text().splitlines(), 1):
        cells = [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[1].startswith("{"):
            rows.append(pytest.param(*cells, id=f"line {number}"))
    return rows


@pytest.mark.parametrize(("before", "operation", "lenient", "strict"), operations())
async def test_the_tables_of_operations_hold(state: StateManager, before: str, operation: str, lenient: str, strict: str) -> None:
    for is_strict, result in ((False, lenient), (True, strict)):
        await state.clear("docs")
        if before != "no value":
            await state.set("docs", "doc", json.loads(before))
        ops = [json.loads(operation)]
        if result[:1].isupper():
            with pytest.raises(getattr(errors, result)) as caught:
                await state.update("docs", "doc", ops, strict=is_strict)
            assert type(caught.value).__name__ == result
        else:
            updated = await state.update("docs", "doc", ops, strict=is_strict)
            assert repr(updated) == repr(json.loads(result if result != "the same" else lenient))


def test_every_operation_is_in_the_tables() -> None:
    named = {json.loads(row.values[1]).get(field) for row in operations() for field in ("op", "type")}
    names = "add remove replace move copy test increment decrement append merge set"
    assert named - {None} == set(names.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_what_is_there(page: Path) -> None:
    """Sphinx checks the links between pages; this covers the README and files outside of the docs."""
    prose = re.sub(r"^( *```).*?^\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {link}"
        if anchor:
            text = path.read_text()
            for included in re.findall(r"^```\{include\} (.*)$", text, re.MULTILINE):
                text += (path.parent / included).read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            named = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
            assert anchor in slugs | named, f"{page.name}: {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_the_reference_has_every_public_name() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    described = set(re.findall(r"^(?:\.\. auto(?:class|function):: |\.\. data:: | {10})(\w+)$", text, re.MULTILINE))
    assert set(motia_redis.__all__) <= described


# -- the tests above can fail -------------------------------------------------------------------------------------------------


def one_block(kind: str, code: str) -> Block:
    (block,) = blocks_in(f"Text\n\n```{kind}\n{code}\n```\n", "page")
    assert (block.kind, block.code, block.place) == (kind, f"{code}\n", "page:4")
    return block


def test_blocks_without_an_end_are_errors() -> None:
    with pytest.raises(ValueError, match="page:2: the fence has no end"):
        blocks_in("```python\nprint(1)\n", "page")


def test_blocks_may_show_fences() -> None:
    (block,) = blocks_in("````text\n```python\n```\n````\n", "page")
    assert block.code == "```python\n```\n"


def test_python_of_a_page_shares_names_only_between_lines_with_await(tmp_path: Path) -> None:
    codes = ["import asyncio\nn = await asyncio.sleep(0, 1)", "n = 2\nprint(n)  # 2", "print(await asyncio.sleep(0, n))  # 3"]
    blocks = [one_block("python", code) for code in codes]
    assert snippets.run_page(blocks, tmp_path / "page", {}) == [[], ["2"], ["1"]]
    assert [block.expected for block in blocks] == [[], ["2"], ["3"]]


@pytest.mark.parametrize(
    "code", ["1 / 0", "import warnings\nwarnings.warn('old')", "from motia_redis import step\nnone = step({})"]
)
def test_python_that_fails_is_reported_with_its_place(code: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="page"):
        snippets.run_page([one_block("python", code)], tmp_path / "page", {})


@pytest.mark.parametrize(
    "line", ["$ make nothing", "$ motia-redis statsu", "$ motia-redis run", "$ pip install motia-redis[none]", "$ frobnicate",
             "$ motia-redis dead list\nno such output", "$ python -m no_such_module"],
)  # fmt: skip
def test_wrong_console_lines_are_found(line: str, durable: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_console(one_block("console", line), durable, monkeypatch)
