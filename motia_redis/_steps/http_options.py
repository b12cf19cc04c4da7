"""What an http trigger declares beside its route: schemas, query parameters, middleware and a condition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from motia_redis._steps.context import FlowContext, SyncFlowContext
from motia_redis._steps.inputs import ApiRequest, ApiResponse
from motia_redis._steps.invocation import check_middleware
from motia_redis._steps.schemas import schema_problem
from motia_redis._store.fidelity import show

#: What runs around the handler of an http trigger: an async function of `(request, ctx, next)`, or a plain one,
#: which runs in a thread.
ApiMiddleware: TypeAlias = (
    Callable[[ApiRequest, FlowContext, Callable[[], Awaitable[ApiResponse]]], Any]
    | Callable[[ApiRequest, SyncFlowContext, Callable[[], Awaitable[ApiResponse]]], Any]
)

#: What decides whether a request reaches the handler: a sync or async function of `(request, ctx)` or `(request)`.
ApiCondition: TypeAlias = (
    Callable[[ApiRequest, FlowContext], bool | Awaitable[bool]] | Callable[[ApiRequest], bool | Awaitable[bool]]
)


@dataclass(frozen=True, slots=True)
class QueryParam:
    """Describe a query parameter of a route, for readers."""

    name: str
    description: str = ""


def query_param(value: Any) -> Any:
    """Return the QueryParam for a dict of its fields; anything else as it is, to be rejected by `query_params_problem`."""
    if isinstance(value, Mapping) and "name" in value and value.keys() <= {"name", "description"}:
        return QueryParam(**value)
    return value


def query_params_problem(query_params: object) -> str | None:
    """Return what is wrong with the declared query parameters, or None."""
    if not isinstance(query_params, list | tuple):
        return f"'query_params' of an http trigger must be a list of QueryParam(name, description), not {show(query_params)}"
    names = set()
    for param in query_params:
        if not isinstance(param, QueryParam):
            return (
                "a query parameter of an http trigger must be a QueryParam(name, description)"
                f' or a dict {{"name": ..., "description": ...}}, not {show(param)}'
            )
        if not isinstance(param.name, str) or not param.name or not isinstance(param.description, str):
            return f"a query parameter of an http trigger must have a name and a description that are texts, not {show(param)}"
        if param.name in names:
            return f"the query parameter {param.name!r:.80} stands twice in 'query_params'; remove one of the two"
        names.add(param.name)
    return None


def response_status(value: Any) -> Any:
    """Return the status for its digits, which is how JSON writes it; anything else as it is, to be rejected."""
    return int(value) if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit() else value


def schemas_problem(body_schema: object, response_schema: object) -> str | None:
    """Return what is wrong with the schemas of a route, or None."""
    if body_schema is not None and (problem := schema_problem(body_schema)):
        return f"'body_schema' of an http trigger {problem}"
    if not isinstance(response_schema, Mapping):
        return f"'response_schema' of an http trigger must be a dict of a schema for each status, not {show(response_schema)}"
    for status, schema in response_schema.items():
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
            return f"a status in 'response_schema' of an http trigger must be an integer from 200 to 599, not {show(status)}"
        if schema is not None and (problem := schema_problem(schema)):
            return f"'response_schema' of an http trigger, status {status}, {problem}"
    return None


def middleware_problem(middleware: object) -> str | None:
    """Return what is wrong with the middleware of a route, or None."""
    if not isinstance(middleware, list | tuple):
        return f"'middleware' of an http trigger must be a list of functions, not {show(middleware)}"
    for function in middleware:
        if problem := check_middleware(function):
            return f"a middleware of an http trigger {problem}"
    return None
