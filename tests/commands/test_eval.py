"""`trtcoder eval`, from the command line to the file of scores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.clients.script_engine import write_script_engine
from tests.evaluation.cells import cell
from tests.evaluation.published import GSM8K, HUMAN_EVAL, REPOBENCH, write
from tests.runtime.server.serving import serve
from tests.toy_engine import write_toy_engine
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.lock import FileLock
from trtcoder.bundle.scores import Scores
from trtcoder.cli import main

# What the engine says where a prompt ends so: the second function is wrong.
GOOD = {
    'its root: 2 of 4."""': "\n    return sqrt(x)\n\n\ndef more():",
    'twice the number seven."""': "\n    return x\n",
    'the last of the items."""': "\n    return items[-1]\n",
}
BETTER = GOOD | {'twice the number seven."""': "\n    return x + x\n"}


def run(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["eval", *map(str, arguments)])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cell()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "small.jsonl", HUMAN_EVAL)
    return write_script_engine(tmp_path / "scripted", "Script", GOOD)


SMALL = ("--suite", "human-eval", "--file", "human-eval=small.jsonl", "--form", "complete")


def scores(path: Path | str) -> Scores:
    return Scores.load(Path(path))


def passes(found: Scores) -> dict[str, bool]:
    return {each.id: each.passed for suite in found.suites for each in suite.problems}


def test_an_engines_functions_are_written_run_and_counted(engine: Path) -> None:
    result = run(engine, *SMALL)
    assert "human-eval  complete         3       2  66.7%  20.8% to 93.9%" in result.output
    found = scores("scripted.eval.json")
    assert passes(found) == {"Small/0": True, "Small/1": False, "Small/2": True}
    assert found.suites[0].problems[1].reason == "AssertionError"
    assert found.engine == Bundle.load(engine).manifest.computing_digest()
    answers = [json.loads(line) for line in Path("scripted.eval.jsonl").read_text().splitlines()]
    assert any("return sqrt(x)" in str(each) for each in answers)


def test_the_same_run_gives_the_same_bytes(engine: Path) -> None:
    run(engine, *SMALL, "--out", "one.json")
    run(engine, *SMALL, "--out", "two.json", "--at-once", "1", "--json")
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


def test_json_is_one_object_and_nothing_else(engine: Path) -> None:
    found = json.loads(run(engine, *SMALL, "--limit", "1", "--json").stdout)
    assert found["suites"][0]["asked"] == 1
    assert found["suites"][0]["passed"] == 1


def test_a_server_is_asked_as_an_engine_is(engine: Path, tmp_path: Path) -> None:
    work = tmp_path / "server"
    work.mkdir()
    with serve(engine, work) as server:
        result = run(f"{server.address}/v1", *SMALL, "--out", "served.json")
        assert "66.7%" in result.output
        found = scores("served.json")
        assert found.engine is None
        assert found.address == f"{server.address}/v1"
        run(server.address, *SMALL, "--model", "no such", "--out", "x.json", status=1)
    run(engine, *SMALL)
    assert passes(found) == passes(scores("scripted.eval.json"))
    assert found.suites[0].data == scores("scripted.eval.json").suites[0].data


