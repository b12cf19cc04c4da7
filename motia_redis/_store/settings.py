"""Settings that must be the same in all processes of a namespace. They are stored beside its layout."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from motia_redis._store.limits import Retention, check_seconds
from motia_redis.errors import LayoutMismatch, SettingsMismatch, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The deadline of a namespace whose first process gives none.
DEFAULT_DEADLINE = 10.0
#: Seconds for which events stay after the deadline. They cover attempts in transit and differences between clocks.
RETRY_MARGIN = 10.0
_PREFIX: Final = "retention."
#: The fields of Retention and the type of each.
RETENTION_FIELDS: Final[dict[str, type[int | float]]] = {
    field.name: float if isinstance(field.default, float) else int for field in dataclasses.fields(Retention)
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold the settings of a namespace. The first process that connects writes them; `motia-redis settings` changes them."""

    retention: Retention = dataclasses.field(default_factory=Retention)
    #: The longest time in seconds for which a process may repeat calls. Events that repeated calls look for stay 10 s longer.
    deadline: float = DEFAULT_DEADLINE
    #: The limits of event streams, as lib/retention.lua takes them.
    trimming: bytes = dataclasses.field(init=False, repr=False, compare=False)
    #: Seconds for which entries are kept: of streams with too many bytes, and of others.
    trimming_ages: tuple[float, float] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_seconds("deadline", self.deadline, least=0.0)
        kept, retry = self.retention, self.deadline + RETRY_MARGIN if self.deadline else 0.0
        age = max(kept.seconds, retry)
        limits = (kept.entries, kept.most_entries, age * 1000, kept.bytes, retry * 1000)
        object.__setattr__(self, "trimming_ages", (retry, age))
        object.__setattr__(self, "trimming", b"%d:%d:%d:%d:%d" % limits)

    def encode(self) -> dict[str, str]:
        """Return the settings as fields of the hash that holds the layout."""
        fields = {_PREFIX + name: repr(getattr(self.retention, name)) for name in RETENTION_FIELDS}
        return fields | {"deadline": repr(self.deadline)}

    def topic_trimming(self, lanes: int) -> bytes:
        """Return the limits of the stream of one lane of a topic, as lib/retention.lua takes them."""
        kept = self.retention
        entries = -(-kept.topic_entries // lanes)
        return b"%b:%d:%d:%d" % (self.trimming, entries, kept.topic_seconds * 1000, kept.topic_bytes // lanes)

    @property
    def dead_letter_limits(self) -> bytes:
        """The limits of a step's dead letters in one partition, as `trim_dead` of lib/retention.lua takes them."""
        return b"%d:%d" % (self.retention.dead_letters, self.retention.dead_letter_seconds * 1000)

    def replace(self, changes: Mapping[str, Any]) -> Settings:
        """Return settings with other values. `changes` has `deadline` and fields of Retention. Raises StateError."""
        retention = {name: value for name, value in changes.items() if name != "deadline"}
        try:
            return Settings(dataclasses.replace(self.retention, **retention), changes.get("deadline", self.deadline))
        except TypeError:
            unknown = ", ".join(sorted(set(retention) - set(RETENTION_FIELDS)))
            raise StateError(f"no such setting: {unknown}; there are deadline and {', '.join(RETENTION_FIELDS)}") from None


def show(value: float) -> str:
    """Return a setting as text that a command takes."""
    return repr(value).removesuffix(".0")


def decode(subject: str, fields: Mapping[bytes, bytes]) -> Settings:
    """Return the settings in the fields of the hash that holds the layout. A field that is not there has its default.

    Raises LayoutMismatch for a field that holds something else.
    """
    try:
        given: dict[str, Any] = {
            name: kind(fields[key]) for name, kind in RETENTION_FIELDS.items() if (key := (_PREFIX + name).encode()) in fields
        }
        return Settings(Retention(**given), float(fields.get(b"deadline", DEFAULT_DEADLINE)))
    except (ValueError, StateError) as error:
        raise LayoutMismatch(f"{subject}: its stored settings are not valid: {error}") from None


@dataclass(frozen=True, slots=True)
class GivenSettings:
    """Hold what a process gives explicitly. None: use the stored setting."""

    retention: Retention | None = None
    deadline: float | None = None

    def initial(self) -> Settings:
        """Return the settings for a namespace that has none yet."""
        return Settings(self.retention or Retention(), DEFAULT_DEADLINE if self.deadline is None else self.deadline)

    def mismatch(self, stored: Settings) -> str | None:
        """Describe how the given settings differ from the stored ones, and what to do. Return None if they do not.

        A process may repeat calls for a shorter time than the stored deadline.
        """
        differing: list[tuple[str, str, Any, Any]] = []
        for name in RETENTION_FIELDS if self.retention is not None else ():
            here, there = getattr(self.retention, name), getattr(stored.retention, name)
            if here != there:
                differing.append((f"Retention.{name}", f"--retention-{name.replace('_', '-')}", here, there))
        if self.deadline is not None and self.deadline > stored.deadline:
            differing.append(("deadline", "--deadline", self.deadline, stored.deadline))
        if not differing:
            return None
        texts = "; ".join(f"{name} is {show(here)} here and {show(there)} in the namespace" for name, _, here, there in differing)
        command = " ".join(f"{option} {show(here)}" for _, option, here, _ in differing)
        return f"{texts}: leave the argument out, or change the namespace with `motia-redis settings {command}`"

    def check(self, subject: str, stored: Settings) -> None:
        """Raise SettingsMismatch if the given settings differ from the stored ones."""
        if (text := self.mismatch(stored)) is not None:
            raise SettingsMismatch(f"{subject}: {text}")
