"""Loading an application: from files, folders and modules to a checked set of steps."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from motia_redis._steps.application import Application, application_problems, shown_path
from motia_redis._steps.definitions import Step, StepDefinition
from motia_redis._steps.faults import describe
from motia_redis._steps.multi_trigger import MultiTriggerStepBuilder
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    from motia_redis._steps.definitions import StepConfig

# The name under which a module keeps the step of its `config`.
_FROM_CONFIG = "__motia_redis_step__"


def load_application(targets: Sequence[str | os.PathLike[str]]) -> Application:
    """Import the targets and return the application of the steps found in them.

    A step is found if a module-level name holds it. A module with a dict `config` and a function `handler` is a step as
    well, and one definition without a handler takes the function `handler` of its module. Loading a target again gives the
    same steps.

    Arguments:
        targets: Python files, folders (all `*_step.py` and `*.step.py` files below them, but for hidden folders and virtual
            environments), both also as `pathlib.Path`, or dotted module names.

    Raises StepError for whatever keeps a target from being loaded. The message is one line, with the place in the user's code.
    """
    if isinstance(targets, str | os.PathLike):
        raise StepError(f"targets must be a list of files, folders and modules: [{os.fspath(targets)!r}]")
    steps: dict[int, Step] = {}
    for target in targets:
        for load in _loaders(os.fspath(target)):
            steps.update((id(step), step) for step in _loaded(load))
    return Application(tuple(steps.values()))


def check_application(targets: Sequence[str]) -> tuple[list[Step], list[StepError]]:
    """Import the targets as `load_application` does, and return the steps that are there and everything that is wrong."""
    steps: dict[int, Step] = {}
    problems: list[StepError] = []
    for target in targets:
        try:
            loaders = _loaders(target)
        except StepError as problem:
            problems.append(problem)
            continue
        for load in loaders:
            try:
                steps.update((id(step), step) for step in _loaded(load))
            except StepError as problem:
                problems.append(problem)
    found = list(steps.values())
    return found, [*problems, *application_problems(found)]


def _loaded(load: Callable[[], ModuleType]) -> list[Step]:
    """Import one module and return its steps."""
    module = load()
    try:
        return _steps_of(module)
    except StepError as exc:
        raise StepError(f"{shown_path(module.__file__ or module.__name__)}: {exc}") from exc


def _loaders(target: str) -> list[Callable[[], ModuleType]]:
    """Return what imports each module of a target."""
    path = Path(target)
    if path.is_dir():
        files = list(_step_files(path))
        if not files:
            raise StepError(f"no *_step.py or *.step.py file in the folder {target}")
        return [partial(_import_file, file, path) for file in files]
    if path.is_file():
        if path.suffix != ".py":
            raise StepError(f"{target} is not a Python file (its name does not end in .py)")
        return [partial(_import_file, path, path.parent)]
    if all(part.isidentifier() for part in target.split(".")) and path.suffix != ".py":
        return [partial(_import_name, target)]
    raise StepError(f"no such file or folder: {target}")


def _step_files(folder: Path) -> Iterator[Path]:
    """Yield the step files below `folder` in a fixed order, leaving out hidden folders and virtual environments."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__pycache__")) and not (Path(root, name) / "pyvenv.cfg").exists()
        )
        yield from (Path(root, name) for name in sorted(files) if name.endswith(("_step.py", ".step.py")))


def _import_file(path: Path, root: Path) -> ModuleType:
    """Import the file at `path` under its name relative to `root`, so that other files can import it too."""
    path, root = path.resolve(), root.resolve()
    _extend_import_path(root, path.parent)
    name = _module_name(path, root)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StepError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as exc:  # the module may raise anything
        del sys.modules[name]
        raise _import_error(str(path), exc) from exc
    return module


