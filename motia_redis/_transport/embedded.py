"""Run one Redis or Valkey server per directory for `embedded://DIR`: shared by processes, stopped after the last of them.

    user process ──LOCK_SH──▶ users.lock ◀──LOCK_EX (waits)── keeper ──parent of──▶ server (AOF, Unix socket, DIR)

`flock` alone decides which process owns what. The kernel releases a lock when its process ends, also by `kill -9`, and wakes the
waiting process at once. So no process polls for the end of another, and no process id is trusted.

If the directory is deleted or replaced while the server is in use, the keeper ends the server within a second or so. Its users
then join the server of the new directory, like all others: no two servers run for one path.

| file | locked by | meaning |
|---|---|---|
| `start.lock` | the process that looks for a server or starts one | one process starts at a time |
| `users.lock` | every handle (shared) | the server is in use; the keeper waits for the exclusive lock |
| `keeper.lock` | the keeper | if free: no server runs, and one must be started |
| `server.lock` | the keeper and the server, which inherits it | no second server may write the AOF or remove the socket |

A starter locks users.lock before it starts a keeper, so no keeper stops a server that a process is joining. A process that joins
while the keeper stops the server waits for users.lock until that keeper has ended, then starts a new one.

**Limits.** One machine, POSIX only. If SIGKILL ends the keeper, Linux ends its server too (parent death signal). On other systems
the server runs on until the next join in its directory replaces it. Only `join` restarts a crashed server, under the same URL;
existing handles do not. If the directory's path is too long for a Unix socket, the socket is under the temporary directory, and
all users must have the same one (`TMPDIR`).

**Fork.** A forked child shares its parent's locks. It uses the server until it ends or leaves, even if the parent has left.

This file is also the keeper's program. It is run by path under `python -I -S`, which starts within a few tens of milliseconds. It
imports only the standard library, because `-I -S` hides the package, and because an import could hold a lock or start a thread.
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
if __name__ != "__main__":  # the keeper cannot import the package, and raises no errors of it
    from motia_redis._transport.server_programs import find_server_for
    from motia_redis.errors import StateUnavailable
if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_SOCKET_PATH = 103  # bytes: 107 on Linux, 103 on macOS
STOP_SECONDS = 5.0  # from SIGTERM to SIGKILL; SIGKILL loses no write, because the kernel has them
RETRY_SECONDS = 0.01  # between two polls while joining
LOOK_SECONDS = 1.0  # between two looks of the keeper whether the directory is still there


class EmbeddedServer:
    """Keep the server of one directory running. `join` creates the handle.

    The server runs at least until `leave`, the garbage collection of the handle or the end of the process, whichever comes
    first. Handles are thread-safe and independent of each other; one process can have several for one directory.
    """

    directory: Final[Path]
    """The resolved data directory. It holds the AOF, the locks, `redis.log` and `redis.log.1`, the log of the previous server."""
    url: Final[str]
    """The `unix://` URL of the server for redis-py. It is always the same for one directory."""

    def __init__(self, directory: Path, address: Path, users: int) -> None:
        self.directory = directory
        self._users = os.fstat(users)
        self.url = "unix://" + quote(str(address))
        self._leave = weakref.finalize(self, os.close, users)
        self._leave.atexit = False  # at exit the kernel releases the lock, after all code that may still use the server

    @classmethod
    def join(cls, directory: Path, *, start_timeout: float = 10.0) -> EmbeddedServer:
        """Use the server of `directory`; start one if none runs. Return when it answers commands.

        Creates the directory with mode 0700 if it does not exist. Blocks for at most about `start_timeout` seconds. That time
        must cover the loading of the data and, if the last user has just left, the end of the previous server. Raises
        StateUnavailable, with the end of the server's log, if the server cannot be started in time. Then nothing is left running.
        """
        if sys.platform == "win32":
            raise StateUnavailable("embedded:// needs a POSIX system: on Windows, run a Redis server and use its redis:// URL")
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

    @property
    def is_current(self) -> bool:
        """Return whether the directory was not deleted since. If it was, a server at its path is another one, with other data."""
        try:
            return os.path.samestat(self._users, (self.directory / "users.lock").stat())
        except OSError:
            return False

    def leave(self) -> None:
        """Release this handle. Does not wait for the server, which ends soon after the last handle. Idempotent."""
        # Close, do not unlock: LOCK_UN would also release the lock of forked children, which may still use the server.
        self._leave()


def _wait_until_ready(directory: Path, address: Path, deadline: float) -> None:
    """Start a keeper if none runs, and return when the server answers. The caller holds start.lock and users.lock."""
    started = False
    while True:
        if _is_free(directory / "keeper.lock"):
            if started:
                raise StateUnavailable(f"the embedded Redis in {directory} ended while starting{_log_tail(directory)}")
            _start_keeper(directory, address, deadline)
            started = True
            continue
        reply = _request(address, b"PING\r\n", deadline - time.monotonic())
        if reply and not reply.startswith(b"-LOADING"):
            return
        if time.monotonic() >= deadline:
            failure = "has not loaded its data" if reply else f"has not answered on {address}"
            raise StateUnavailable(f"the embedded Redis in {directory} {failure} within start_timeout{_log_tail(directory)}")
        time.sleep(RETRY_SECONDS)


def _start_keeper(directory: Path, address: Path, deadline: float) -> None:
    """Start a keeper and return once it has locked keeper.lock or has failed. Its server may not answer yet."""
    server = find_server_for(directory)
    if address.parent != directory:
        _make_private(address.parent)
    log = directory / "redis.log"
    with contextlib.suppress(FileNotFoundError):
        log.replace(directory / "redis.log.1")  # may show why the previous server crashed
    command = [sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(directory), str(address), str(server)]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # A new session, so that the terminal's Ctrl-C and hang-up reach neither keeper nor server. The process that ends here
        # is the keeper's parent. The keeper itself is not a child of this process: it becomes no zombie.
        subprocess.run(  # noqa: S603 - this interpreter and this file
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=directory,
            start_new_session=True,
            timeout=max(deadline - time.monotonic(), RETRY_SECONDS),
            check=False,  # after a failure keeper.lock is free
        )
    except subprocess.TimeoutExpired as error:
        raise StateUnavailable(
            f"the embedded Redis in {directory} cannot start: the previous server has not ended{_log_tail(directory)}"
        ) from error
    finally:
        os.close(descriptor)


def _log_tail(directory: Path) -> str:
    """Return the end of an error message: the last lines of the server's log."""
    log = directory / "redis.log"
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 2000, 0))
        lines = file.read().decode(errors="replace").strip().splitlines()
        return f"; the log {log} ends:\n" + "\n".join(lines[-12:])
    return f"; the log is {log}"


