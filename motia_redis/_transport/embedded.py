"""A Redis server of our own for `embedded://DIR`: one per directory, shared by processes, gone with the last of them.

    user process ──LOCK_SH──▶ users.lock ◀──LOCK_EX (waits)── keeper ──parent of──▶ redis-server (AOF, Unix socket, DIR)

Who holds what is told by `flock` alone, because the kernel drops a lock on every kind of death, `kill -9` included, and
wakes the waiter at once: nothing polls while the server is in use, and no process id is ever trusted.

    start.lock   the one process that is looking for a server, or starting it
    users.lock   shared by every handle; the keeper waits for it exclusively, and having it means "nobody uses it"
    keeper.lock  the keeper; free means that no server is watched, so one has to be started
    server.lock  keeper *and* redis-server (which inherits it): two servers never write one AOF, whoever was killed, and
                 the socket is removed by its owner only

A starter locks users.lock before there is a keeper, so no keeper sees its server unused while it is being joined. A
joiner that meets a keeper shutting down waits on users.lock until that keeper is gone, then starts a new one.

**Limits.** POSIX and one machine only. A keeper that is killed by SIGKILL takes its server with it on Linux (parent
death signal); elsewhere that server stays until the next join in its directory replaces it. A server that dies is
started again by the next `join`, which gives the same URL, not by the handles that are out. If the directory's path is
too long for a Unix socket, the socket is under the temporary directory, which all users must then agree on (`TMPDIR`).
**Fork.** A forked child shares its parent's locks: it is a user until it ends or leaves, even if the parent left.

This file is its own keeper program: it is run by path under `python -I -S`, which starts in a few tens of milliseconds
and cannot import the package (hence only the standard library here) nor anything that would hold a lock or a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if sys.platform != "win32":
    import fcntl
if __name__ != "__main__":  # the keeper has no package around it, and raises nothing
    from motia_redis._transport.server_programs import find_server_for
    from motia_redis.errors import StateUnavailable
if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_SOCKET_PATH = 103  # bytes: 107 on Linux, 103 on macOS
STOP_SECONDS = 5.0  # a server that has not ended this long after SIGTERM is killed; what it wrote is with the kernel
RETRY_SECONDS = 0.01  # only while joining


class EmbeddedServer:
    """The use that a process makes of the server of one directory; got from `join`.

    The server lives at least until `leave`, the handle's garbage collection or the end of the process, whichever comes
    first. Handles are independent of each other, also several of one directory in one process, and thread-safe.
    """

    directory: Final[Path]
    """The resolved data directory: AOF, locks and the logs of this server (`redis.log`) and the one before."""
    url: Final[str]
    """The server's `unix://` URL for redis-py; always the same for one directory."""

    def __init__(self, directory: Path, address: Path, users: int) -> None:
        self.directory = directory
        self.url = "unix://" + quote(str(address))
        self._leave = weakref.finalize(self, os.close, users)
        self._leave.atexit = False  # the kernel does it, after everything that may still want the server at exit

    @classmethod
    def join(cls, directory: Path, *, start_timeout: float = 10.0) -> EmbeddedServer:
        """Use the server of `directory`, starting it when there is none, and return when it answers commands.

        The directory is created (mode 0700) if need be. Blocks for at most about `start_timeout` seconds, which must
        cover the loading of the data and, when the last user has just left, the end of the server before. Raises
        StateUnavailable, with the end of the server's log, if there is no server by then or it cannot be started;
        nothing is left running then.
        """
        if sys.platform == "win32":
            raise StateUnavailable("embedded:// needs a POSIX system; on Windows, run a Redis server and give its redis:// URL")
        deadline = time.monotonic() + start_timeout
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = directory.resolve()
            address = _address(directory)
            with contextlib.ExitStack() as held:
                held.callback(_unlock, _lock(directory / "start.lock", fcntl.LOCK_EX, deadline))
                users = _lock(directory / "users.lock", fcntl.LOCK_SH, deadline)
                try:
                    _wait_until_ready(directory, address, deadline)
                except BaseException:
                    _unlock(users)
                    raise
        except (OSError, subprocess.SubprocessError) as error:
            raise StateUnavailable(f"the embedded Redis in {directory} cannot be used: {error}") from error
        return cls(directory, address, users)

    def leave(self) -> None:
        """Give up this handle; again is harmless. Does not wait for the server, which ends soon if it was the last."""
        # Closed, not unlocked: LOCK_UN would also take the lock from forked children, which may still use the server.
        self._leave()


def _wait_until_ready(directory: Path, address: Path, deadline: float) -> None:
    """Start a keeper if there is none and return when the server answers; the caller holds start.lock, users.lock."""
    started = False
    while True:
        if _is_free(directory / "keeper.lock"):
            if started:
                raise StateUnavailable(f"the embedded Redis in {directory} ended while starting{_log_tail(directory)}")
            _start_keeper(directory, address, deadline)
            started = True
            continue
        reply = _ask(address, b"PING\r\n", deadline - time.monotonic())
        if reply and not reply.startswith(b"-LOADING"):
            return
        if time.monotonic() >= deadline:
            what = "has not loaded its data" if reply else f"has not answered on {address}"
            raise StateUnavailable(f"the embedded Redis in {directory} {what} within start_timeout{_log_tail(directory)}")
        time.sleep(RETRY_SECONDS)


