"""What is said about an error reply: the code, and its text without the place in a script, in the words of each server."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from motia_redis._transport.refusals import clean_message, error_code

SHA = "52d55e109120fc106440d8864da4077f49f9acfb"
FULL = "command not allowed when used memory > 'maxmemory'."
WRONG = "WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ResponseError(f"Error running script (call to f_{SHA}): @user_script:1: {WRONG}"), WRONG),  # Redis 6.2
        (ResponseError(f"{WRONG} script: {SHA}, on @user_script:1."), WRONG),  # Redis 7 and 8, Valkey 7.2 and 8
        (ResponseError(f"{WRONG} script: on @user_script:1."), WRONG),  # Valkey 9
    ],
    ids=["redis-6.2", "redis-8", "valkey-9"],
)
def test_place_in_a_script_is_left_out(error: ResponseError, text: str) -> None:
    assert clean_message(error) == text
    assert error_code(error) == "WRONGTYPE"


def test_text_of_a_user_that_looks_like_a_place_in_a_script_stays() -> None:
    text = "UNKNOWN key 'a script: on @user_script:1. b'"
    assert clean_message(ResponseError(text)) == text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutOfMemoryError(f"{FULL} script: on @user_script:41."), "OOM"),
        (ReadOnlyError("You can't write against a read only replica. script: on @user_script:41."), "READONLY"),
        (ResponseError("ACL failure in script: No permissions to access a key script: on @user_script:1."), "NOPERM"),
        (NoPermissionError("No permissions to access a key"), "NOPERM"),
    ],
)
def test_refusals_of_valkey_have_their_code_and_a_clean_text(error: ResponseError, code: str) -> None:
    assert error_code(error) == code
    assert "user_script" not in clean_message(error)