def test_a_server_that_is_not_there_is_one_line(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    result = run("http://127.0.0.1:9", *SMALL, status=1)
    assert "does not answer" in result.output


def test_two_engines_are_compared_problem_by_problem(engine: Path, tmp_path: Path) -> None:
    better = write_script_engine(tmp_path / "better", "Script", BETTER)
    result = run("--compare", engine, better, *SMALL)
    assert "human-eval: only B solves Small/1" in result.output
    # And again from the files of scores, for which nothing runs.
    again = run("--compare", "scripted.eval.json", "better.eval.json", "--json")
    (pair,) = json.loads(again.stdout)["suites"]
    assert (pair["first"], pair["second"], pair["won"], pair["lost"]) == (2, 3, ["Small/1"], [])


def test_scores_become_a_part_of_the_engine(engine: Path) -> None:
    run(engine, *SMALL, "--attach")
    bundle = Bundle.load(engine)
    assert bundle.path("eval.json").read_bytes() == Path("scripted.eval.json").read_bytes()
    # Another run finds the engine to be the same one.
    run(engine, *SMALL, "--resume")


def test_a_run_that_was_killed_goes_on_where_it_was(engine: Path) -> None:
    run(engine, *SMALL)
    whole = Path("scripted.eval.json").read_bytes()
    lines = Path("scripted.eval.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (1, 2, 3, 4, len(lines)):
        Path("scripted.eval.json").unlink()
        Path("scripted.eval.jsonl").write_bytes(b"".join(lines[:kept]) + b'{"cut')
        run(engine, *SMALL, "--resume")
        assert Path("scripted.eval.json").read_bytes() == whole
        answered = [
            json.loads(line)["id"]
            for line in Path("scripted.eval.jsonl").read_text().splitlines()
            if '"answer"' in line
        ]
        assert len(answered) == len(set(answered)) == 3


def test_an_interrupt_says_what_is_kept(engine: Path) -> None:
    # The first program waits, and Ctrl-C comes meanwhile.
    slow = HUMAN_EVAL[0] | {"test": "import time\ntime.sleep(100_000)\n"}
    write(Path("small.jsonl"), [*HUMAN_EVAL[1:], slow])
    command = [sys.executable, "-c", "from trtcoder.cli import main; main()", "eval"]
    process = subprocess.Popen(
        [*command, str(engine), *SMALL], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    journal = Path("scripted.eval.jsonl")
    while not (journal.exists() and journal.read_text().count('"outcome"') == 2):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate()
    assert process.returncode == 130
    assert "scripted.eval.jsonl keeps 3 answers; go on with --resume" in complaint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--suite", "humaneval"), "--suite humaneval: there is human-eval, infilling, needle"),
        (("--file", "gsm8k"), "expected SUITE=PATH"),
        (("--suite", "gsm8k"), "needs its data, its test.jsonl"),
        (("--suite", "human-eval", "--file", "human-eval=none.jsonl"), "none.jsonl: cannot be"),
        (("--needle-lengths", "1,2", "--suite", "needle"), "expected different whole numbers"),
        (("--suite", "needle", "--needle-lengths", "1000000"), "more than the context"),
        (("--out", "no/such/folder.json"), "there is no folder"),
        (("--out", "scripted/manifest.json", "--force"), "belongs to the engine"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    engine: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    result = run(engine, *arguments, status=1)
    assert complaint in result.output


def test_scores_that_are_there_are_kept(engine: Path) -> None:
    run(engine, *SMALL)
    result = run(engine, *SMALL, status=1)
    assert "go on with --resume, begin anew with --force" in result.output
    run(engine, *SMALL, "--force")


def test_a_second_run_does_not_write_the_same_journal(engine: Path) -> None:
    lock = FileLock(Path(".scripted.eval.jsonl.lock"))
    assert lock.acquire()
    result = run(engine, *SMALL, status=1)
    assert "another run is writing it" in result.output
    lock.release()
    run(engine, *SMALL)


def test_problems_beyond_the_context_count_as_not_solved(engine: Path, tmp_path: Path) -> None:
    toy = write_toy_engine(tmp_path / "short")
    result = run(toy, *SMALL)
    assert "1 not asked" in result.output
    reasons = [each.reason for each in scores("short.eval.json").suites[0].problems]
    assert sum(each.startswith("not asked: ") and "64" in each for each in reasons) == 1


def test_suites_that_a_model_was_not_trained_for_are_left_out(engine: Path) -> None:
    bundle = Bundle.load(engine)
    text = (engine / "manifest.json").read_text()
    assert bundle.manifest.capabilities.fim
    (engine / "manifest.json").write_text(text.replace('"fim": true', '"fim": false'))
    result = run(
        engine, "--file", "human-eval=small.jsonl", "--form", "complete", "--limit", "1",
        "--needle-lengths", "512",
    )  # fmt: skip
    assert "infilling: Script was not trained to fill, so it is left out" in result.output
    assert [each.suite for each in scores("scripted.eval.json").suites] == ["human-eval", "needle"]
    refused = run(engine, "--suite", "infilling", "--force", status=1)
    assert "was not trained to fill" in refused.output


@pytest.mark.parametrize(
    ("suite", "records", "answers", "share"),
    [
        ("repobench", REPOBENCH, {"    # Both together.\n": "    return add(a, b)\n"}, "50.0%"),
        ("gsm8k", GSM8K, {"}.\n\nAssistant:": " It is \\boxed{1,004}."}, "100.0%"),
    ],
)
def test_suites_of_the_users_files_are_asked_and_judged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suite: str,
    records: list[dict[str, Any]],
    answers: Mapping[str, str],
    share: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_script_engine(tmp_path / "scripted", "Script", answers)
    path = write(tmp_path / "data.jsonl", records)
    # No code is run, so no cell is needed.
    assert share in run(folder, "--suite", suite, "--file", f"{suite}={path}").output


def test_the_needles_map_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    folder = write_script_engine(tmp_path / "scripted", "Script", {"never": " so"})
    options = ("--needle-lengths", "512,1024", "--needle-depths", "2")
    run(folder, "--suite", "needle", *options, "--picture", "map.svg")
    drawing = Path("map.svg").read_text()
    assert drawing.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "var(" not in drawing
    assert drawing.count("✗") == 4
    assert "1K" in drawing
