"""Let the clock of a process jump, by a library that is loaded before libc (needs a C compiler), or the clock of a namespace."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from motia_redis import StateManager

_SOURCE = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset; /* seconds */

__attribute__((constructor)) static void map_offset(void) {
    int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
    void *found = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    offset = found == MAP_FAILED ? 0 : found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int outcome = syscall(SYS_clock_gettime, clock, now);
    if (offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return outcome;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}
"""


class JumpingClock:
    """The wall clock of processes that run with `environment`. Skips the test if there is no C compiler."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("no C compiler: the clock of a server cannot be changed")
        source, library = directory / "clock.c", directory / "clock.so"
        source.write_text(_SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        self._file = directory / "offset"
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._file)}
        self._file.write_bytes(struct.pack("q", 0))

    def set(self, seconds: int) -> None:
        """Let the clock be so many seconds ahead of the real one from now on."""
        with self._file.open("r+b") as file:  # the same file: the processes have mapped it
            file.write(struct.pack("q", seconds))


async def set_namespace_clock(state: StateManager, seconds: float) -> None:
    """Let the time by which things fall due be so many seconds ahead of the server's clock, in all partitions.

    Leases and the ids of events keep to the server's clock.
    """
    keyspace = await state.connect()
    keys = [keyspace.trimmed(keyspace.due(partition)) for partition in range(keyspace.layout.partitions)]
    router = await state.open_router()
    try:
        await router.gather([(key, ("HSET", key, "clock", str(int(seconds * 1000)))) for key in keys])
    finally:
        await router.aclose()


async def set_namespace_time(state: StateManager, moment: datetime) -> None:
    """Let it be this time now by the clock by which things fall due, in all partitions. It goes on from there."""
    await set_namespace_clock(state, moment.timestamp() - time.time())
