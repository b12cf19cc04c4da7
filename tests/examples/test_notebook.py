"""examples/notebook: the cells run in a real kernel, in which an event loop runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.programs import EXAMPLES, environment

if TYPE_CHECKING:
    from pathlib import Path

nbclient = pytest.importorskip("nbclient", reason="the extra `examples` is not installed")
pytest.importorskip("ipykernel", reason="the extra `examples` is not installed")


async def test_every_cell_runs(tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat

    places = {name: str(tmp_path / name) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    for name, value in environment(**variables, **places).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(EXAMPLES / "notebook" / "orders.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(EXAMPLES / "notebook")}})
    await client.async_execute()
    results = [output["data"]["text/plain"] for output in _outputs(notebook) if output["output_type"] == "execute_result"]
    assert results == ["{'total': 9}", "41", "{'with_tax': 35.7}"]
    logged = "".join(output["text"] for output in _outputs(notebook) if output["output_type"] == "stream")
    assert "INFO motia_redis.step: total computed order=4" in logged
    assert not any(word in logged for word in ("WARNING", "ERROR", "Traceback", "never retrieved"))


def _outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
