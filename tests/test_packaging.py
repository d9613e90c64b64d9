from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numpy", "tokenizers"}
# Package -> the parts of trtcoder that it may import, beside the core.
ALLOWED = {"export": {"export", "calib"}, "calib": {"calib"}, "runtime": {"runtime"}}


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
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("trtcoder/")}
    source = ROOT / "src" / "trtcoder"
    expected = {f"trtcoder/{path.relative_to(source).as_posix()}" for path in source.rglob("*.py")}
    for part in ALLOWED:
        expected |= {f"trtcoder/{part}/{path.name}" for path in (ROOT / part).glob("*.py")}
    assert {name for name in packed if name.endswith(".py")} == expected
    assert {
        "trtcoder/py.typed",
        "trtcoder/calib/data/heldout.jsonl",
        "trtcoder/calib/data/calibration.jsonl",
        "trtcoder/report/page.css",
        "trtcoder/report/page.html.jinja",
    } <= packed
    assert len(expected) > 50


@pytest.mark.parametrize("part", ALLOWED)
def test_parts_import_only_what_the_rule_allows(part: str) -> None:
    for path in (ROOT / part).glob("*.py"):
        for name in imports(path):
            if name.startswith("trtcoder."):
                other = name.split(".")[1]
                assert other not in ALLOWED or other in ALLOWED[part], f"{path.name}: {name}"


def test_the_core_and_the_runtime_need_no_package_of_the_build() -> None:
    files = [*(ROOT / "runtime").glob("*.py"), *(ROOT / "src" / "trtcoder").glob("*.py")]
    for path in files:
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


def test_the_core_imports_no_part() -> None:
    for path in (ROOT / "src" / "trtcoder").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[:2] not in [["trtcoder", part] for part in ALLOWED], path


def test_imports_name_the_whole_path() -> None:
    # A relative import would hide from the rules above.
    files = [path for part in ALLOWED for path in (ROOT / part).glob("*.py")]
    for path in [*files, *(ROOT / "src" / "trtcoder").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path
