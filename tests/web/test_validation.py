"""HTTP endpoint: bodies of requests and responses that do not match the schemas of their route."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, field_validator

from motia_redis._steps.inputs import ApiRequest, ApiResponse
from tests.support.endpoints import client, route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class User(BaseModel):
    name: str
    age: int = 0


USER = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
BOTH = pytest.mark.parametrize("schema", [User, USER], ids=["model", "JSON Schema"])


def mirror(request: ApiRequest) -> dict[str, Any]:
    return {"body": {"type": type(request.body).__name__, "value": request.body}}


# -- requests ---------------------------------------------------------------------------------------------------------


@BOTH
async def test_body_that_matches_reaches_the_handler_as_it_was_sent(schema: Any) -> None:
    body = {"name": "Ann", "age": 3, "more": [None]}
    async with client(route("POST", "/", mirror, body_schema=schema)) as http_client:
        response = await http_client.post("/", json=body)
    assert response.status_code == 200
    assert response.json() == {"type": "dict", "value": body}


@BOTH
async def test_body_that_does_not_match_returns_400_with_the_places(schema: Any, caplog: pytest.LogCaptureFixture) -> None:
    def unreachable(request: ApiRequest) -> None:
        raise AssertionError

    async with client(route("POST", "/", unreachable, body_schema=schema)) as http_client:
        response = await http_client.post("/", json={"name": ["hunter2"], "age": "3"})
    assert response.status_code == 400
    answer = response.json()
    assert answer["error"] == "the body does not match the schema of the route"
    assert sorted(detail["path"] for detail in answer["details"]) == ["/age", "/name"]
    assert all(detail.keys() == {"path", "message"} and detail["message"] for detail in answer["details"])
    assert "hunter2" not in response.text
    assert response.headers["x-trace-id"]
    assert caplog.records == []  # the client is at fault


@BOTH
@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"", None, 400),
        (b"null", "application/json", 400),
        (b'{"name": "Ann"}', None, 200),
        (b'{"name": "Ann"}', "application/vnd.api+json; charset=utf-8", 200),
        (b"name=Ann", "application/x-www-form-urlencoded", 200),
        (b"nam=Ann", "application/x-www-form-urlencoded", 400),
        (b'{"name": "Ann"}', "text/plain", 400),
        (b'{"name": "Ann"}', "application/octet-stream", 400),
        (b"{", "application/json", 400),
        (b"[" * 900 + b"]" * 900, "application/json", 400),
    ],
)
async def test_body_of_any_content_type_is_checked(schema: Any, content: bytes, content_type: str | None, status: int) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    async with client(route("POST", "/", mirror, body_schema=schema)) as http_client:
        response = await http_client.post("/", content=content, headers=headers)
    assert response.status_code == status


@BOTH
@pytest.mark.parametrize("content_types", [["application/json", "text/plain"], ["application/json, text/plain"]], ids=len)
async def test_json_is_checked_strictly_when_the_content_type_is_given_twice(schema: Any, content_types: list[str]) -> None:
    headers = [("content-type", content_type) for content_type in content_types]
    async with client(route("POST", "/", mirror, body_schema=schema)) as http_client:
        wrong = await http_client.post("/", content=b'{"name": "Ann", "age": "3"}', headers=headers)
        right = await http_client.post("/", content=b'{"name": "Ann", "age": 3}', headers=headers)
    assert wrong.status_code == 400
    assert right.json()["value"] == {"name": "Ann", "age": 3}


@BOTH
async def test_of_a_member_that_is_given_twice_the_last_is_checked_as_it_is_handed_on(schema: Any) -> None:
    async with client(route("POST", "/", mirror, body_schema=schema)) as http_client:
        wrong = await http_client.post("/", content=b'{"name": "Ann", "age": 3, "age": "3"}')
        right = await http_client.post("/", content=b'{"name": "Ann", "age": "3", "age": 3}')
    assert wrong.status_code == 400
    assert right.json()["value"] == {"name": "Ann", "age": 3}


async def test_schema_of_one_route_does_not_concern_another() -> None:
    strict = route("POST", "/", mirror, body_schema=User)
    async with client(strict, route("PUT", "/", mirror), route("POST", "/:id", mirror)) as http_client:
        assert (await http_client.post("/", json=1)).status_code == 400
        assert (await http_client.put("/", json=1)).status_code == 200
        assert (await http_client.post("/1", json=1)).status_code == 200


async def test_error_of_a_validator_returns_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def look(cls, n: int) -> int:
            raise LookupError("secret")

    failing = route("POST", "/", mirror, "Failing", body_schema=Failing, response_schema={200: Failing})
    checked = route("PUT", "/", lambda request: {"body": {"n": 1}}, "Checked", response_schema={200: Failing})
    async with client(failing, checked) as http_client:
        for response in (await http_client.post("/", json={"n": 1}), await http_client.put("/")):
            assert response.status_code == 500
            assert response.json() == {"error": "internal server error", "trace_id": response.headers["x-trace-id"]}
    assert [record.step for record in caplog.records] == ["Failing", "Checked"]  # type: ignore[attr-defined]
    assert all("LookupError" in message for message in caplog.messages)


# -- responses --------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "result",
    [
        ApiResponse(body={"name": "Ann"}),
        {"body": {"name": "Ann", "age": 1}},
        {"body": '{"name": "Ann"}', "headers": {"content-type": "application/json"}},
        {"status": 404, "body": {"any": "thing"}},
        {"status": 204},
        None,
    ],
    ids=str,
)
async def test_response_that_matches_or_has_no_schema_is_sent(schema: Any, result: Any) -> None:
    async with client(route("GET", "/", lambda request: result, response_schema={200: schema, 404: None})) as http_client:
        assert (await http_client.get("/")).status_code != 500


@BOTH
@pytest.mark.parametrize(
    ("result", "place"),
    [
        ({"body": {"name": "Ann", "age": "hunter2"}}, "at '/age': "),
        ({"body": {"name": "Ann", "age": None}}, "at '/age': "),
        ({"body": None}, ""),
        ({"body": "Ann"}, ""),
        ({"body": b"hunter2"}, ""),
        ({"body": "hunter2{", "headers": {"content-type": "application/json"}}, ""),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_response_that_does_not_match_is_not_sent_and_is_logged_with_its_places(
    schema: Any, result: Any, place: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    shown = route("GET", "/users/:id", lambda request: result, "ShowUser", response_schema={200: schema})
    async with client(shown) as http_client:
        response = await http_client.request(method, "/users/1")
    assert response.status_code == 500
    assert "hunter2" not in response.text + caplog.text
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{method} /users/1: the response does not match 'response_schema' for the status 200: {place}"
    )
    assert record.levelno == logging.ERROR
    assert (record.step, record.fields) == ("ShowUser", {"route": "/users/:id"})  # type: ignore[attr-defined]


async def test_text_and_bytes_are_checked_as_such() -> None:
    text = route("GET", "/text", lambda request: {"body": "é"}, response_schema={200: {"type": "string", "maxLength": 1}})
    binary = route("GET", "/bytes", lambda request: {"body": b"\xff"}, response_schema={200: bytes})
    async with client(text, binary) as http_client:
        assert (await http_client.get("/text")).text == "é"
        assert (await http_client.get("/bytes")).content == b"\xff"


async def test_response_of_a_middleware_is_checked_but_not_the_answer_to_a_wrong_body() -> None:
    async def shut(request: ApiRequest, ctx: Any, next: Callable[[], Awaitable[ApiResponse]]) -> Any:
        return {"status": 200, "body": {"age": 1}} if request.query_params else await next()

    promised = {200: User, 400: User, 422: User}
    shown = route(
        "POST", "/", mirror, body_schema=User, response_schema=promised, middleware=[shut], condition=lambda r: r.path == "/"
    )
    async with client(shown) as http_client:
        assert (await http_client.post("/?shut=1", json={"name": "Ann"})).status_code == 500
        assert (await http_client.post("/", json={})).status_code == 400
