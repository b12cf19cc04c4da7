"""Rivals of the triggers benchmark: installation, environments, adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as everything
from benchmarks import triggers
from benchmarks.common import rivals
from benchmarks.common.rivals import Environment, NotInstalled
from benchmarks.triggering.contenders import RIVALS

ROOT = Path(__file__).parent.parent.parent.parent


def test_rival_without_environment_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rivals, "FOLDER", tmp_path)
    selected, left_out = triggers._select(["huey"], quick=True)
    assert [contender.name for contender in selected] == ["ours", "bare loop"]
    assert left_out == {"huey": "not installed: huey redis hiredis"}
    assert "left out: huey: not installed: huey redis hiredis" in capsys.readouterr().err


def test_failed_environment_installation_gives_the_reason_and_leaves_it_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rivals, "FOLDER", tmp_path)
    environment = Environment("impossible", ("no-such-package",))
    (environment.folder / "bin").mkdir(parents=True)
    monkeypatch.setattr(rivals.sys, "executable", "/bin/false")
    with pytest.raises(NotInstalled, match="cannot be installed: no output"):
        environment.install()
    assert not environment.installed


def test_environment_with_other_requirements_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rivals, "FOLDER", tmp_path)
    (tmp_path / "huey").mkdir()
    (tmp_path / "huey" / "requirements.txt").write_text("huey\nredis\n")
    assert Environment("huey", ("huey", "redis")).installed
    assert not Environment("huey", ("huey", "redis", "hiredis")).installed


def test_failed_rival_installation_is_reported_and_the_others_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pip(_: Path, *requirements: str) -> None:
        if any(requirement.startswith("valkey-glide") for requirement in requirements):
            raise NotInstalled("cannot be installed: no wheel")
        installed.extend(requirements)

    installed: list[str] = []
    monkeypatch.setattr(rivals, "_pip_install", pip)
    monkeypatch.setattr(everything, "ENVIRONMENTS", {})
    everything.install()
    assert any(requirement.startswith("coredis") for requirement in installed)
    assert "valkey-glide>=2.6: cannot be installed: no wheel" in capsys.readouterr().err


def test_every_rival_has_an_adapter_module() -> None:
    folder = ROOT / "benchmarks" / "triggering" / "adapters"
    assert all((folder / f"{rival.adapter}.py").exists() for rival in RIVALS)