def _start_keeper(directory: Path, address: Path, deadline: float) -> None:
    """Start a keeper and return once it holds keeper.lock, which is before its server is up, or has failed."""
    server = find_server_for(directory)
    if address.parent != directory:
        _make_private(address.parent)
    log = directory / "redis.log"
    with contextlib.suppress(FileNotFoundError):
        log.replace(directory / "redis.log.1")  # it may tell why the server before this one died
    command = [sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(directory), str(address), str(server)]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # Its own session: the terminal's Ctrl-C and hang-up reach neither keeper nor server. What returns here is only
        # the keeper's parent; the keeper itself is nobody's child, so it never is a zombie or a surprise to `wait()`.
        subprocess.run(  # noqa: S603 - our own interpreter and file
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=directory,
            start_new_session=True,
            timeout=max(deadline - time.monotonic(), RETRY_SECONDS),
            check=False,  # a failure shows as keeper.lock being free
        )
    except subprocess.TimeoutExpired as error:
        raise StateUnavailable(
            f"the embedded Redis in {directory} cannot start: the one before it has not ended{_log_tail(directory)}"
        ) from error
    finally:
        os.close(descriptor)


def _log_tail(directory: Path) -> str:
    log = directory / "redis.log"
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 2000, 0))
        lines = file.read().decode(errors="replace").strip().splitlines()
        return f" the log, {log}, which ends:\n" + "\n".join(lines[-12:])
    return f" its log, {log}"


def _address(directory: Path) -> Path:
    """Return where the socket of `directory` is, which is in it unless that is too long for a socket."""
    address = directory / "redis.sock"
    if len(os.fsencode(address)) > LONGEST_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:24]
        address = Path(tempfile.gettempdir()) / f"motia-redis-{digest}" / "redis.sock"
        _make_private(address.parent)
    return address


def _make_private(directory: Path) -> None:
    """Create a directory that only we can enter; raise OSError if somebody else was there first with that name."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is not a private directory of this user")


def _ask(address: Path, command: bytes, timeout: float) -> bytes:
    """Return the first bytes of the server's reply, or nothing if there is no server or no reply in time."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(max(timeout, RETRY_SECONDS))
        connection.connect(str(address))
        connection.sendall(command)
        return connection.recv(64)
    return b""


def _lock(path: Path, how: int, deadline: float) -> int:
    """Return a descriptor that holds the lock; it is not inherited by programs that this process runs."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        while not _try_lock(descriptor, how):
            if time.monotonic() >= deadline:
                raise StateUnavailable(f"{path} stays locked: a process is still starting or ending the server there")
            time.sleep(RETRY_SECONDS)
        undo.pop_all()
    return descriptor


def _unlock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would not do if another thread has forked meanwhile
    os.close(descriptor)


def _try_lock(descriptor: int, how: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        return True
    return False


def _is_free(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        return _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        _unlock(descriptor)


# --- The keeper: a process of its own from here on. -----------------------------------------------------------------


def _keep(directory: Path, address: Path, program: str) -> None:
    """Run the server until nobody uses it or it ends by itself; this process returns when the keeper has its locks."""
    # The starter may block or ignore signals, which is inherited: then SIGTERM would not end the server.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    keeper_lock, server_lock, users_lock = (
        os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("keeper.lock", "server.lock", "users.lock")
    )
    if not _try_lock(keeper_lock, fcntl.LOCK_EX):
        return  # of a starter that died meanwhile; one keeper is enough
    if not _try_lock(server_lock, fcntl.LOCK_EX):
        _ask(address, b"SHUTDOWN\r\n", STOP_SECONDS)  # left by a keeper that was killed; it may be ending already
        fcntl.flock(server_lock, fcntl.LOCK_EX)
    if os.fork():
        return
    if address.parent != directory:
        _make_private(address.parent)
    options = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "logfile": "",  # our standard output: the log
    }
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    try:
        server = subprocess.Popen(  # noqa: S603 - the program that find_server_for chose
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(server_lock,),
            preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - safe: this process has one thread yet
        )
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"cannot run {program}: {error}")
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=_stop_when_unused, args=(server, users_lock), daemon=True).start()
    server.wait()
    address.unlink(missing_ok=True)  # server.lock is still ours, so this is no later server's
    if address.parent != directory:
        with contextlib.suppress(OSError):
            address.parent.rmdir()


def _stop_when_unused(server: subprocess.Popen[bytes], users_lock: int) -> None:
    fcntl.flock(users_lock, fcntl.LOCK_EX)  # kept to the end of the process: whoever joins waits for that
    server.terminate()
    time.sleep(STOP_SECONDS)
    server.kill()


def _die_with(keeper: int) -> Callable[[], None] | None:
    """Return what makes a new child get SIGTERM when its parent dies, or None where the system has no such thing."""
    try:
        import ctypes  # noqa: PLC0415 - absent from some builds of Python, and nobody but the keeper needs it

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None

    def ask() -> None:
        prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG; survives exec
        if os.getppid() != keeper:
            os._exit(1)  # it died before we asked

    return ask


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
