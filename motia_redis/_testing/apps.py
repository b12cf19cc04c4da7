"""An application in a test: nothing of it runs but inside of the calls of `App`."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._steps.application import Application
from motia_redis._steps.definitions import Step, StepDefinition
from motia_redis._steps.loading import load_application
from motia_redis._store.keyspace import is_cron
from motia_redis._testing import namespaces
from motia_redis._testing.clock import MovedClock
from motia_redis._testing.driving import DrivenWorker, driving
from motia_redis._testing.lanes import Handled, handled_now, lanes_of
from motia_redis._testing.records import ends_of, read_changes, read_messages
from motia_redis._testing.requests import _NOTHING, send_request
from motia_redis._testing.server import server_url
from motia_redis._web.app import create_web_app
from motia_redis.errors import StateError, StepError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from datetime import datetime

    from starlette.applications import Starlette

    from motia_redis._admin.letters import DeadLetter
    from motia_redis._steps.inputs import ApiResponse, StateTriggerInput
    from motia_redis._store.manager import StateManager
    from motia_redis._testing.driving import Driver
    from motia_redis._testing.lanes import StepLane
    from motia_redis._testing.records import Message

#: What an application is made of: one that was loaded, steps, and files, folders and modules with steps.
Part: TypeAlias = Application | Step[..., Any] | StepDefinition | str | Path

_TIMEOUT = 10.0  # seconds until `settle` gives up


class App:
    """Hold an application in a test. `application` and the fixture `motia_app` make it.

    State, HTTP and queues are those of production, on a real server. But nothing is handled in the background: a worker runs
    inside of `settle`, `advance` and `redeliver` only, and handlers of HTTP triggers inside of `request`. These calls come one
    after the other. State triggers fire for changes that are made after the application was made.
    """

    def __init__(self, application: Application, state: StateManager, *, now: datetime | None = None) -> None:
        self.application: Application = application
        self.state: StateManager = state
        self._clock = MovedClock(now)
        self._web: Starlette | None = None
        self._start: dict[StepLane, Handled] = {}
        self._ends: dict[bytes, str] = {}
        self._is_crash_wanted = False
        self._busy = ""

    def __repr__(self) -> str:
        return f"<App of {len(self.application.steps)} steps, namespace={self.state.namespace!r}>"

    async def _prepare(self) -> None:
        """Create the consumer groups of the steps, and note where everything begins."""
        keyspace = await self.state.connect()
        router = await self.state.open_router()
        try:
            if self._clock.ahead:
                await self._clock.apply(router, keyspace)
            lanes = lanes_of(self.application, keyspace)
            topics = [lane.stream for lane in lanes if not is_cron(lane.stream)]
            self._ends = await ends_of(router, keyspace, topics)
            await DrivenWorker(self.application, self.state, self._clock).prepare()
            self._start = await handled_now(router, lanes)
        finally:
            await router.aclose()

    # -- handling -----------------------------------------------------------------------------------------------------

    async def settle(self, *, within: float | None = _TIMEOUT) -> None:
        """Handle all changes, messages and times that there are, and what follows from them, until nothing is left to do.

        What falls due later stays: delayed messages, values that expire, and attempts after a pause: see `advance`. A handler
        that raises does not make the call fail: its attempts end as a dead letter, or wait for their pause.

        Arguments:
            within: seconds until the call gives up. None: never, for a debugger.

        Raises TimeoutError, which names the handlers that run and the steps with entries that are not handled. Cost: about 10 ms.
        """
        async with self._driving("settle", within) as driver:
            await driver.until_quiet()

    async def advance(self, seconds: float, *, within: float | None = _TIMEOUT) -> None:
        """Let time pass without waiting, and handle everything that falls due meanwhile, in the order of time.

        First the application settles. Then the clock of the namespace goes from one time to the next: of delayed messages, values
        that expire, cron triggers and attempts after a pause, which are exact here: without the chance that production adds. The
        application settles after each. Ids of entries and `timestamp` stay those of the server's clock.

        Arguments:
            seconds: how much time passes.
            within: seconds, of real time, until the call gives up waiting for the application to settle, each time.

        Raises TimeoutError as `settle` does, and StateError for a negative time. Cost: about 10 ms, and 5 ms for each time.
        """
        if not seconds >= 0:
            raise StateError(f"advance takes a number of seconds of at least 0, not {seconds!r}: time does not go back")
        async with self._driving("advance", within) as driver:
            await driver.until_quiet()
            await driver.pass_time(seconds)

    async def redeliver(self, *, within: float | None = _TIMEOUT) -> None:
        """Handle everything once more that was handled since the application was made, as after a crash before it was recorded.

        First the application settles. Each step gets all its events, messages and times again, in their order, with the same
        revisions and ids; then what follows from that is handled. Dead letters are not handled again. A handler that is
        idempotent leaves the state as it was.

        Raises TimeoutError as `settle` does.
        """
        async with self._driving("redeliver", within) as driver:
            await driver.until_quiet()
            await driver.handle_again(self._start)

    def crash_before_ack(self) -> None:
        """Let the worker crash in the next call that handles something: after its handlers, before that is recorded.

        The next `settle` or `advance` handles what there is, loses the record of it, and another worker handles the same entries
        again. Effects of handlers stay, as in production.
        """
        self._is_crash_wanted = True

    @asynccontextmanager
    async def _driving(self, call: str, within: float | None) -> AsyncIterator[Driver]:
        if self._busy:
            raise StateError(f"{call} was called while {self._busy} of this application runs: await one after the other")
        self._busy = call
        try:
            await namespaces.renew_global_state()
            wanted = self._is_crash_wanted
            async with driving(self.application, self.state, self._clock, within=within, is_crash_wanted=wanted) as driver:
                yield driver
                self._is_crash_wanted = driver.is_crash_wanted
        finally:
            self._busy = ""

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = _NOTHING,
        body: bytes | str | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """Send a request to the HTTP triggers, in this process, and return the response.

        Validation and middleware run as in production. The body of the response is decoded if it is JSON or text, else it is
        bytes, and None if it is empty. Names of headers are in lower case. What the handler changes is handled by the next
        `settle`.

        Arguments:
            method: such as `"GET"`.
            path: the path, encoded as in a URL; it may have a query.
            json: the body as a value, sent as JSON.
            body: the body as it is sent; name its `content-type` in `headers`.
            query: parameters; a list of values repeats a parameter.
            headers: further headers.
        """
        await namespaces.renew_global_state()
        if self._web is None:
            self._web = create_web_app(self.application, self.state)
        return await send_request(self._web, method, path, json=json, body=body, query=query, headers=headers)

    # -- what happened ------------------------------------------------------------------------------------------------

    async def changes(self, scope: str | None = None) -> list[StateTriggerInput]:
        """Return the changes since the application was made, in their order, as state triggers get them.

        Without a scope those of all scopes, but for items of streams; theirs are the changes of a scope
        `motia_redis.types.StreamGroup(stream, group)`.
        """
        async with self._reading() as (router, keyspace):
            return await read_changes(router, keyspace, scope, self._ends)

    async def enqueued(self, topic: str | None = None) -> list[Message]:
        """Return the messages to a topic, or to all topics, since the application was made: in their order, handled or not.

        Behind them are delayed messages that wait, with `due`. Messages of one topic are in their order; those of several topics
        are ordered by their milliseconds.
        """
        async with self._reading() as (router, keyspace):
            return await read_messages(self.state, router, keyspace, topic, self._ends)

    async def dead_letters(self, step: str | None = None) -> list[DeadLetter]:
        """Return the dead letters of a step, or of all steps, ordered by time."""
        return await DeadLetters(self.state).list(step, limit=1_000_000)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[Any, Any]]:
        keyspace = await self.state.connect()
        router = await self.state.open_router()
        try:
            yield router, keyspace
        finally:
            await router.aclose()


def application_of(parts: tuple[Part, ...]) -> Application:
    """Return the application of these parts. Raises StepError."""
    steps: dict[int, Any] = {}
    for part in parts:
        found: tuple[Any, ...]
        if isinstance(part, Application):
            found = part.steps
        elif isinstance(part, str | Path):
            found = load_application([str(part)]).steps
        elif isinstance(part, StepDefinition):
            found = (part.step or part,)  # a definition without a handler: the application says what is missing
        elif isinstance(part, Step):
            found = (part,)
        else:
            raise StepError(f"an application is made of steps, step files and applications, not of {part!r:.80}")
        steps.update((id(step), step) for step in found)
    return Application(tuple(steps.values()))


@asynccontextmanager
async def application(*parts: Part, url: str | None = None, now: datetime | None = None) -> AsyncIterator[App]:
    """Return a context manager with an application in a namespace of its own, which is deleted behind the block.

    Use it as `async with application("steps/") as app:`, in an event loop: that of pytest-asyncio, anyio,
    `unittest.IsolatedAsyncioTestCase` or `asyncio.run`. Inside of the block `MOTIA_REDIS_URL` and `MOTIA_REDIS_NAMESPACE` are
    those of the test, for handlers that use the global `stateManager`.

    Arguments:
        parts: an `Application`, steps, and files, folders or modules with steps, as `load_application` takes them.
        url: the Redis to use. Default: an embedded server, which all tests of this process share: see `server_url`.
        now: the time at the start, for cron triggers. Default: that of the server.

    Raises StepError, and StateUnavailable if no server can be started. Cost: about 10 ms, and 0.1 s for the first in a process.
    """
    app = App(application_of(parts), namespaces.new_state(url or server_url()), now=now)
    with namespaces.environment(app.state):
        try:
            await app._prepare()
            yield app
        finally:
            await namespaces.end(app.state)


class MakeApp(Protocol):
    """The type of the fixture `motia_app`."""

    def __call__(self, *parts: Part, now: datetime | None = None) -> App:
        """Return an application in the namespace of the test. The arguments are those of `application`."""


@contextmanager
def namespace(url: str) -> Iterator[StateManager]:
    """Give a manager a namespace for the block, which is not in an event loop: for fixtures that are plain functions."""
    state = namespaces.new_state(url)
    namespaces.run_apart(state.connect())  # before others, which would give the namespace another layout
    with namespaces.environment(state):
        try:
            yield state
        finally:
            namespaces.end_from_outside(state)


def new_app(state: StateManager, parts: tuple[Part, ...], now: datetime | None) -> App:
    """Return an application in the namespace of a manager. An event loop may run in this thread, or not."""
    app = App(application_of(parts), state, now=now)
    namespaces.run_apart(app._prepare())
    return app
