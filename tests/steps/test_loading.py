"""Loading applications: what is found in files, folders and modules, and how what is wrong with them is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._steps.loading import load_application
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from motia_redis._steps.application import Application

HEAD = "from motia_redis import step, http, state, queue\n"
ONE_STEP = HEAD + "@step({{'name': '{0}', 'triggers': [queue('{0}')]}})\ndef run(input): return __name__\n"


@pytest.fixture(autouse=True)
def clean_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder and forget what a test imported."""
    monkeypatch.chdir(tmp_path)
    paths = sys.path[:]
    yield
    sys.path[:] = paths
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
        if any(place.startswith(str(tmp_path)) for place in places) or name == "users":
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def names(application: Application) -> list[str]:
    return [step.name for step in application.steps]


def error_of(*targets: str) -> str:
    with pytest.raises(StepError) as caught:
        load_application(targets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is found ----------------------------------------------------------------------------------------------------


def test_file_gives_its_steps_in_their_order(write: Any) -> None:
    write("app.py", ONE_STEP.format("B") + "x = step({'name': 'A', 'triggers': [http('GET', '/')]}).handle(print)\n")
    assert names(load_application(["app.py"])) == ["B", "A"]


def test_example_of_the_reference_page_is_loaded() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "users.py"
    application = load_application([str(example)])
    assert names(application) == ["CreateUser", "RecordLogin", "OnUserChange", "ListUsers"]
    assert len(application.http_routes) == 3
    assert [step.name for step in application.worker_steps] == ["OnUserChange"]


def test_definition_without_handler_takes_the_handler_of_its_module(write: Any) -> None:
    write(
        "app.py",
        HEAD + "my_step = step({'name': 'OnUserChange', 'triggers': [state()]})\nasync def handler(input, ctx): ...\n",
    )
    (found,) = load_application(["app.py"]).steps
    assert found.handler is sys.modules["app"].handler
    assert load_application(["app.py"]).steps == (found,)


def test_definition_whose_handle_result_is_dropped_is_found_once_with_its_step(write: Any) -> None:
    write(
        "app.py",
        HEAD + "one = step({'name': 'A', 'triggers': [queue('t')]})\none.handle(print)\n"
        "two = step({'name': 'B', 'triggers': [queue('t')]})\nbound = two.handle(print)\n",
    )
    assert names(load_application(["app.py"])) == ["A", "B"]


@pytest.mark.parametrize(
    "config",
    ["config = {'name': 'C', 'triggers': [queue('t')]}", "config = step({'name': 'C', 'triggers': [queue('t')]})"],
    ids=["dict", "step"],
)
def test_module_with_config_and_handler_is_one_step_however_often_it_is_loaded(write: Any, config: str) -> None:
    write("app.py", f"{HEAD}{config}\ndef handler(input): return 'ran'\n")
    (found,) = load_application(["app.py"]).steps
    assert (found.name, found(1)) == ("C", "ran")
    assert load_application(["app.py", "app.py"]).steps == (found,)


def test_config_without_triggers_beside_steps_is_ignored(write: Any) -> None:
    write("app.py", "config = {'database': 'x'}\n" + ONE_STEP.format("A"))
    assert names(load_application(["app.py"])) == ["A"]


def test_config_that_a_step_was_made_from_is_no_second_step(write: Any) -> None:
    write("app.py", f"{HEAD}config = {{'name': 'C', 'triggers': [queue('t')]}}\nmade = step(config).handle(print)\n")
    assert names(load_application(["app.py"])) == ["C"]


def test_step_that_two_modules_hold_is_found_once(write: Any) -> None:
    write("a_step.py", "from b_step import run\n")
    write("b_step.py", ONE_STEP.format("B"))
    assert names(load_application(["."])) == ["B"]


def test_folder_gives_the_steps_of_all_step_files_below_it_sorted(write: Any) -> None:
    for name in ("b_step.py", "a_step.py", "sub/a_step.py", "sub/deeper/c_step.py"):
        write(name, ONE_STEP.format(name.replace("/", ".")))
    for name in ("helper.py", ".hidden/x_step.py", "env/lib/y_step.py", "__pycache__/z_step.py"):
        write(name, "raise RuntimeError('must not be imported')\n")
    write("env/pyvenv.cfg", "")
    found = load_application(["."])
    assert names(found) == ["a_step.py", "b_step.py", "sub.a_step.py", "sub.deeper.c_step.py"]


def test_step_file_can_import_from_its_folder_and_from_the_root(write: Any) -> None:
    write("shared_names.py", "ROOT = 'root'\n")
    write("sub/near_names.py", "NEAR = 'near'\n")
    write(
        "sub/a_step.py",
        HEAD + "from shared_names import ROOT\nfrom near_names import NEAR\nfrom .near_names import NEAR as SAME\n"
        "a = step({'name': ROOT + NEAR + SAME, 'triggers': [queue('t')]}).handle(print)\n",
    )
    assert names(load_application(["."])) == ["rootnearnear"]


def test_file_named_like_a_known_module_does_not_replace_it(write: Any) -> None:
    import json

    write("json.py", ONE_STEP.format("J"))
    assert names(load_application(["json.py"])) == ["J"]
    assert sys.modules["json"] is json


def test_files_of_one_name_in_two_folders_are_two_modules(write: Any) -> None:
    write("one/app.py", ONE_STEP.format("One"))
    write("two/app.py", ONE_STEP.format("Two"))
    assert names(load_application(["one/app.py", "two/app.py"])) == ["One", "Two"]


def test_module_is_found_from_the_current_folder(write: Any) -> None:
    write("package_of_steps/inner.py", ONE_STEP.format("M"))
    assert names(load_application(["package_of_steps.inner"])) == ["M"]


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_target_that_is_missing_or_without_steps_is_named(write: Any) -> None:
    write("empty/notes.txt", "")
    write("empty.py", "x = 1\n")
    write("bad/x_step.py", "x = 1\n")
    assert error_of("nope.py") == "no such file or folder: nope.py"
    assert error_of("no/such") == "no such file or folder: no/such"
    assert "no file, folder or module 'nope'" in error_of("nope")
    assert "no file, folder or module 'nope.inner'" in error_of("nope.inner")
    assert error_of("empty") == "no *_step.py or *.step.py file in the folder empty"
    assert "empty/notes.txt is not a Python file" in error_of("empty/notes.txt")
    assert error_of("empty.py").startswith("empty.py: no step in it")
    assert error_of("bad").startswith("bad/x_step.py: no step in it")


def test_steps_without_handler_are_named_with_their_file(write: Any) -> None:
    write("one.py", HEAD + "a = step({'name': 'Alone', 'triggers': [queue('t')]})\n")
    write(
        "two.py",
        HEAD + "a = step({'name': 'A', 'triggers': [queue('t')]})\nb = step({'name': 'B', 'triggers': [queue('t')]})\n"
        "def handler(input): ...\n",
    )
    write("conf.py", HEAD + "config = {'name': 'C', 'triggers': [queue('t')]}\n")
    assert error_of("one.py").startswith("one.py: no handler for step 'Alone'")
    assert error_of("two.py").startswith("two.py: no handler for step 'A', 'B'")
    assert error_of("conf.py").startswith("conf.py: no handler for step 'C'")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\ny = 1 / 0\n", "app.py:2: ZeroDivisionError: division by zero"),
        ("x = (\n", "app.py:1: SyntaxError: '(' was never closed"),
        ("\nimport nonexistent_package\n", "app.py:2: ModuleNotFoundError: No module named 'nonexistent_package'"),
        ("import sys\nsys.exit('over')\n", "app.py:2: SystemExit: over"),
        ("raise ValueError('two\\nlines')\n", "app.py:1: ValueError: two lines"),
        ("raise ValueError\n", "app.py:1: ValueError"),
        ("def f():\n    raise KeyError('k')\nf()\n", "app.py:2: KeyError: 'k'"),
        ("import json\njson.loads('{')\n", "app.py:2: JSONDecodeError: Expecting property name"),
        (HEAD + "\nstep({'name': 'S'})\n", "app.py:3: StepError: step 'S': 'triggers' is missing"),
    ],
)
def test_exception_of_an_import_becomes_one_line_with_the_place_in_the_users_code(write: Any, text: str, says: str) -> None:
    write("app.py", text)
    assert error_of("app.py").startswith(says)
    assert error_of("app").startswith(says)
    assert "app" not in sys.modules


def test_exception_of_an_imported_helper_names_the_line_of_the_helper(write: Any) -> None:
    write("app.py", "import my_helper\n")
    write("my_helper.py", "\n\nint('x')\n")
    assert error_of("app.py").startswith("my_helper.py:3: ValueError: ")


def test_error_of_an_import_keeps_the_exception_as_its_cause(write: Any) -> None:
    write("app.py", "1 / 0\n")
    with pytest.raises(StepError) as caught:
        load_application(["app.py"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_paths_are_targets(tmp_path: Path) -> None:
    (tmp_path / "path_target_step.py").write_text(
        'from motia_redis import queue, step\n\n@step({"name": "A", "triggers": [queue("a")]})\ndef a(input): ...\n'
    )
    assert [step.name for step in load_application([tmp_path]).steps] == ["A"]


def test_one_target_in_place_of_a_list_raises(tmp_path: Path) -> None:
    """A text is a list of its characters, and the error would name the first of them."""
    for target in ("steps", tmp_path):
        with pytest.raises(StepError, match=r"targets must be a list of files, folders and modules: \['.*'\]"):
            load_application(target)  # type: ignore[arg-type]
