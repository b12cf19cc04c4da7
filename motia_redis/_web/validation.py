"""Check request and response bodies by the schemas of a route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._steps.inputs import ApiResponse
from motia_redis._steps.schemas import Mismatch, checker_of
from motia_redis._web.requests import is_json, media_type_of

if TYPE_CHECKING:
    from starlette.responses import Response

    from motia_redis._steps.inputs import ApiRequest
    from motia_redis._steps.triggers import HttpTrigger


@dataclass(frozen=True)
class Rejection(ApiResponse):
    """Answer for the server instead of the handler. It stays one when a middleware replaces a part of it."""


class Validation:
    """Check the bodies of one route."""

    def __init__(self, trigger: HttpTrigger) -> None:
        self._body = None if trigger.body_schema is None else checker_of(trigger.body_schema)
        schemas = trigger.response_schema.items()
        self._responses = {status: checker_of(schema) for status, schema in schemas if schema is not None}

    @property
    def checks_requests(self) -> bool:
        """Whether the route has a schema for the bodies of requests."""
        return self._body is not None

    def rejection_of(self, request: ApiRequest) -> Rejection | None:
        """Return the response to a request whose body, as the handler would get it, does not match, or None."""
        if self._body is None:
            return None
        if not request.raw_body:
            mismatches = self._body.check_plain(None)
        elif is_json(media_type_of(request.headers.get("content-type", ""))):
            mismatches = self._body.check_json(request.body, len(request.raw_body))
        else:
            mismatches = self._body.check_plain(request.body)
        if not mismatches:
            return None
        details = [mismatch._asdict() for mismatch in mismatches]
        return Rejection(400, {"error": "the body does not match the schema of the route", "details": details})

    def response_mismatches(self, result: Any, response: Response) -> list[Mismatch]:
        """Return where the body of a response does not match the schema of its status.

        A Rejection has no schema, and a response without a body needs none.
        """
        checker = self._responses.get(response.status_code)
        if checker is None or isinstance(result, Rejection) or response.status_code in (204, 304):
            return []
        kind = media_type_of(response.headers.get("content-type", ""))
        body = bytes(response.body)
        if is_json(kind):
            try:
                return checker.check_json(orjson.loads(body), len(body))
            except orjson.JSONDecodeError:
                return [Mismatch("", "the text is not valid JSON")]
        return checker.check_plain(body.decode(errors="replace") if kind.startswith("text/") else body)
