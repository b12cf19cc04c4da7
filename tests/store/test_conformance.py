"""RFC 6902: strict updates pass every enabled record of json-patch-tests, through the public API on a real Redis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis.errors import StateError

if TYPE_CHECKING:
    from motia_redis import StateManager

DATA = Path(__file__).parent.parent / "data"


def _records() -> list[Any]:
    records = []
    for name in ("json-patch-tests.json", "json-patch-spec-tests.json"):
        for index, record in enumerate(json.loads((DATA / name).read_text())):
            if not record.get("disabled") and "patch" in record:
                title = f"{name.removesuffix('.json')}-{index}: {record.get('comment', '')}"
                records.append(pytest.param(record, id=title))
    return records


def same(a: Any, b: Any) -> bool:
    """Compare as JSON: unlike Python's ==, true is not 1, and numbers with different texts differ."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@pytest.mark.parametrize("record", _records())
async def test_strict_update_follows_rfc_6902(state: StateManager, record: dict[str, Any]) -> None:
    await state.set("docs", "doc", record["doc"])
    before = await state.entry("docs", "doc")
    if "error" in record:
        with pytest.raises(StateError):
            await state.update("docs", "doc", record["patch"], strict=True)
        assert await state.entry("docs", "doc") == before
    else:
        expected = record.get("expected", record["doc"])
        assert same(await state.update("docs", "doc", record["patch"], strict=True), expected)
        assert same(await state.get("docs", "doc"), expected)


def test_all_records_were_found() -> None:
    assert len(_records()) > 100
