"""The pages of dead letters: groups, letters, one letter, and moving them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Route

from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.letter_filters import LetterFilter, find_letters, named, read_groups
from motia_redis._admin.letter_moves import why
from motia_redis._admin.letter_sweeps import Sweep
from motia_redis._admin.letters import LetterCursor
from motia_redis._console.access import audit
from motia_redis._console.letter_moves import LetterMove, LetterMoves
from motia_redis._console.pages import link
from motia_redis._console.redacting import mask_in
from motia_redis._console.trees import Number, tree
from motia_redis._store.json_texts import TEXTS, parse
from motia_redis._store.stream_groups import scope_name
from motia_redis.errors import CorruptValue, DeadLetterMissing, StateError, StateUnavailable, StepMissing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from starlette.requests import Request
    from starlette.responses import Response

    from motia_redis._admin.letters import DeadLetter
    from motia_redis._console.pages import Console
    from motia_redis._console.trees import Node

_MOST_GROUPED = 10_000  # letters that are looked at for the page of groups
_MOST_GROUPS = 200
_MOST_SEARCHED = 5000  # letters that are looked at for one page of letters
_PAGE = 50
_LONGEST_TRACEBACK = 32 * 1024  # characters
_NAMES = ("step", "error", "scope", "topic", "key", "after", "before")  # fields of the form of conditions
_DONE = {"retry": "Retried. It runs again after the newer events of its key.", "drop": "Dropped."}


@dataclass(frozen=True, slots=True)
class _Row:
    """A letter of a list."""

    letter: DeadLetter
    subject: str
    error: str


@dataclass(frozen=True, slots=True)
class _Input:
    """A part of a letter's input."""

    name: str
    root: Node | None
    problem: str = ""


