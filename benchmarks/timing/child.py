"""A process that sends what is due, as an application without workers does, until its input ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from motia_redis import Retention, StateManager


async def sweep(url: str, namespace: str) -> None:
    """Sweep the namespace. Answer each line of the input with the CPU time of this process in seconds."""
    loop = asyncio.get_running_loop()
    retention = Retention(entries=1_000_000)  # all events are still there at the end
    async with StateManager(url, namespace=namespace, retention=retention, sweep=True):
        while True:
            used = os.times()
            print(json.dumps({"ok": used.user + used.system}), flush=True)
            if not await loop.run_in_executor(None, sys.stdin.readline):
                return


if __name__ == "__main__":
    asyncio.run(sweep(*sys.argv[1:]))
