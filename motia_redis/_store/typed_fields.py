"""The fields of a type: pydantic models, dataclasses and TypedDicts. Pydantic is there when these functions are called."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired, Required, get_args, get_origin

from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_TYPES = 1024  # of which something is remembered
# What pydantic calls the functions of a model that decide what is valid, or how it is written.
_RULES = ("validators", "field_validators", "root_validators", "model_validators", "field_serializers", "model_serializers")


class Field(NamedTuple):
    """A field: its member's name in JSON, and its type with all constraints."""

    member: str
    annotation: Any


def pointer_token(name: object) -> str:
    """Return a member name or index as a part of a JSON Pointer."""
    return str(name).replace("~", "~0").replace("/", "~1")


def is_typed_dict(model: object) -> bool:
    """Return whether a class is a TypedDict, of `typing` or of `typing_extensions`."""
    import typing_extensions  # noqa: PLC0415  # pydantic has brought it

    return typing_extensions.is_typeddict(model)


@lru_cache(MOST_TYPES)
def fields_of(model: Any) -> Mapping[str, Field]:
    """Return the fields of a type by name. Raises StateError where they cannot be told."""
    import pydantic  # noqa: PLC0415  # only who has a typed scope needs it

    if issubclass(model, pydantic.RootModel):
        return {}
    infos = model.model_fields if issubclass(model, pydantic.BaseModel) else getattr(model, "__pydantic_fields__", None)
    if infos is not None:
        return {name: Field(info.serialization_alias or name, _annotated(info)) for name, info in infos.items()}
    return _hinted_fields(model)


@lru_cache(MOST_TYPES)
def has_rules(model: Any) -> bool:
    """Return whether functions of a type decide what is valid or how it is written; in doubt, they do."""
    import pydantic  # noqa: PLC0415

    if is_typed_dict(model):
        return False
    decorators = getattr(model, "__pydantic_decorators__", None)
    if any(getattr(decorators, kind, None) for kind in _RULES):
        return True
    if issubclass(model, pydantic.BaseModel):
        base = pydantic.BaseModel
        return model.model_post_init is not base.model_post_init or model.__init__ is not base.__init__
    decorated = (type(value).__module__.startswith("pydantic") for base in model.__mro__ for value in vars(base).values())
    return hasattr(model, "__post_init__") or (decorators is None and any(decorated))


def part_of(model: Any, names: tuple[str, ...]) -> type[Any]:
    """Return a TypedDict of the members of these fields, with the configuration of the type."""
    import pydantic  # noqa: PLC0415
    import typing_extensions  # noqa: PLC0415  # pydantic takes no TypedDict of `typing` before Python 3.12

    fields = fields_of(model)
    chosen = {fields[name].member: fields[name].annotation for name in names}
    create: Any = typing_extensions.TypedDict
    part: type[Any] = create(model.__name__, chosen)
    config = {name: value for name, value in _config(model).items() if name not in ("alias_generator", "extra")}
    return pydantic.with_config(pydantic.ConfigDict(**config))(part)  # type: ignore[typeddict-item]


def _hinted_fields(model: type[Any]) -> dict[str, Field]:
    """Return the fields of a standard dataclass or a TypedDict."""
    import typing_extensions  # noqa: PLC0415

    if "alias_generator" in _config(model):
        raise StateError(f"patch: {model.__name__} has an alias_generator: use modify()")
    try:
        hints = typing_extensions.get_type_hints(model, include_extras=True)
    except NameError as error:
        raise StateError(f"patch: the types of {model.__name__} cannot be told: {error}") from None
    if dataclasses.is_dataclass(model):
        hints = {field.name: hints[field.name] for field in dataclasses.fields(model)}
    return {name: _hinted_field(name, hint) for name, hint in hints.items()}


def _hinted_field(name: str, hint: Any) -> Field:
    while get_origin(hint) in (Required, NotRequired):
        hint = get_args(hint)[0]
    aliases = [alias for part in get_args(hint)[1:] if (alias := getattr(part, "serialization_alias", None))]
    if get_origin(hint) is not Annotated or not aliases:
        return Field(name, hint)
    # The alias is the name of the part's member already.
    kind, *metadata = get_args(hint)
    kept = [part for constraint in metadata for part in getattr(constraint, "metadata", [constraint])]
    return Field(aliases[-1], Annotated[(kind, *kept)] if kept else kind)


def _annotated(info: Any) -> Any:
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _config(model: type[Any]) -> Mapping[str, Any]:
    config: Mapping[str, Any] = getattr(model, "model_config", None) or getattr(model, "__pydantic_config__", None) or {}
    return config