class Letters:
    """Show the dead letters, and retry and drop them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._moves = LetterMoves()

    def routes(self) -> list[Route]:
        """Return the routes of the pages and their parts."""
        return [
            Route("/dead", self._groups),
            Route("/dead/letters", self._list),
            Route("/dead/letter", self._show),
            Route("/dead/letter/retry", self._retry, methods=["POST"]),
            Route("/dead/letter/drop", self._drop, methods=["POST"]),
            Route("/dead/try", self._try, methods=["POST"]),
            Route("/dead/move", self._move),
            Route("/dead/move/now", self._move_now),
            Route("/dead/move/start", self._start, methods=["POST"]),
            Route("/dead/move/stop", self._stop, methods=["POST"]),
        ]

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _groups(self, request: Request) -> Response:
        step = request.query_params.get("step") or None
        reading = read_groups(self._console.state, step, most_searched=_MOST_GROUPED, name=self._name)
        found = await self._console.in_time(reading)
        return self._console.page(
            request,
            "dead.html",
            step=step,
            found=found,
            groups=found.groups[:_MOST_GROUPS],
            moves=self._moves.begun()[:20],
        )

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        where, cursor = self._filter(query), LetterCursor.parse(query.get("cursor", ""))
        reading = find_letters(self._console.state, where, limit=_PAGE, most_searched=_MOST_SEARCHED, cursor=cursor)
        found = await self._console.in_time(reading)
        return self._console.page(
            request,
            "letters.html",
            chosen={name: query.get(name, "") for name in _NAMES},
            found=found,
            rows=[_Row(letter, _subject(letter), self._name(letter)) for letter in found.letters],
            is_first=cursor is None,
            done=_DONE.get(query.get("done", ""), ""),
        )

    async def _show(self, request: Request) -> Response:
        query = request.query_params
        return await self._letter_page(request, query.get("step", ""), query.get("id", ""))

    async def _letter_page(self, request: Request, step: str, id: str, *, problem: str = "") -> Response:
        try:
            letter = await self._console.in_time(DeadLetters(self._console.state).get(step, id))
        except DeadLetterMissing:
            text = "There is no such dead letter any more. It was retried or dropped, or a limit has removed it."
            raise HTTPException(404, text) from None
        inputs, secrets = self._read(letter)
        traceback = mask_in(letter.traceback, secrets)
        is_cut = len(traceback) > _LONGEST_TRACEBACK
        return self._console.page(
            request,
            "letter.html",
            code=400 if problem else 200,
            letter=letter,
            inputs=inputs,
            error=mask_in(letter.error_text, secrets),
            name=self._name(letter),
            traceback=traceback[-_LONGEST_TRACEBACK:],
            is_cut=is_cut,
            problem=problem,
        )

    def _name(self, letter: DeadLetter) -> str:
        """Return the name of a letter's error, without what its input hides."""
        _, secrets = self._read(letter, with_trees=False)
        return named(letter.error_type, mask_in(letter.error_text, secrets))

    def _read(self, letter: DeadLetter, *, with_trees: bool = True) -> tuple[list[_Input], list[str]]:
        """Return the parts of a letter's input, masked, and what was masked."""
        redaction, about = self._console.redaction, (letter.scope or letter.topic or "", letter.key or "")
        inputs, secrets = [], set[str]()
        if not with_trees and not redaction.patterns:
            return [], []
        for name, label in ((b"old", "Old value"), (b"new", "New value"), (b"data", "Data of the message")):
            if name not in letter.fields:
                continue
            try:
                value = parse(TEXTS.decode(letter.fields[name], subject=label), Number)
            except CorruptValue as error:
                inputs.append(_Input(label, None, str(error)))
                continue
            secrets.update(redaction.secrets(*about, value))
            if with_trees:
                inputs.append(_Input(label, tree(redaction.mask(*about, value)[0])))
        if letter.schedule is not None and with_trees:
            try:
                times = letter.cron_time
                shown = {"scheduled_at": times.scheduled_at.isoformat(), "fired_at": times.fired_at.isoformat()}
                inputs.append(_Input("Time", tree(shown)))
            except CorruptValue as error:
                inputs.append(_Input("Time", None, str(error)))
        return inputs, sorted(secrets, key=len, reverse=True)

    def _filter(self, given: Mapping[str, str]) -> LetterFilter:
        scope = given.get("scope")
        return LetterFilter(
            step=given.get("step") or None,
            error=given.get("error") or None,
            scope=scope_name(scope) if scope else None,
            topic=given.get("topic") or None,
            key_prefix=given.get("key") or None,
            after=_moment("after", given.get("after", "")),
            before=_moment("before", given.get("before", "")),
            name=self._name,
        )

    # -- changing one -------------------------------------------------------------------------------------------------

    async def _retry(self, request: Request) -> Response:
        return await self._change(request, "retry")

    async def _drop(self, request: Request) -> Response:
        return await self._change(request, "drop")

    async def _change(self, request: Request, action: Literal["retry", "drop"]) -> Response:
        form = await self._console.access.read_form(request)
        step, id = form.get("step", ""), form.get("id", "")  # noqa: A001 - the name of the field
        details = {"step": step, "id": id}
        letters = DeadLetters(self._console.state)
        try:
            await (letters.retry(step, id) if action == "retry" else letters.drop(step, id))
        except (DeadLetterMissing, StepMissing) as error:
            audit(request, f"{action} of a dead letter", "refused", details)
            return await self._letter_page(request, step, id, problem=f"{error}. Nothing was changed.")
        except StateUnavailable:
            audit(request, f"{action} of a dead letter", "unknown", details)
            raise
        audit(request, f"{action} of a dead letter", "done", details)
        return RedirectResponse(link(request, "dead/letters", step=step, done=action), 303)

    # -- changing many ------------------------------------------------------------------------------------------------

    async def _try(self, request: Request) -> Response:
        form = await self._console.access.read_form(request)
        action: Literal["retry", "drop"] = "drop" if form.get("action") == "drop" else "retry"
        sweep = Sweep(self._console.state, self._filter(form), action, rate=_rate(form.get("rate", "")))
        told = ", ".join(f"{name} {form[name]}" for name in _NAMES if form.get(name)) or "all"
        self._moves.add(move := LetterMove(sweep, request.state.person, told))
        return RedirectResponse(link(request, "dead/move", id=move.id), 303)

    def _known(self, id: str) -> LetterMove:
        move = self._moves.get(id)
        if move is None:
            raise HTTPException(404, "This console does not know the move: it was started again, or the move is long over.")
        return move

    async def _move(self, request: Request) -> Response:
        return self._move_page(request, "letter_move.html", request.query_params.get("id", ""))

    async def _move_now(self, request: Request) -> Response:
        return self._move_page(request, "letter_move_now.html", request.query_params.get("id", ""))

    def _move_page(self, request: Request, template: str, id: str) -> Response:
        return self._console.page(request, template, move=(move := self._known(id)), sweep=move.sweep, why=why)

    async def _start(self, request: Request) -> Response:
        form = await self._console.access.read_form(request)
        move = self._known(form.get("id", ""))
        move.move(request)
        return RedirectResponse(link(request, "dead/move", id=move.id), 303)

    async def _stop(self, request: Request) -> Response:
        form = await self._console.access.read_form(request)
        move = self._known(form.get("id", ""))
        move.sweep.stop()
        audit(request, f"stop of a {move.sweep.action} of dead letters", "done", {"where": move.told})
        return RedirectResponse(link(request, "dead/move", id=move.id), 303)


def _subject(letter: DeadLetter) -> str:
    return " / ".join(part for part in (letter.scope or letter.topic or letter.schedule, letter.key) if part)


def _moment(name: str, text: str) -> datetime | None:
    """Return a time of a form, which is UTC."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise StateError(f"{name}: {text!r:.80} is not a time such as 2026-11-27T08:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _rate(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise StateError(f"the rate must be a number of letters per second, not {text!r:.80}") from None
