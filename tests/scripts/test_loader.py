"""The script loader and the contract between Lua and Python."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from motia_redis import errors
from motia_redis._scripts import administration, delivery, error_codes, loader, storage, timing

LUA = loader.directory()
ENTRY_POINTS = sorted(path.stem for path in LUA.glob("*.lua"))
PARTS = sorted((LUA / "lib").glob("*.lua"))


@pytest.fixture
def lua(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    return tmp_path


def test_a_part_stands_in_front_once_and_before_its_users(lua: Path) -> None:
    (lua / "lib" / "a.lua").write_text("return 1\n")
    (lua / "lib" / "b.lua").write_text('local a = require("lib.a")\nreturn a\n')
    (lua / "main.lua").write_text('local a = require("lib.a")\nlocal b = require("lib.b")\nreturn a + b\n')
    text = loader.assemble("main", lua)
    assert text.count("local function lib_a()") == text.count("local function lib_b()") == 1
    assert text.index("local function lib_a()") < text.index("local function lib_b()") < text.index("return a + b")
    assert "require" not in text


def test_parts_stand_where_the_entry_point_wants_them(lua: Path) -> None:
    (lua / "lib" / "a.lua").write_text("return 1\n")
    (lua / "main.lua").write_text('if short then\n  return 0\nend\n-- PARTS\nreturn require("lib.a")\n')
    text = loader.assemble("main", lua)
    assert text == "if short then\n  return 0\nend\nlocal function lib_a()\nreturn 1\nend\nreturn lib_a()\n"


def test_a_part_that_is_required_early_stands_above(lua: Path) -> None:
    (lua / "lib" / "a.lua").write_text("return 1\n")
    (lua / "lib" / "b.lua").write_text('local a = require("lib.a")\nreturn a\n')
    (lua / "main.lua").write_text('if short then\n  return require("lib.a")\nend\n-- PARTS\nreturn require("lib.b")\n')
    text = loader.assemble("main", lua)
    assert text.count("local function lib_a()") == text.count("local function lib_b()") == 1
    assert text.index("local function lib_a()") < text.index("if short") < text.index("local function lib_b()")


def test_library_has_each_entry_point_as_a_function_and_makes_each_part_once(lua: Path) -> None:
    (lua / "lib" / "a.lua").write_text("return 1\n")
    (lua / "lib" / "b.lua").write_text('return require("lib.a") + 1\n')
    (lua / "one.lua").write_text('-- Do it.\n--\n-- FLAGS    no-writes\n-- KEYS     none\n\n-- PARTS\nreturn require("lib.b")\n')
    (lua / "two.lua").write_text('local a = require("lib.a")\nreturn a\n')
    assert loader.assemble_library(lua).splitlines() == [
        "local lib_a, lib_b",
        "local made",
        "local function make()",
        "lib_a = (function()",
        "return 1",
        "end)()",
        "lib_b = (function()",
        "return lib_a + 1",
        "end)()",
        "made = true",
        "end",
        'redis.register_function{function_name = LIBRARY .. "_one", description = ABOUT, flags = {"no-writes"},',
        "callback = function(KEYS, ARGV)",
        "if not made then make() end",
        "return lib_b",
        "end}",
        'redis.register_function{function_name = LIBRARY .. "_two", description = ABOUT, flags = {},',
        "callback = function(KEYS, ARGV)",
        "if not made then make() end",
        "local a = lib_a",
        "return a",
        "end}",
    ]


def test_a_cycle_of_parts_is_rejected(lua: Path) -> None:
    (lua / "lib" / "a.lua").write_text('local b = require("lib.b")\n')
    (lua / "lib" / "b.lua").write_text('local a = require("lib.a")\n')
    (lua / "main.lua").write_text('local a = require("lib.a")\n')
    with pytest.raises(loader.ScriptError, match=r"main -> a -> b -> a: .* in a cycle"):
        loader.assemble("main", lua)


def test_a_missing_part_is_named(lua: Path) -> None:
    (lua / "main.lua").write_text('local a = require("lib.gone")\n')
    with pytest.raises(loader.ScriptError, match=r"gone\.lua"):
        loader.assemble("main", lua)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_entry_point_opens_with_the_header(name: str) -> None:
    text = (LUA / f"{name}.lua").read_text()
    header = text[: text.index("\n\n")]
    assert re.match(r"-- [A-Z].+\.\n", header), "the first line says the purpose"
    titles = re.findall(r"^-- ([A-Z]{4,}) +\S", header, re.MULTILINE)
    assert titles[:1] != ["FLAGS"] or titles.pop(0)
    assert titles == ["KEYS", "ARGV", "RETURNS", "ERRORS", "COST", "INVARIANT"]
    assert "#!" not in text, "Redis 6.2 knows no #!lua line"


_BOUND = r"(?:tonumber\()?(?:KEYS|ARGV)\[\d+\]\)?"
_BINDING = re.compile(rf"local [\w, ]+ = (?:{_BOUND}(?:, {_BOUND})*|unpack\((?:KEYS|ARGV)(?:, \d+, \d+)?\))")


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_keys_and_arguments_are_bound_at_the_top(name: str) -> None:
    """An index that is a number stands in the binding lines only; any other index reads a tail whose offset has a name."""
    code = re.sub(r" *--.*", "", (LUA / f"{name}.lua").read_text()).lstrip()
    lines = code.splitlines()
    top = [line for line in lines[: lines.index("")] if line]
    while top and all(re.match(r"local \w+ = require", line) for line in top):  # parts stand above
        rest = lines[lines.index("") + 1 :]
        lines, top = rest, rest[: rest.index("")]
    bound = [line for line in top if _BINDING.fullmatch(line)]
    assert bound
    body = "\n".join(line for line in lines if line not in bound)
    assert not re.search(r"\b(KEYS|ARGV)\[\d", body)
    if re.search(r"\b(KEYS|ARGV)\b", body):
        assert re.search(r"^local FIRST_\w+(, FIRST_\w+)* = \d", body, re.MULTILINE), "name the offset of the tail"


def _calls(tree: ast.AST) -> dict[str, int]:
    """Return how often each script is loaded in a module."""
    loads = Counter[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"loader.load", "load"} and node.args:
            assert isinstance(node.args[0], ast.Constant), ast.unparse(node)
            loads[str(node.args[0].value)] += 1
    return loads


def test_every_entry_point_has_one_typed_function_and_is_loaded_in_one_place() -> None:
    functions = [
        name
        for module in (storage, timing, delivery, administration)
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value) and value.__module__ == module.__name__ and not name.endswith("_many")
    ]
    assert sorted(functions) == ENTRY_POINTS
    package = Path(errors.__file__).parent
    loads = Counter[str]()
    for path in package.rglob("*.py"):
        found = _calls(ast.parse(path.read_text()))
        assert not found or path.parent.name == "_scripts", f"{path} loads a script: call its typed function"
        loads.update(found)
    assert loads == Counter(ENTRY_POINTS)


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_parts_touch_neither_keys_nor_arguments_nor_redis(path: Path) -> None:
    code = re.sub(r"--.*", "", path.read_text())
    assert not re.search(r"\b(KEYS|ARGV|redis)\b", code)


def test_nothing_decodes_values_with_cjson() -> None:
    for path in LUA.rglob("*.lua"):
        assert "cjson" not in path.read_text()


def test_scripts_take_the_time_from_one_place() -> None:
    assert [path.name for path in LUA.rglob("*.lua") if '"TIME"' in path.read_text()] == ["clock.lua"]


def raised_by(name: str) -> set[str]:
    return set(re.findall(r'(?:fail\(|error_reply\(|code = |err = )"([A-Z]+)', loader.assemble(name, LUA)))


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_header_names_exactly_the_error_codes_that_the_script_raises(name: str) -> None:
    text = (LUA / f"{name}.lua").read_text()
    described = re.search(r"^-- ERRORS(.*\n(?:--    .*\n)*)", text, re.MULTILINE)
    documented = set(re.findall(r"\b[A-Z]{6,}\b", described[1])) if described else set()
    assert documented == raised_by(name)


def test_lua_and_python_know_the_same_error_codes() -> None:
    assert set().union(*map(raised_by, ENTRY_POINTS)) == set(error_codes.BY_CODE)


def test_the_drawn_error_tree_is_the_real_one() -> None:
    drawn = re.findall(r"^    (?:[│ ]   )*[├└]── (\w+).*?([A-Z]{5,})?$", errors.__doc__ or "", re.MULTILINE)
    real = {
        (name, error.code or "")
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.StateError) and error is not errors.StateError
    }
    assert set(drawn) == real
