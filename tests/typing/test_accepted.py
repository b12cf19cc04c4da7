"""What the type checkers accept is also accepted when it runs."""

from __future__ import annotations

from pathlib import Path

from motia_redis import load_application


def test_steps_that_type_checkers_accept_can_be_loaded() -> None:
    application = load_application([str(Path(__file__).with_name("accepted.py"))])
    names = [step.name for step in application.steps]
    assert names == ["CreateOrder", "ShipOrder", "Report", "SendMail", "Audit", "Adult", "FullCart"]
