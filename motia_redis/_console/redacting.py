"""Mask what patterns name, before it leaves the process."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

from motia_redis._steps.faults import escaped
from motia_redis._store.json_texts import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MASK = "▒▒▒▒"
_SHORTEST = 4  # characters of a masked text that is masked in other texts, too: shorter ones would hide half of the page


class Redaction:
    """Mask members of values by patterns over `scope/key/member...`."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        texts = [fnmatch.translate(pattern.casefold()) for pattern in patterns]
        self._pattern = re.compile("|".join(texts)) if texts else None

    def covers(self, *path: str) -> bool:
        """Return whether a path is masked, with all below it."""
        return self._pattern is not None and self._pattern.match("/".join(path).casefold()) is not None

    def mask(self, scope: str, key: str, value: Any) -> tuple[Any, bool]:
        """Return a value with masks in place of what the patterns name, and whether there are any."""
        if self._pattern is None:
            return value, False
        masked = self._mask(f"{scope}/{key}", value)
        return masked, masked is not value

    def secrets(self, scope: str, key: str, value: Any) -> list[str]:
        """Return the texts and numbers that the patterns mask in a value, the longest first."""
        if self._pattern is None:
            return []
        found = {text for text in self._hidden(f"{scope}/{key}", value) if len(text) >= _SHORTEST}
        return sorted(found, key=len, reverse=True)

    def _mask(self, path: str, value: Any) -> Any:
        """Return the value itself if nothing in it is masked."""
        if self.covers(path):
            return MASK
        if isinstance(value, dict):
            members = {name: self._mask(f"{path}/{name}", member) for name, member in value.items()}
            return members if any(members[name] is not value[name] for name in members) else value
        if isinstance(value, list):
            items = [self._mask(f"{path}/{index}", item) for index, item in enumerate(value)]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        return value

    def _hidden(self, path: str, value: Any, *, is_hidden: bool = False) -> Iterator[str]:
        is_hidden = is_hidden or self.covers(path)
        if isinstance(value, dict):
            for name, member in value.items():
                yield from self._hidden(f"{path}/{name}", member, is_hidden=is_hidden)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._hidden(f"{path}/{index}", item, is_hidden=is_hidden)
        elif is_hidden and value is not None and not isinstance(value, bool):
            yield str(value)


def mask_in(text: str, secrets: Sequence[str]) -> str:
    """Return a text, such as that of an error, with a mask in place of each secret, also where it stands with escapes."""
    for secret in secrets:
        for spelling in (secret, repr(secret)[1:-1], quoted(secret)[1:-1], escaped(secret)):
            text = text.replace(spelling, MASK)
    return text
