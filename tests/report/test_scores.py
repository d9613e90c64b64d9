"""Scores on the page of an engine, and in the certificate that is made after them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.certificates import certificate, write_engine
from tests.evaluation.made_scores import made_scores, made_suite
from tests.report.test_report import Page, run
from trtcoder.bundle.attachment import attach
from trtcoder.bundle.certificate import Certificate, EvaluationFile
from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.scores import Scores
from trtcoder.errors import EngineError

PLACES = tuple((length, depth) for length in (512, 1024) for depth in (0.0, 1.0))


def scored(tmp_path: Path) -> Path:
    engine = write_engine(tmp_path / "lite", certificate())
    needle = made_suite("1001", suite="needle", places=PLACES)
    found = made_scores("1101")
    found = dataclasses.replace(found, suites=(*found.suites, needle))
    attach(engine, "eval.json", found.to_json())
    return engine


def page_of(engine: Path, tmp_path: Path, *options: str) -> Page:
    result = run("report", engine, "--out", tmp_path / "page.html", "--force", *options)
    assert result.exit_code == 0, result.output
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_the_page_has_the_scores_beside_the_cards_and_their_hash(tmp_path: Path) -> None:
    engine = scored(tmp_path)
    page = page_of(engine, tmp_path)
    section = page.section("evaluation")
    assert "HumanEval chat pass@1 4 3 75.0% 30.1% 95.4% 81.1% exact match 25.0%" in section
    assert "model card, section 3.1" in section
    assert Bundle.load(engine).manifest.files["eval.json"].sha256 in section
    assert "2 of 4 needles found" in page.source
    assert section.count("✓") == 2


def test_the_page_of_an_engine_without_scores_says_how_it_gets_them(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "lite", certificate())
    page = page_of(engine, tmp_path, "--no-drawings")
    assert "trtcoder eval ENGINE --attach" in page.section("evaluation")


def test_scores_that_were_changed_are_refused(tmp_path: Path) -> None:
    engine = scored(tmp_path)
    path = engine / "eval.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed":  true', 1)[:-1])
    result = run("report", engine, "--out", tmp_path / "page.html")
    assert "eval.json: was changed" in result.output


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"passed": 3', '"passed": 4', "states other passes than its problems have"),
        ('"asked": 4', '"asked": 5', "states 5 problems and has 4"),
        ('"format": 1', '"format": 9', "no scores of format 1"),
        ('"low": ', '"low": 2', "its interval is none"),
    ],
)
def test_scores_that_contradict_themselves_are_refused(old: str, new: str, complaint: str) -> None:
    text = made_scores("1101").to_json()
    assert old in text
    with pytest.raises(EngineError, match=complaint):
        Scores.from_json(text.replace(old, new, 1))


def test_scores_are_read_as_they_were_written() -> None:
    found = made_scores("1101")
    assert Scores.from_json(found.to_json()) == found


def test_a_certificate_links_scores_and_is_the_same_without_them(tmp_path: Path) -> None:
    before = Certificate.load(write_engine(tmp_path / "lite", certificate()) / "parity.json")
    assert "evaluation" not in before.to_dict()
    after = dataclasses.replace(before, evaluation=EvaluationFile("eval.json", "ab" * 32))
    assert Certificate.from_json(after.to_json()).evaluation == after.evaluation
