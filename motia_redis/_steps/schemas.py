"""Check JSON documents by a declared schema: a JSON Schema, or a type that pydantic knows."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import orjson

from motia_redis._store import codec
from motia_redis._store.fidelity import show
from motia_redis._store.schemas import Schema
from motia_redis._store.typed_fields import pointer_of, pointer_token
from motia_redis.errors import SchemaMismatch, StepError

if TYPE_CHECKING:
    from types import ModuleType

    from pydantic import ValidationError

MOST_MISMATCHES = 10  # that are reported of one document
_LONGEST = 200  # characters of a path or a message
# Each mismatch costs time, also those that are not reported, and who sends a document decides how many there are.
_MOST_ERRORS = 10_000  # of pydantic, which counts them before it describes them
_LARGE = 8192  # bytes: of a larger document, jsonschema_rs describes the first mismatch only


class Mismatch(NamedTuple):
    """Tell where a document does not match its schema, as a JSON Pointer, and why.

    It repeats no value of the document, but for the tag of a tagged union and what a user's validator says, cut to `_LONGEST`.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"at {self.path!r}: {self.message}" if self.path else self.message


class Checker(Protocol):
    """Check documents by one schema."""

    def check_json(self, document: Any, size: int, /) -> list[Mismatch]:
        """Return where the value of a JSON text of `size` bytes does not match, at most `MOST_MISMATCHES` places."""

    def check_plain(self, value: Any) -> list[Mismatch]:
        """Return where a value does not match that was not JSON: a form with its texts, a text, bytes or None."""


def checker_of(schema: Any) -> Checker:
    """Return the checker of a schema: of a JSON Schema for a dict, else of a type for pydantic.

    Raises StepError, worded to follow the name of the schema, for what is no schema, and for a library that is not installed.
    """
    return _JsonSchema(schema) if isinstance(schema, Mapping) else _Type(schema)


class Reader:
    """Read JSON texts as `codec` does, and check them by a schema. It stands in for that module where texts are only read.

    A pydantic model and a dataclass give objects of theirs, every other schema the value as it is.
    """

    def __init__(self, schema: Any) -> None:
        is_model = isinstance(schema, type) and (dataclasses.is_dataclass(schema) or hasattr(schema, "model_validate"))
        self._model = Schema.of(schema) if is_model else None
        self._checker = None if is_model else checker_of(schema)

    def decode(self, text: bytes, *, subject: object) -> Any:
        """Return what a text holds. Raises CorruptValue, and SchemaMismatch with the places that do not match."""
        if self._model is not None:
            return self._model.decode(text, subject=subject)
        assert self._checker is not None  # noqa: S101 - for mypy
        value = codec.decode(text, subject=subject)
        mismatches = self._checker.check_json(value, len(text))
        if mismatches:
            places = "; ".join(map(str, mismatches[:3]))
            raise SchemaMismatch(f"{subject} does not match its schema: {places}", scope="", key="", field=mismatches[0].path)
        return value


def schema_problem(schema: Any) -> str | None:
    """Return why no documents can be checked by `schema`, worded to follow its name, or None."""
    try:
        checker_of(schema)
    except StepError as error:
        return str(error)
    return None


