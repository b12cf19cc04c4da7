"""Loading an application: from files, folders and modules to a checked set of steps."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from motia_redis._steps.definitions import HttpTrigger, QueueTrigger, StateTrigger, Step
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType


_MADE_STEP = "__motia_redis_step__"


@dataclass(frozen=True)
class Application:
    """Steps that belong together.

    Raises `StepError` for a step without a handler and for two steps with one name or one HTTP route.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        names: set[str] = set()
        routes: dict[object, Step] = {}
        for step in self.steps:
            if step.handler is None:
                raise StepError(f"step {step.name!r} has no handler; bind one with .handle(fn) or as a decorator")
            if step.name in names:
                raise StepError(f"two steps are named {step.name!r}; a step's name must be its own")
            names.add(step.name)
            for trigger in step.http_triggers:
                if other := routes.get(trigger.shape):
                    raise StepError(
                        f"step {step.name!r}: {trigger.method} {trigger.path} is a route of step {other.name!r} already"
                    )
                routes[trigger.shape] = step

    @cached_property
    def http_routes(self) -> tuple[tuple[HttpTrigger, Step], ...]:
        """Every HTTP trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.http_triggers)

    @cached_property
    def state_subscriptions(self) -> tuple[tuple[StateTrigger, Step], ...]:
        """Every state trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.state_triggers)

    @cached_property
    def queue_subscriptions(self) -> tuple[tuple[QueueTrigger, Step], ...]:
        """Every queue trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.queue_triggers)

    @cached_property
    def http_steps(self) -> tuple[Step, ...]:
        """The steps with an HTTP trigger."""
        return tuple(step for step in self.steps if step.http_triggers)

    @cached_property
    def worker_steps(self) -> tuple[Step, ...]:
        """The steps that a worker consumes for: those with a state or queue trigger."""
        return tuple(step for step in self.steps if step.state_triggers or step.queue_triggers)


def load_application(targets: Sequence[str]) -> Application:
    """Import `targets` and return the steps found in them.

    A target is a Python file, a folder (all `*_step.py` files below it) or a dotted module name. A step counts if a
    module-level name holds it; a module with a dict `config` and a function `handler` is a step as well, and a step
    without a handler takes the function `handler` of its module.

    Raises `StepError`, always one line, for whatever keeps a target from being loaded.
    """
    steps: dict[int, Step] = {}
    for target in targets:
        for module in _modules(target):
            try:
                found = _steps_of(module)
            except StepError as exc:
                raise StepError(f"{_shown(module.__file__ or module.__name__)}: {exc}") from exc
            steps.update((id(step), step) for step in found)
    return Application(tuple(steps.values()))


def _modules(target: str) -> Iterator[ModuleType]:
    path = Path(target)
    if path.is_dir():
        files = list(_step_files(path))
        if not files:
            raise StepError(f"no *_step.py file in the folder {target}")
        for file in files:
            yield _import_file(file, path)
    elif path.is_file():
        if path.suffix != ".py":
            raise StepError(f"{target} is not a Python file (its name does not end in .py)")
        yield _import_file(path, path.parent)
    elif all(part.isidentifier() for part in target.split(".")) and path.suffix != ".py":
        yield _import_name(target)
    else:
        raise StepError(f"no such file or folder: {target}")


def _step_files(folder: Path) -> Iterator[Path]:
    """Yield the step files below `folder` in a fixed order, leaving out hidden folders and virtual environments."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__pycache__")) and not (Path(root, name) / "pyvenv.cfg").exists()
        )
        yield from (Path(root, name) for name in sorted(files) if name.endswith("_step.py"))


def _import_file(path: Path, root: Path) -> ModuleType:
    """Import the file at `path` under its name relative to `root`, so that other files can import it too."""
    path, root = path.resolve(), root.resolve()
    # The root first, as Python does for a script; the file's own folder last, where it can hide nothing.
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    known = sys.modules.get(name)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path:
            return known
        # Another module has the name (such as a file called json.py): this one must not take its place.
        name = f"_motia_redis_application:{path}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StepError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        del sys.modules[name]
        raise _import_error(str(path), exc) from exc
    return module


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
    except (Exception, SystemExit) as exc:
        raise _import_error(name, exc) from exc


def _import_error(target: str, exc: BaseException) -> StepError:
    """Return the one-line error for what importing `target` raised, with the deepest line of the user's own code."""
    place = _shown(target)
    text = str(exc)
    if isinstance(exc, SyntaxError) and exc.filename and _is_users_own(exc.filename):
        place, text = f"{_shown(exc.filename)}:{exc.lineno}", exc.msg
    else:
        for frame in traceback.extract_tb(exc.__traceback__):
            if _is_users_own(frame.filename):
                place = f"{_shown(frame.filename)}:{frame.lineno}"
    kind = type(exc).__name__
    return StepError(f"{place}: {kind}: {' '.join(text.split())}" if text else f"{place}: {kind}")


def _is_users_own(filename: str) -> bool:
    """Tell whether a frame is neither of this package, nor of the standard library or an installed package."""
    paths = sysconfig.get_paths()
    foreign = (str(Path(__file__).parent.parent), paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"])
    return not filename.startswith("<") and not filename.startswith(tuple(folder + os.sep for folder in foreign))


def _shown(filename: str) -> str:
    """Return a path as short as it can be written from the current folder."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _steps_of(module: ModuleType) -> list[Step]:
    """Return the steps that `module` holds, each with its handler."""
    found = {id(value): value for value in vars(module).values() if isinstance(value, Step)}
    handler = vars(module).get("handler")
    if isinstance(handler, Step) or not callable(handler):
        handler = None
    config = vars(module).get("config")
    # A dict called config beside steps may be anything; it is a step's only if it names triggers.
    if isinstance(config, dict) and _MADE_STEP not in vars(module) and ("triggers" in config or not found):
        if handler is None:
            raise StepError("`config` has no function `handler` beside it")
        made = Step(config).handle(handler)
        # Kept in the module, so that loading it again finds the same step.
        setattr(module, _MADE_STEP, made)
        found[id(made)] = made
        handler = None
    unbound = [step for step in found.values() if step.handler is None]
    if len(unbound) == 1 and handler is not None:
        unbound.pop().handle(handler)
    if unbound:
        names = ", ".join(repr(step.name) for step in unbound)
        raise StepError(
            f"no handler for step {names}; bind one with .handle(fn) or as a decorator, "
            "or name it `handler` beside the only step without one"
        )
    if not found:
        raise StepError("no step in it; a step is a module-level `step({...})`, or `config` and `handler`")
    return list(found.values())
