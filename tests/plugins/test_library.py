from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.plugins.kernels import library
from trtcoder.cli import main
from trtcoder.errors import DependencyError, EngineError
from trtcoder.plugins.library import KernelLibrary, library_path

ROOT = Path(__file__).parents[2]


def test_doctor_tells_which_kernels_run() -> None:
    found = library()
    result = CliRunner().invoke(main, ["doctor"])
    assert f"{found.isa}; this machine has {', '.join(found.isas)}" in result.output
    told = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    assert (told["isa"], told["isas"]) == (found.isa, list(found.isas))
    assert told["library"] == str(found.path)


def test_doctor_tells_what_to_do_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTCODER_PLUGINS", "0")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "ONNX Runtime's own; the kernels are hidden by TRTCODER_PLUGINS=0" in result.output
    told = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    assert told["isa"] is None
    assert "TRTCODER_PLUGINS=0" in told["reason"]
    monkeypatch.delenv("TRTCODER_PLUGINS")
    monkeypatch.setenv("TRTCODER_KERNELS", "/nowhere.so")
    with pytest.raises(DependencyError, match="make plugins"):
        library_path()


def test_a_file_that_is_no_library_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.so"
    path.write_bytes(b"not a library")
    with pytest.raises(EngineError, match="cannot be loaded"):
        KernelLibrary(path)


@pytest.mark.parametrize("count", [0, -3])
def test_a_team_has_at_least_one_thread(count: int) -> None:
    with pytest.raises(EngineError, match=f"threads: {count}"):
        library().set_threads(count)


def test_code_of_one_instruction_set_is_never_linked_into_anothers() -> None:
    # The linker keeps one copy of a weak function: that of an AVX-512 file would then run on
    # machines without it.
    library()
    objects = sorted((ROOT / "build" / "plugins").glob("*/kernels/*/*/*.o"))
    if not objects:
        pytest.skip("the library was built elsewhere")
    for path in objects:
        symbols = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
        # A pointer to the runtime library's handler of exceptions is no code.
        lines = [line.split() for line in symbols.splitlines() if "__gxx_personality" not in line]
        assert not {line[-2] for line in lines} & set("WVu"), path
