"""`make demo`: every number in its table is right, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

DEMO = Path(__file__).parent.parent.parent / "examples" / "demo.py"


def leftovers() -> list[str]:
    """Return the command lines of processes that work in a folder of the demo."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "motia-demo-" in line:
            found.append(line)
    return found


def test_the_demo_s_table_is_right_and_nothing_stays_behind() -> None:
    command = [sys.executable, str(DEMO), "--users", "3", "--logins", "60", "--clients", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.split("Done in")[1]
    assert "WRONG" not in table
    rows = {line.strip().rsplit(maxsplit=2)[0].strip(): line.split() for line in table.splitlines() if line.endswith("ok")}
    assert len(rows) == 6
    for what in ("logins sent", "login_count found, all users together", "user.changed messages consumed"):
        assert rows[what][-2] == "60"
    assert table.count("by worker-") >= 2
    wait_until(lambda: not leftovers(), "the demo's processes end")