def _extend_import_path(root: Path, folder: Path) -> None:
    # The root first, as Python does for a script; the file's own folder last, where it can hide nothing.
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _module_name(path: Path, root: Path) -> str:
    name = ".".join(part.replace(".", "_") for part in path.relative_to(root).with_suffix("").parts)  # x.step.py is x_step
    known = sys.modules.get(name)
    if known is None or Path(getattr(known, "__file__", None) or "").resolve() == path:
        return name
    # Another module has the name (such as a file called json.py): this one must not take its place.
    return f"_motia_redis_application:{path}"


def _import_name(name: str) -> ModuleType:
    # `python -m` looks in the current folder first; a console script does not.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise StepError(f"no file, folder or module {name!r} (looked in {Path.cwd()} and sys.path)") from exc
        raise _import_error(name, exc) from exc
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # the module may raise anything
        raise _import_error(name, exc) from exc


def _import_error(target: str, exc: BaseException) -> StepError:
    """Return the one-line error for what importing `target` raised, with the deepest line of the user's own code."""
    place, fault = shown_path(target), describe(exc)
    text = fault.text
    if isinstance(exc, SyntaxError) and exc.filename and _is_users_own(exc.filename):
        place, text = f"{shown_path(exc.filename)}:{exc.lineno}", exc.msg
    else:
        for frame in traceback.extract_tb(exc.__traceback__):
            if _is_users_own(frame.filename):
                place = f"{shown_path(frame.filename)}:{frame.lineno}"
    return StepError(f"{place}: {fault.type}: {' '.join(text.split())}" if text else f"{place}: {fault.type}")


def _is_users_own(filename: str) -> bool:
    """Tell whether a frame is neither of this package, nor of the standard library or an installed package."""
    paths = sysconfig.get_paths()
    foreign = (str(Path(__file__).parent.parent), paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"])
    return not filename.startswith("<") and not filename.startswith(tuple(folder + os.sep for folder in foreign))


def _steps_of(module: ModuleType) -> list[Step]:
    """Return the steps that `module` holds, each with its handler."""
    members = vars(module)
    for value in members.values():
        if isinstance(value, MultiTriggerStepBuilder) and value.step is None:
            raise StepError(f"{value!r} is not complete: call .handlers(), and keep the step that it returns")
    found = _steps_in(members)
    config = members.get("config")
    # Kept in the module, so that loading it again finds the same step.
    if isinstance(config, dict) and _describes_another_step(config, found):
        found.append(StepDefinition(cast("StepConfig", config)))
        setattr(module, _FROM_CONFIG, found[-1])
    if not found:
        raise StepError("no step in it; a step is a module-level `step({...})`, or `config` and `handler`")
    _bind_to_handler({value for value in found if isinstance(value, StepDefinition)}, members.get("handler"))
    steps = [value.step if isinstance(value, StepDefinition) else value for value in found]
    return list(dict.fromkeys(step for step in steps if step is not None))


def _steps_in(members: Mapping[str, object]) -> list[Step | StepDefinition]:
    return [value for value in members.values() if isinstance(value, Step | StepDefinition)]


def _describes_another_step(config: dict[object, object], found: Sequence[Step | StepDefinition]) -> bool:
    """Tell whether the dict `config` of a module describes a step that is none of those found in the module."""
    names = [one.settings.name if isinstance(one, StepDefinition) else one.name for one in found]
    # A dict called config beside steps may be anything; it is a step's only if it names triggers.
    return not names or ("triggers" in config and config.get("name") not in names)


def _bind_to_handler(definitions: set[StepDefinition], handler: object) -> None:
    """Give the one definition that has no handler the module's. Raises StepError when others stay without."""
    unbound = [definition for definition in definitions if definition.step is None]
    if len(unbound) == 1 and callable(handler) and not isinstance(handler, Step | StepDefinition):
        unbound.pop().handle(handler)
    if unbound:
        names = ", ".join(sorted(repr(definition.settings.name) for definition in unbound))
        raise StepError(
            f"no handler for step {names}; bind one with .handle(fn) or as a decorator, "
            "or name it `handler` beside the only step without one"
        )
