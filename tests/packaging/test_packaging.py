from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from trtcoder.refusals import EXTRAS

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numpy", "tokenizers"}
CORE = ROOT / "src" / "trtcoder"
PARTS = ("export", "calib", "runtime")
# What not every room may import.
GUARDED = {*PARTS, "commands", "evaluation", "optimum", "report", "cli"}
# Room -> the guarded ones that it may import; every other room only itself.
ALLOWED = {
    "export": {"export", "calib"},
    "evaluation": {"runtime", "evaluation"},
    "commands": {*PARTS, "commands", "evaluation", "report"},
    "optimum": {"runtime", "export", "optimum"},
    "cli.py": {"commands"},
    # The face: names that are imported when they are used.
    "__init__.py": {*PARTS},
}


def imports(path: Path) -> set[str]:
    """Return the full names that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from trtcoder import export` names a module in its second half.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_wheel_of_the_sdist_holds_every_module(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    # Without a compiler, as many install it.
    environment = {**os.environ, "TRTCODER_PLUGINS": "0"}
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    # No library in it: it is for any machine.
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if name.startswith("trtcoder/")}
    source = ROOT / "src" / "trtcoder"
    expected = {f"trtcoder/{path.relative_to(source).as_posix()}" for path in source.rglob("*.py")}
    for part in PARTS:
        expected |= {
            f"trtcoder/{part}/{path.relative_to(ROOT / part).as_posix()}"
            for path in (ROOT / part).rglob("*.py")
        }
    assert {name for name in packed if name.endswith(".py")} == expected
    assert {
        "trtcoder/py.typed",
        "trtcoder/calib/text/data/heldout.jsonl",
        "trtcoder/calib/text/data/calibration.jsonl",
        "trtcoder/report/page.css",
        "trtcoder/report/page.html.jinja",
        "trtcoder/runtime/server/page/static/page.html",
        "trtcoder/runtime/server/page/static/codemirror.js",
        "trtcoder/runtime/server/page/static/codemirror.licences.txt",
    } <= packed
    assert len(expected) > 50
    # Optimum looks for extensions in this folder, and nothing else of its packages may be here.
    extension = "optimum/commands/register/register_trtcoder.py"
    assert {name for name in names if name.startswith("optimum/")} == {extension}


def test_an_editable_install_without_a_compiler_leaves_the_library_that_is_there(
    tmp_path: Path,
) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "plugins"):
        (tmp_path / name).symlink_to(ROOT / name)
    library = tmp_path / "src" / "trtcoder" / "plugins" / "libtrtcoder_kernels.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"of an earlier build")
    # What `pip install --editable` does with extensions.
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {**os.environ, "TRTCODER_PLUGINS": "0"}
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    assert library.read_bytes() == b"of an earlier build"


def modules(room: str) -> list[Path]:
    """Return the files of a room, nested ones too: a part, or a folder or file of the core."""
    if room in PARTS:
        return sorted((ROOT / room).rglob("*.py"))
    path = CORE / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def core_rooms() -> list[str]:
    return sorted(
        path.name
        for path in CORE.iterdir()
        if (path.suffix == ".py" or (path.is_dir() and not path.is_symlink()))
        and path.name != "__pycache__"
    )


@pytest.mark.parametrize("room", [*PARTS, *core_rooms()])
def test_rooms_import_only_what_the_rule_allows(room: str) -> None:
    found = modules(room)
    assert found
    forbidden = GUARDED - ALLOWED.get(room, {room})
    for path in found:
        for name in imports(path):
            if name.startswith("trtcoder."):
                assert name.split(".")[1] not in forbidden, f"{path}: {name}"


# A model of transformers' kind is one of its classes.
@pytest.mark.parametrize("room", ["runtime", *(each for each in core_rooms() if each != "optimum")])
def test_the_core_and_the_runtime_need_no_package_of_the_build(room: str) -> None:
    for path in modules(room):
        if path == CORE / "testing" / "random_checkpoint.py":
            continue
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"torch", "transformers", "onnx", "onnx_ir", "ml_dtypes"}, path


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, time\n"
        "from trtcoder.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', sorted(set(sys.modules) & {HEAVY!r}))\n"
        "print('SECONDS', time.process_time())"
    )
    seconds = []
    for _ in range(5):
        run = [sys.executable, "-c", script]
        result = subprocess.run(run, check=True, capture_output=True, text=True)
        assert "HEAVY []" in result.stdout
        seconds.append(float(result.stdout.rsplit("SECONDS", 1)[1]))
    # CPU time of the whole process: other work on the machine does not count.
    assert min(seconds) < 0.3


@pytest.mark.parametrize("room", [*PARTS, *core_rooms()])
def test_imports_name_the_whole_path(room: str) -> None:
    # A relative import would hide from the rules above.
    for path in modules(room):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def declared() -> dict[str, set[str]]:
    """Return the modules that each extra brings, those of the base install under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sets = {"": project["dependencies"], **project["optional-dependencies"]}
    # Distributions that are not named as what they bring.
    modules = {"pyyaml": "yaml", "tensorrt_rtx_cu13": "tensorrt_rtx"}

    def module(requirement: str) -> str:
        name = re.split(r"[^\w-]", requirement)[0].replace("-", "_").lower()
        return modules.get(name, name)

    return {extra: set(map(module, names)) for extra, names in sets.items()}


def test_the_base_install_brings_what_is_imported_and_no_more() -> None:
    sets = declared()
    found = {
        name.split(".")[0]
        for room in [*PARTS, *core_rooms()]
        for path in modules(room)
        for name in imports(path)
    }
    packages = {name for name in found if name not in sys.stdlib_module_names} - {"trtcoder"}
    assert sets[""] <= packages, "brought by the base install and imported nowhere"
    extras = set().union(*(names for extra, names in sets.items() if extra not in ("dev", "bench")))
    # What those bring: the web framework's parts, and a package in several distributions.
    brought = {"starlette", "pydantic", "opentelemetry", "huggingface_hub"}
    assert packages <= extras | brought, "imported and brought by no extra"


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    sets = declared()
    for name, extra in EXTRAS.items():
        # One package may come in several distributions.
        brought = {each for each in sets[extra] if each == name or each.startswith(f"{name}_")}
        assert brought, f"{name} is not in the extra {extra}"
