from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.toy_engine import write_toy_engine
from trtcoder.cli import main
from trtcoder.runtime.triton import environment

ROOT = Path(__file__).parents[3]


def python(script: str, folder: Path, work: Path) -> str:
    """Run a script with the packages of ``folder`` alone, as Triton starts a model."""
    command = f'source "{folder}/bin/activate" && exec python3 -I -c "$0"'
    done = subprocess.run(
        ["bash", "-c", command, script],
        capture_output=True,
        text=True,
        # A stranger's Python of the same version.
        env={"PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin", "TMPDIR": str(work)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("packed")
    engine = write_toy_engine(work / "engine")
    out = work / "repository"
    arguments = ["triton", str(engine), "-o", str(out), "--environment"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def test_an_engine_runs_with_nothing_but_what_was_packed(repository: Path, tmp_path: Path) -> None:
    model = repository / "tensorrt_llm"
    script = (
        "import trtcoder; from trtcoder import LLM\n"
        f"with LLM({str(model / '1' / 'engine')!r}) as llm:\n"
        "    print(len(llm.generate('a', max_tokens=3, ignore_eos=True)[0].outputs[0].token_ids))\n"
        "print(trtcoder.__file__)"
    )
    count, place = python(script, model / environment.FOLDER, tmp_path).splitlines()
    assert count == "3"
    assert Path(place).resolve().is_relative_to(model)


def test_every_model_has_it_once_on_the_disk(repository: Path) -> None:
    places = [path / environment.FOLDER / "bin" / "activate" for path in repository.iterdir()]
    assert len(places) == 2
    assert len({path.stat().st_ino for path in places}) == 1
    for path in repository.iterdir():
        text = (path / "config.pbtxt").read_text()
        assert 'key: "EXECUTION_ENV_PATH"' in text
        assert 'string_value: "$$TRITON_MODEL_DIRECTORY/environment"' in text


def test_it_can_be_moved(repository: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a place" / "environment"
    moved.parent.mkdir()
    moved.symlink_to(repository / "tensorrt_llm" / environment.FOLDER)
    assert python("import numpy; print(numpy.__name__)", moved, tmp_path) == "numpy"


def test_what_is_packed_is_what_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["cpu"], *extras["triton"]]
    names = {re.split(r"[^\w-]", each)[0] for each in declared}
    assert {name.replace("pyyaml", "yaml") for name in names} == set(environment.MODULES)


def test_models_without_an_engine_import_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "import trtcoder.runtime.triton.older_names, trtcoder.runtime.triton.unary_model\n"
        "print(sorted({'onnxruntime', 'tokenizers', 'llguidance', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
