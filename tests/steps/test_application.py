"""Loading applications: what is found in files, folders and modules, and how what is wrong with them is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._steps.application import Application, load_application
from motia_redis._steps.definitions import http, queue, state, step
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD = "from motia_redis._steps.definitions import step, http, state, queue\n"
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


def test_a_file_gives_its_steps_in_order(write: Any) -> None:
    write("app.py", ONE_STEP.format("B") + "x = step({'name': 'A', 'triggers': [http('GET', '/')]}).handle(print)\n")
    assert names(load_application(["app.py"])) == ["B", "A"]


def test_the_reference_pages_example_loads() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "users.py"
    application = load_application([str(example)])
    assert names(application) == ["CreateUser", "RecordLogin", "OnUserChange", "ListUsers"]
    assert len(application.http_routes) == 3
    assert [step.name for step in application.worker_steps] == ["OnUserChange"]


def test_a_step_without_handler_takes_the_modules_handler(write: Any) -> None:
    write(
        "app.py",
        HEAD + "my_step = step({'name': 'OnUserChange', 'triggers': [state()]})\nasync def handler(input, ctx): ...\n",
    )
    (found,) = load_application(["app.py"]).steps
    assert found.handler is sys.modules["app"].handler


@pytest.mark.parametrize(
    "config",
    ["config = {'name': 'C', 'triggers': [queue('t')]}", "config = step({'name': 'C', 'triggers': [queue('t')]})"],
    ids=["dict", "step"],
)
def test_config_and_handler_are_a_step(write: Any, config: str) -> None:
    write("app.py", f"{HEAD}{config}\ndef handler(input): return 'ran'\n")
    (found,) = load_application(["app.py"]).steps
    assert (found.name, found(1)) == ("C", "ran")
    assert load_application(["app.py", "app.py"]).steps == (found,)


def test_a_config_that_is_no_steps_is_left_alone_beside_steps(write: Any) -> None:
    write("app.py", "config = {'database': 'x'}\n" + ONE_STEP.format("A"))
    assert names(load_application(["app.py"])) == ["A"]


def test_an_imported_step_counts_once(write: Any) -> None:
    write("a_step.py", "from b_step import run\n")
    write("b_step.py", ONE_STEP.format("B"))
    assert names(load_application(["."])) == ["B"]


def test_a_folder_gives_all_step_files_below_it_sorted(write: Any) -> None:
    for name in ("b_step.py", "a_step.py", "sub/a_step.py", "sub/deeper/c_step.py"):
        write(name, ONE_STEP.format(name.replace("/", ".")))
    for name in ("helper.py", ".hidden/x_step.py", "env/lib/y_step.py", "__pycache__/z_step.py"):
        write(name, "raise RuntimeError('must not be imported')\n")
    write("env/pyvenv.cfg", "")
    found = load_application(["."])
    assert names(found) == ["a_step.py", "b_step.py", "sub.a_step.py", "sub.deeper.c_step.py"]


def test_step_files_import_their_neighbours_and_from_the_root(write: Any) -> None:
    write("shared_names.py", "ROOT = 'root'\n")
    write("sub/near_names.py", "NEAR = 'near'\n")
    write(
        "sub/a_step.py",
        HEAD + "from shared_names import ROOT\nfrom near_names import NEAR\nfrom .near_names import NEAR as SAME\n"
        "a = step({'name': ROOT + NEAR + SAME, 'triggers': [queue('t')]}).handle(print)\n",
    )
    assert names(load_application(["."])) == ["rootnearnear"]


def test_a_file_named_like_a_known_module_does_not_take_its_place(write: Any) -> None:
    import json

    write("json.py", ONE_STEP.format("J"))
    assert names(load_application(["json.py"])) == ["J"]
    assert sys.modules["json"] is json


def test_files_of_one_name_in_two_folders_are_two_modules(write: Any) -> None:
    write("one/app.py", ONE_STEP.format("One"))
    write("two/app.py", ONE_STEP.format("Two"))
    assert names(load_application(["one/app.py", "two/app.py"])) == ["One", "Two"]


def test_a_module_is_found_from_the_current_folder(write: Any) -> None:
    write("package_of_steps/inner.py", ONE_STEP.format("M"))
    assert names(load_application(["package_of_steps.inner"])) == ["M"]


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named(write: Any) -> None:
    write("empty/notes.txt", "")
    write("empty.py", "x = 1\n")
    write("bad/x_step.py", "x = 1\n")
    assert error_of("nope.py") == "no such file or folder: nope.py"
    assert error_of("no/such") == "no such file or folder: no/such"
    assert "no file, folder or module 'nope'" in error_of("nope")
    assert "no file, folder or module 'nope.inner'" in error_of("nope.inner")
    assert error_of("empty") == "no *_step.py file in the folder empty"
    assert "empty/notes.txt is not a Python file" in error_of("empty/notes.txt")
    assert error_of("empty.py").startswith("empty.py: no step in it")
    assert error_of("bad").startswith("bad/x_step.py: no step in it")


def test_steps_without_handler_are_named(write: Any) -> None:
    write("one.py", HEAD + "a = step({'name': 'Alone', 'triggers': [queue('t')]})\n")
    write(
        "two.py",
        HEAD + "a = step({'name': 'A', 'triggers': [queue('t')]})\nb = step({'name': 'B', 'triggers': [queue('t')]})\n"
        "def handler(input): ...\n",
    )
    write("conf.py", HEAD + "config = {'name': 'C', 'triggers': [queue('t')]}\n")
    assert error_of("one.py").startswith("one.py: no handler for step 'Alone'")
    assert error_of("two.py").startswith("two.py: no handler for step 'A', 'B'")
    assert error_of("conf.py") == "conf.py: `config` has no function `handler` beside it"


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
        (HEAD + "\nstep({'name': 'S'})\n", "app.py:3: StepError: step 'S': 'triggers' must hold"),
    ],
)
def test_what_importing_raises_is_one_line_with_the_users_own_place(write: Any, text: str, says: str) -> None:
    write("app.py", text)
    assert error_of("app.py").startswith(says)
    assert error_of("app").startswith(says)
    assert "app" not in sys.modules


def test_an_error_in_a_helper_names_the_helpers_line(write: Any) -> None:
    write("app.py", "import my_helper\n")
    write("my_helper.py", "\n\nint('x')\n")
    assert error_of("app.py").startswith("my_helper.py:3: ValueError: ")


def test_the_error_keeps_its_cause(write: Any) -> None:
    write("app.py", "1 / 0\n")
    with pytest.raises(StepError) as caught:
        load_application(["app.py"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# -- the application --------------------------------------------------------------------------------------------------


def made(name: str, *triggers: Any) -> Any:
    return step({"name": name, "triggers": list(triggers)}).handle(print)


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(StepError, match="two steps are named 'A'"):
        Application((made("A", queue("t")), made("A", queue("u"))))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (http("GET", "/users/:id"), http("get", "/users/:name")),
        (http("GET", "/users"), http("GET", "/users/")),
        (http("GET", "/a b"), http("GET", "/a%20b")),
    ],
)
def test_two_routes_that_answer_the_same_requests_are_refused(one: Any, two: Any) -> None:
    with pytest.raises(StepError, match=r"step 'B': GET .* is a route of step 'A' already"):
        Application((made("A", one), made("B", two)))
    with pytest.raises(StepError, match=r"step 'A': GET .* is a route of step 'A' already"):
        Application((made("A", one, two),))


def test_routes_that_differ_live_together() -> None:
    Application((
        made("A", http("GET", "/users/:id"), http("POST", "/users/:id")),
        made("B", http("GET", "/users/me"), http("GET", "/users/:id/x")),
    ))  # fmt: skip


def test_a_step_without_handler_is_refused() -> None:
    with pytest.raises(StepError, match="step 'A' has no handler"):
        Application((step({"name": "A", "triggers": [queue("t")]}),))


def test_subscriptions_are_sorted_by_kind() -> None:
    a = made("A", http("GET", "/"), state(scope="s"), queue("t"))
    b = made("B", queue("t"), queue("u"))
    application = Application((a, b))
    assert application.http_routes == ((http("GET", "/"), a),)
    assert application.state_subscriptions == ((state(scope="s"), a),)
    assert application.queue_subscriptions == ((queue("t"), a), (queue("t"), b), (queue("u"), b))
    assert application.http_steps == (a,)
    assert application.worker_steps == (a, b)