def _address(directory: Path) -> Path:
    """Return the path of the socket of `directory`: inside it, or under the temporary directory if that path is too long."""
    address = directory / "redis.sock"
    if len(os.fsencode(address)) > LONGEST_SOCKET_PATH:
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:24]
        address = Path(tempfile.gettempdir()) / f"motia-redis-{digest}" / "redis.sock"
        _make_private(address.parent)
    return address


def _make_private(directory: Path) -> None:
    """Create a directory for this user only. Raise OSError if another user owns the path or can enter it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is not a private directory of this user (mode 0700): remove it, or set TMPDIR")


def _request(address: Path, command: bytes, timeout: float) -> bytes:
    """Send a command and return the first bytes of the reply. Return b"" without a server or a reply in time."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(max(timeout, RETRY_SECONDS))
        connection.connect(str(address))
        connection.sendall(command)
        return connection.recv(64)
    return b""


def _lock(path: Path, how: int, deadline: float) -> int:
    """Lock a file and return the descriptor, which programs that this process runs do not inherit."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        while not _try_lock(descriptor, how):
            if time.monotonic() >= deadline:
                raise StateUnavailable(f"{path} stays locked: another process is still starting or ending the server; try again")
            time.sleep(RETRY_SECONDS)
        undo.pop_all()
    return descriptor


def _unlock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone does not release it if another thread has forked
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


# --- The code below runs in the keeper process. ---------------------------------------------------------------------


def _keep(directory: Path, address: Path, program: str) -> None:
    """Run the server until no process uses it or it ends. The starter's child returns once the keeper has its locks."""
    # Children inherit blocked and ignored signals. Without this reset SIGTERM might not end the server.
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
        return  # a starter that died has started another keeper
    if not _try_lock(server_lock, fcntl.LOCK_EX):
        _request(address, b"SHUTDOWN\r\n", STOP_SECONDS)  # a killed keeper left this server, which may be ending already
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
        "logfile": "",  # means standard output, which is the log
    }
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    try:
        server = subprocess.Popen(  # noqa: S603 - the program of find_server_for
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(server_lock,),
            preexec_fn=_parent_death_signal(os.getpid()),  # noqa: PLW1509 - safe: this process still has one thread
        )
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"cannot run {program}: {error}")
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=_stop_when_unused, args=(server, users_lock), daemon=True).start()
    threading.Thread(target=_stop_when_deleted, args=(server, directory / "users.lock", users_lock), daemon=True).start()
    server.wait()
    if _is_deleted(directory / "users.lock", users_lock):
        return  # what is at the path now belongs to another server
    address.unlink(missing_ok=True)  # this process still holds server.lock, so the socket belongs to no later server
    if address.parent != directory:
        with contextlib.suppress(OSError):
            address.parent.rmdir()


def _stop_when_unused(server: subprocess.Popen[bytes], users_lock: int) -> None:
    fcntl.flock(users_lock, fcntl.LOCK_EX)  # held until this process ends, so that a join waits for the end
    server.terminate()
    time.sleep(STOP_SECONDS)
    server.kill()


def _stop_when_deleted(server: subprocess.Popen[bytes], path: Path, users_lock: int) -> None:
    while not _is_deleted(path, users_lock):
        time.sleep(LOOK_SECONDS)
    print(f"{path.parent} was deleted while it was in use: its server ends", flush=True)  # into the server's log
    server.kill()  # nothing that it could still write would be kept


def _is_deleted(path: Path, descriptor: int) -> bool:
    """Return whether the file of a descriptor is not at its path any more."""
    try:
        return not os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return True


def _parent_death_signal(keeper: int) -> Callable[[], None] | None:
    """Return a function that makes Linux send SIGTERM to a new child when its parent dies. Return None on other systems."""
    try:
        import ctypes  # noqa: PLC0415 - missing in some builds of Python, and only the keeper needs it

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None

    def request_signal() -> None:
        prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG; survives exec
        if os.getppid() != keeper:
            os._exit(1)  # the keeper died before the request

    return request_signal


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
