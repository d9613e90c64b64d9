"""The search for the smallest engine of a KL: what it found is never lost again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.bundle.provenance import Round
from trtcoder.calib.budget import Choice, Choices, Option
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.cli import main
from trtcoder.errors import BuildError, CheckpointError, ParityError, TrtcoderError
from trtcoder.export.precision import measured, mixed, rounds
from trtcoder.export.precision.mixed import _Search
from trtcoder.export.precision.rounds import Rounds, Tried
from trtcoder.testing.random_checkpoint import tiny_config, write_random_checkpoint

SCHEMES = [Scheme(bits, size, s) for bits in (4, 8) for size in (64, 32, 16) for s in (True, False)]
LIMIT = 0.01


def choices_of(costs: list[tuple[int, float]], second: list[tuple[int, float]]) -> Choices:
    return Choices(
        {
            kind: [Option(s, size, kl) for s, (size, kl) in zip(SCHEMES, found, strict=False)]
            for kind, found in (("attention", costs), ("mlp", second))
        }
    )


class ScriptedRounds(Rounds):
    """Rounds whose engines are not built: each measures what the script says, or fails."""

    def __init__(self, script: Callable[[Choice, int], float | Exception]) -> None:
        self.script = script
        self.made: list[Round] = []
        self.kept: list[Tried] = []

    def build(self, choice: Choice, budget: float) -> Tried:
        measured = self.script(choice, len(self.made))
        if isinstance(measured, Exception):
            raise measured
        self.made.append(Round(budget, choice.kl, measured, choice.nbytes))
        return Tried(choice, self.made[-1], measured <= LIMIT, math.isfinite(measured), None)

    def keep(self, tried: Tried) -> None:
        self.kept.append(tried)


FAILURES = [
    BuildError("no choice"), ParityError("missed", "table"), CheckpointError("gone"),
    OSError(28, "No space left on device"), MemoryError(),
]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_round_that_fails_does_not_throw_away_what_an_earlier_one_found(
    failure: Exception, at: int
) -> None:
    said: list[str] = []
    # Each engine turns out less bad than expected of it, so that each round tries a smaller one.
    table = [(1000 - 80 * step, 0.001 * 1.5**step) for step in range(12)]
    made = ScriptedRounds(lambda choice, n: failure if n == at else choice.kl * 0.6 ** (n + 1))
    found = _Search(choices_of(table, table), made, said.append).below(0.9 * LIMIT)
    assert found is not None
    assert found in made.kept
    assert found.round.measured_kl <= LIMIT
    assert len(made.made) == at
    assert said == [f"the search ends here: {failure}"]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_a_first_round_that_fails_fails_the_build(failure: Exception) -> None:
    made = ScriptedRounds(lambda choice, n: failure)
    search = _Search(choices_of([(10, 0.001)], [(10, 0.001)]), made, print)
    with pytest.raises(type(failure)):
        search.below(0.9 * LIMIT)


def test_no_smaller_choice_ends_the_search_with_what_there_is() -> None:
    # The one engine is worse than expected, so that no choice is expected to be below the mark.
    made = ScriptedRounds(lambda choice, n: 0.0095)
    found = _Search(choices_of([(10, 0.001)], [(10, 0.001)]), made, print).below(0.9 * LIMIT)
    assert found is not None
    assert found.round.measured_kl == 0.0095


@given(
    tables=st.lists(
        st.lists(st.tuples(st.integers(1, 1000), st.floats(1e-6, 0.1)), min_size=3, max_size=3),
        min_size=2, max_size=2,
    ),
    factors=st.lists(
        st.one_of(st.floats(0.01, 100), st.just(math.nan), st.sampled_from(FAILURES)),
        min_size=4, max_size=4,
    ),
)  # fmt: skip
def test_what_is_returned_keeps_the_limit_and_is_the_smallest_below_the_mark(
    tables: list[list[tuple[int, float]]], factors: list[float | Exception]
) -> None:
    mark = 0.9 * LIMIT
    made = ScriptedRounds(
        lambda choice, n: f if isinstance(f := factors[n], Exception) else choice.kl * f
    )
    try:
        found = _Search(choices_of(*tables), made, lambda note: None).below(mark)
    except (TrtcoderError, OSError, MemoryError):
        assert made.made == []
        return
    below = [each for each in made.made if each.measured_kl <= mark]
    if below:
        assert found is not None
        assert found.round.bytes == min(each.bytes for each in below)
        assert found.round.measured_kl <= mark
    elif found is not None:
        assert found.round.measured_kl <= LIMIT
    else:
        assert not any(each.measured_kl <= LIMIT for each in made.made)
    assert found is None or made.kept[-1] is found


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(moe_intermediate_size=128, kv_lora_rank=128, num_hidden_layers=2)
    return write_random_checkpoint(tmp_path_factory.mktemp("search") / "checkpoint", config)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"key": st.just({"text": "a"})},
        optional={"options": json_values, "rounds": json_values},
    )
    | json_values
)
def test_notes_of_any_form_are_read_without_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    path = tmp_path_factory.mktemp("notes") / "notes.json"
    path.write_text(json.dumps(value))
    assert measured.read_options(path, {"text": "a"}) == {}
    assert rounds.read_notes(path, {"text": "a"}) == ()


@pytest.mark.parametrize(
    "value",
    [
        {"key": {"text": "b"}, "options": {"mlp": [[4, 32, True, 5, 0.1]]}},
        {"key": {"text": "a"}, "options": {"mlp": [{"bits": 3, "block_size": 32, "symmetric": True,
                                                   "bytes": 5, "kl": 0.1}]}},
        {"key": {"text": "a"}, "options": {"mlp": [{"bits": 4, "block_size": 32, "symmetric": True,
                                                   "bytes": "5", "kl": 0.1}]}},
        {"key": {"text": "a"}, "options": {"mlp": [None]}, "rounds": [None]},
        {"key": {"text": "a"}, "rounds": [{"schemes": {"mlp": 4}, "measured_kl": 1.0, "bytes": 5,
                                           "passed": True, "finite": True}]},
    ],
)  # fmt: skip
def test_notes_that_are_nearly_right_are_not_believed(tmp_path: Path, value: object) -> None:
    path = tmp_path / "notes.json"
    path.write_text(json.dumps(value))
    assert not measured.read_options(path, {"text": "a"})
    assert not rounds.read_notes(path, {"text": "a"})


def test_text_that_cannot_be_divided_is_refused_before_anything_is_measured(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.jsonl"
    lines = "\n".join(f"value_{index} = compute({index})" for index in range(20))
    monkeypatch.setattr(mixed, "measured_options", lambda *arguments: pytest.fail("measured"))

    def refused(*records: str) -> str:
        text.write_text("".join(json.dumps({"kind": "plain", "text": r}) + "\n" for r in records))
        result = run("build", checkpoint, "--out", tmp_path / "engine", "--max-kl", "0.01",
                     "--text", text)  # fmt: skip
        assert result.exit_code == 1
        assert not (tmp_path / "engine").exists()
        return result.output

    assert "too little to search a precision on one half" in refused(lines)
    # Two texts that share a passage are one.
    assert "too little to search a precision on one half" in refused(lines, f"{lines}\nend()")


def halves(records: list[dict[str, str]]) -> Iterator[set[str]]:
    from trtcoder.calib.text.heldout import Part, _part

    for part in Part:
        yield {record["text"] for record in _part(records, part)}


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9), max_size=12))
def test_halves_share_no_passage(texts: list[list[str]]) -> None:
    from trtcoder.calib.text.examples import passages

    records = [{"kind": "plain", "text": "\n".join(lines)} for lines in texts]
    judged, searched = halves(records)
    found = [
        {passage for text in half for passage in passages({"kind": "plain", "text": text})}
        for half in (judged, searched)
    ]
    assert found[0].isdisjoint(found[1])
    assert len(records) == 0 or judged
