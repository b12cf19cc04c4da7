"""What the inputs of handlers have in common: `model_dump`, and names in camel case as Motia's Python package accepts them."""

from __future__ import annotations

import functools
import re
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


def camel_case(name: str) -> str:
    """Return a field's name as JavaScript writes it: `group_id` is `groupId`."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def snake_case(name: str) -> str:
    """Return a name in camel case as Python writes it: `groupId` is `group_id`."""
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name)


def made_of(model: type[_T], fields_given: dict[str, Any]) -> _T:
    """Return an object of a frozen dataclass without slots that has all of these fields. Its `__init__` does not run.

    That takes a third of the time: `__init__` of a frozen dataclass makes a call for each field. For what a worker makes for each
    event.
    """
    made = object.__new__(model)
    object.__setattr__(made, "__dict__", fields_given)
    return made


class Model:
    """A dataclass that can be made with names in camel case, and turned into a dict."""

    __slots__ = ()

    def model_dump(self, *, by_alias: bool = False) -> dict[str, Any]:
        """Return the fields as a dict, those inside of fields, too. With `by_alias` the names are in camel case."""
        return {camel_case(name) if by_alias else name: value for name, value in _items(self, by_alias)}


def _items(model: Any, by_alias: bool) -> list[tuple[str, Any]]:
    found = [(field.name, getattr(model, field.name)) for field in fields(model)]
    return [(name, _plain(value, by_alias)) for name, value in found]


def _plain(value: Any, by_alias: bool) -> Any:
    if isinstance(value, Model):
        return value.model_dump(by_alias=by_alias)
    return dict(_items(value, by_alias)) if is_dataclass(value) and not isinstance(value, type) else value


def accepts_camel_case(model: type[_T]) -> type[_T]:
    """Let a dataclass be made with names in camel case, too. Type checkers know the names of the fields."""
    init: Any = model.__init__
    aliases = {camel_case(field.name): field.name for field in fields(model)}  # type: ignore[arg-type]

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it takes the place of that method
        if kwargs.keys() & aliases.keys():
            kwargs = {aliases.get(name, name): value for name, value in kwargs.items()}
        init(self, *args, **kwargs)

    model.__init__ = __init__  # type: ignore[method-assign]
    return model
