"""Read and write the values of a type: pydantic models, dataclasses and TypedDicts, checked by pydantic."""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from motia_redis._store import codec, fidelity, typed_fields
from motia_redis._store.keyspace import Subject
from motia_redis._store.typed_fields import MOST_TYPES, pointer_of, pointer_token
from motia_redis.errors import SchemaMismatch, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

_INSTALL = "pip install 'motia-redis[typed]'"
_REASONS = 3  # that a message tells
_READ = "repair the value with an untyped set() or update(), or let the type accept it"
_WRITE = "nothing was sent"


class Schema(Generic[T]):
    """Encode and decode values of one type. It stands in for the module `codec`.

    Text is read in pydantic's strict mode: no value is converted to the type of its field, but for what JSON has no type for
    (dates, decimals, enums, sets ...). A value is written if the text reads back as the same value.
    """

    def __init__(self, model: type[T]) -> None:
        self.model = model
        self._type: Any = model  # type checkers do not take type[T] for hashable
        self.name: str = getattr(model, "__name__", repr(model))
        self._pydantic = _pydantic(self.name)
        self._adapter = self._adapt()

    @classmethod
    def of(cls, model: type[T]) -> Schema[T]:
        """Return the schema of a type. It is made once. Raises StateError for a type that no schema can be made of."""
        try:
            schema: Schema[T] = _schema(cast("Any", model))
        except TypeError:  # it has no hash
            raise _no_model(model) from None
        return schema

    def __repr__(self) -> str:
        return f"<Schema of {self.name}>"

    def encode(self, value: T, *, subject: object, max_bytes: int) -> bytes:
        """Return a value as canonical JSON, without its mark. Raises SchemaMismatch, InvalidValue, ValueTooLarge."""
        return codec.encode(self.dump(value, subject), subject=subject, max_bytes=max_bytes)

    def decode(self, text: bytes, *, subject: object) -> T:
        """Return the value of a stored text. Raises CorruptValue and SchemaMismatch."""
        is_unusual = fidelity.may_hold_unusual_numbers(text)
        if is_unusual:
            codec.decode(text, subject=subject)  # pydantic takes numbers that are not JSON's
        value = self._load(text, subject, "the stored value", _READ)
        place = None
        if is_unusual or self._has_decimals:
            place = fidelity.changed_number(text, lambda: self._plain(value), has_decimals=self._has_decimals)
        if place is not None:
            reason = f"at {place!r}: the type of the field would change the number"
            raise self._mismatch(subject, place, f"the stored value does not match {self.name}: {reason}", _READ)
        return value

    def decode_page(self, scope: str, page: Mapping[bytes, bytes]) -> list[T]:
        """Return the values of a page of a scope."""
        return list(self.decode_each(scope, page))

    def decode_each(self, scope: str, page: Mapping[bytes, bytes]) -> Iterator[T]:
        """Yield the values of a page of a scope, each decoded when it is taken."""
        return (self.decode_item(scope, key, text) for key, text in page.items())

    def decode_item(self, scope: str, key: bytes, text: bytes) -> T:
        """Return the value of one key of a page."""
        return self.decode(text, subject=Subject(scope, key.decode(errors="replace")))

    def dump(self, value: T, subject: object) -> Any:
        """Return the plain value that is stored for a value. Raises SchemaMismatch and InvalidValue."""
        if not isinstance(value, self._kind):
            reason = f"{type(value).__name__} is no {self.name}: {fidelity.show(value)}"
            raise self._mismatch(subject, "", f"the value does not match {self.name}: {reason}", _WRITE)
        try:
            plain = self._plain(value)
        except Exception as error:  # a serializer of the type may raise anything
            if isinstance(error, self._pydantic.PydanticUserError):
                raise self._unusable(error) from None
            reason = f"the value has no JSON form: {error!r:.200}"
            raise self._mismatch(subject, "", f"{self.name}: {reason}", _WRITE) from error
        text = codec.to_json(plain, subject=subject)
        back = self._load(text, subject, "the value", _WRITE)
        place = fidelity.difference(value, back, self._pydantic.BaseModel)
        if place is not None:
            where = f"at {place!r}: what the type writes here" if place else f"the {type(value).__name__}"
            reason = f"{where} is read back as another value"
            raise self._mismatch(subject, place, f"the value does not match {self.name}: {reason}", _WRITE)
        return plain

    # -- fields -------------------------------------------------------------------------------------------------------

    @property
    def has_rules(self) -> bool:
        """Return whether functions of the type decide what is valid, so that a field alone does not tell."""
        return typed_fields.has_rules(self._type)

    def dump_fields(self, fields: Mapping[str, Any], subject: object) -> dict[str, Any]:
        """Return the members and plain values of some fields, by the names that JSON has for them.

        Checks each field by its type and its constraints. Raises SchemaMismatch and InvalidValue.
        """
        known = typed_fields.fields_of(self._type)
        for name in fields:
            if name not in known:
                names = ", ".join(known) or "no fields"
                raise self._mismatch(
                    subject, f"/{pointer_token(name)}", f"{self.name} has no field {name!r:.80} but {names}", _WRITE
                )
        members = {known[name].member: value for name, value in fields.items()}
        part = _part(self._type, tuple(sorted(fields)))
        return part.check_members(members, subject, self.name)

    def check_members(self, members: dict[str, Any], subject: object, name: str) -> dict[str, Any]:
        """Return the plain values of the members of this schema, which is one of some fields of a type `name`."""
        try:
            value = self._adapter.validate_python(members, strict=True)
        except Exception as error:  # noqa: BLE001  # a validator of the type may raise anything
            self._refuse(error, members, subject, f"the value does not match {name}", _WRITE)
        plain: dict[str, Any] = self.dump(value, subject)
        return plain

    def replace_members(self, document: Any, members: Mapping[str, Any], subject: object) -> dict[str, Any]:
        """Return what is to be stored for some members of a stored value, checked together with its other members."""
        if not isinstance(document, dict):
            raise self._mismatch(
                subject, "", f"the stored value does not match {self.name}: it is no object: {fidelity.show(document)}", _READ
            )
        text = codec.to_json({**document, **members}, subject=subject)
        whole = self.dump(self._load(text, subject, "the value with the new fields", _WRITE), subject)
        try:
            return {name: whole[name] for name in members}
        except (KeyError, TypeError):
            raise StateError(f"{subject}: patch: {self.name} is not written with its fields as members: use modify()") from None

    @cached_property
    def _has_decimals(self) -> bool:
        """Whether a part of the type may be a decimal."""
        return "decimal" in repr(self._adapter.core_schema).lower()

    # -- pydantic -----------------------------------------------------------------------------------------------------

    @property
    def _kind(self) -> type[Any]:
        is_class = dataclasses.is_dataclass(self.model) or issubclass(self.model, self._pydantic.BaseModel)
        return self.model if is_class else dict

    def _adapt(self) -> TypeAdapter[T]:
        model, pydantic = self.model, self._pydantic
        is_known = isinstance(model, type) and (
            issubclass(model, pydantic.BaseModel) or dataclasses.is_dataclass(model) or typed_fields.is_typed_dict(model)
        )
        if not is_known:
            raise _no_model(model)
        try:
            adapter: TypeAdapter[T] = pydantic.TypeAdapter(model)
        except (pydantic.PydanticUserError, NameError) as error:
            raise self._unusable(error) from None
        return adapter

    def _unusable(self, error: Exception) -> StateError:
        return StateError(f"a typed scope cannot be made of {self.name}: {getattr(error, 'message', error)}")

    def _plain(self, value: T) -> Any:
        return self._adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings=False)

    def _load(self, text: bytes, subject: object, what: str, advice: str) -> T:
        try:
            return self._adapter.validate_json(text, strict=True)
        except Exception as error:  # noqa: BLE001  # a validator of the type may raise anything
            document = codec.decode(text, subject=subject)
            self._refuse(error, document, subject, f"{what} does not match {self.name}", advice)

    def _refuse(self, error: Exception, document: Any, subject: object, what: str, advice: str) -> NoReturn:
        """Raise the error for what a validation has raised."""
        if isinstance(error, self._pydantic.PydanticUserError):
            raise self._unusable(error) from None
        if not isinstance(error, self._pydantic.ValidationError):
            raise self._mismatch(subject, "", f"{what}: a validator raised {error!r:.200}", advice) from error
        problems = _problems(error, document)
        more = error.error_count() - len(problems)
        reasons = "; ".join(reason for _, reason in problems) + (f"; and {more} more" if more else "")
        raise self._mismatch(subject, problems[0][0], f"{what}: {reasons}", advice) from None

    @staticmethod
    def _mismatch(subject: object, field: str, text: str, advice: str) -> SchemaMismatch:
        scope, key = getattr(subject, "scope", ""), getattr(subject, "key", "")
        return SchemaMismatch(f"{subject}: {text}; {advice}", scope=scope, key=key, field=field)


@lru_cache(MOST_TYPES)
def _schema(model: Any) -> Schema[Any]:
    return Schema(model)


@lru_cache(MOST_TYPES)
def _part(model: Any, names: tuple[str, ...]) -> Schema[Any]:
    return Schema(typed_fields.part_of(model, names))


def _no_model(model: object) -> StateError:
    return StateError(f"a typed scope takes a pydantic model, a dataclass or a TypedDict, not {fidelity.show(model)}")


def _pydantic(name: str) -> ModuleType:
    try:
        import pydantic  # noqa: PLC0415  # who has no typed scopes does not need it
    except ImportError:
        raise StateError(f"a typed scope of {name} needs pydantic: {_INSTALL}") from None
    return pydantic


def _problems(error: ValidationError, document: Any) -> list[tuple[str, str]]:
    """Return the places and reasons that a message tells. A place is a JSON Pointer into the document."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False)[:_REASONS]:
        is_missing = problem["type"] == "missing"
        place = pointer_of(problem["loc"], document, is_missing=is_missing)
        given = "" if is_missing else f", not {fidelity.show(problem['input'])}"
        reason = f"{problem['msg']}{given}"
        problems.append((place, f"at {place!r}: {reason}" if place else reason))
    return problems
