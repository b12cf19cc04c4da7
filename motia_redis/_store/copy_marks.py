"""What stands beside the layout of a namespace that a copy of another one is made in: how far the copy has come.

Until the copy is finished no process may use the namespace, so that nothing is written to it, handled or expires before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX = b"copy."

#: How far a copy has come. "values": values are copied for the first time. "repair": the same, and what the source does not have
#: is deleted. "changes": only changes are left. "finished": the namespace may be used.
Phase = Literal["values", "repair", "changes", "finished"]
_PHASES: dict[str, Phase] = {"values": "values", "repair": "repair", "changes": "changes", "finished": "finished"}


@dataclass(frozen=True, slots=True)
class CopyMark:
    """Hold how far a copy has come, as the fields of the layout's hash."""

    source: str  #: the namespace that is copied, its Redis without secrets, and its layout
    cursor: str  #: of the source: what has changed after it is not copied, or may not be
    phase: Phase = "values"
    partition: int = 0  #: the first partition of the source whose values were not all copied
    others: str = ""  #: of a finished copy: what the source had besides values, as JSON

    @property
    def is_finished(self) -> bool:
        """Return whether the namespace may be used."""
        return self.phase == "finished"

    def encode(self) -> dict[str, str]:
        """Return the fields."""
        return {_PREFIX.decode() + name: str(value) for name, value in asdict(self).items()}


def decode(fields: Mapping[bytes, bytes]) -> CopyMark | None:
    """Return the mark among the fields of a layout; None: the namespace is no copy. Raises ValueError for other fields."""
    found = {name.removeprefix(_PREFIX).decode(): value.decode() for name, value in fields.items() if name.startswith(_PREFIX)}
    if not found:
        return None
    try:
        phase = _PHASES[found["phase"]]
        return CopyMark(found["source"], found["cursor"], phase, int(found["partition"]), found["others"])
    except KeyError as error:
        raise ValueError(f"the mark of a copy has no valid {error}") from None