class _Type:
    """Check documents by a type: a pydantic model, a dataclass, a TypedDict, or any other that pydantic knows."""

    def __init__(self, schema: Any) -> None:
        try:
            import pydantic  # noqa: PLC0415  # who declares no types does not need it
        except ImportError:
            raise StepError(f"{show(schema)} needs pydantic: pip install 'motia-redis[typed]'") from None
        self._pydantic: ModuleType = pydantic
        # Pydantic also takes names of types, functions for their arguments, and objects for their class.
        is_object = not isinstance(schema, type) and (isinstance(schema, pydantic.BaseModel) or dataclasses.is_dataclass(schema))
        if isinstance(schema, str) or inspect.isroutine(schema) or is_object:
            raise _no_schema(schema)
        try:
            self._adapter = pydantic.TypeAdapter(schema)
            if hasattr(self._adapter, "rebuild"):  # since 2.10, which else reports what is not defined at the first document
                self._adapter.rebuild(raise_errors=True)
        except (pydantic.PydanticUserError, NameError, TypeError) as error:
            raise _no_schema(schema, f": {getattr(error, 'message', error)!s:.500}") from None

    def check_json(self, document: Any, _size: int, /) -> list[Mismatch]:
        try:
            # What is handed on is the document as it is, so that a text must not pass for a number. Pydantic does not get the
            # text that was sent: of a member that is there twice, it may look at another one.
            self._adapter.validate_json(_text(document), strict=True)
        except self._pydantic.ValidationError as error:
            return _described(error, document)
        except RecursionError:
            return [Mismatch("", "the document is nested too deeply")]
        return []

    def check_plain(self, value: Any) -> list[Mismatch]:
        try:
            self._adapter.validate_python(value)
        except self._pydantic.ValidationError as error:
            return _described(error, value)
        return []


def _described(error: ValidationError, document: Any) -> list[Mismatch]:
    if error.error_count() > _MOST_ERRORS:
        return [Mismatch("", f"{error.error_count()} places do not match")]
    problems = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_MISMATCHES]
    return [
        _mismatch(pointer_of(problem["loc"], document, is_missing=problem["type"] == "missing"), problem["msg"])
        for problem in problems
    ]


class _JsonSchema:
    """Check documents by a JSON Schema, of the draft that its `$schema` names, else of 2020-12. It loads no other schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            import jsonschema_rs  # noqa: PLC0415  # who declares no JSON Schema does not need it
        except ImportError:
            raise StepError("is a JSON Schema, which needs jsonschema-rs: pip install 'motia-redis[jsonschema]'") from None
        self._error: Any = jsonschema_rs.ValidationError
        try:
            # The mask stands in messages for the values of a document.
            self._validator = jsonschema_rs.validator_for(dict(schema), retriever=_retrieve_nothing, mask="the value")
        except ValueError as error:
            reason = getattr(error, "message", None) or str(error)
            place = "".join(f"/{pointer_token(part)}" for part in getattr(error, "instance_path", ()))
            raise StepError(f"is no valid JSON Schema: {f'at {place!r}: ' if place else ''}{reason:.500}") from None

    def check_json(self, document: Any, size: int, /) -> list[Mismatch]:
        return self._check(document, size)

    def check_plain(self, value: Any) -> list[Mismatch]:
        if isinstance(value, bytes):
            return [Mismatch("", "bytes are no JSON value")]
        return self._check(value, _LARGE + 1)

    def _check(self, document: Any, size: int, /) -> list[Mismatch]:
        try:
            self._validator.validate(document)
        except self._error as error:
            first = _masked(error)
        except ValueError as error:  # the document is nested too deeply
            return [_mismatch("", str(error))]
        else:
            return []
        if size > _LARGE:
            return [first]
        return [_masked(error) for error in self._validator.iter_errors(document)][:MOST_MISMATCHES]


def _masked(error: Any) -> Mismatch:
    return _mismatch("".join(f"/{pointer_token(part)}" for part in error.instance_path), error.message)


def _retrieve_nothing(uri: str) -> NoReturn:
    raise LookupError(f"schemas are not loaded from elsewhere; put {uri!r:.200} into '$defs'")


def _mismatch(path: str, message: str) -> Mismatch:
    return Mismatch(*(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for text in (path, message)))


def _text(document: Any) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # an integer of more than 64 bits, or over 254 levels
        return json.dumps(document, ensure_ascii=False).encode()


def _no_schema(schema: Any, reason: str = "") -> StepError:
    return StepError(
        f"must be a JSON Schema as a dict, a pydantic model, a dataclass or another type, not {show(schema)}{reason}"
    )
