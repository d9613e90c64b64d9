"""The operators asked for right and wrong things: the corpus of `plugins/fuzz`, and some changes.

Every tensor ends at a page that may not be touched: a read or write past it ends the program.
"""

from __future__ import annotations

import os

import pytest

from plugins.fuzzing import THREADS, Fuzzer, build_fuzzer, corpus
from tests.plugins.kernels import library


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    folder = tmp_path_factory.mktemp("fuzz")
    sanitizers = os.environ.get("TRTCODER_SANITIZE", "")
    found = build_fuzzer(library().path, folder, sanitizers=sanitizers)
    return found or pytest.skip("no C++ compiler")


def lines(printed: str) -> dict[str, str]:
    """Return what was printed of each input, by its name."""
    split = [line.partition(" ") for line in printed.splitlines()]
    return {name: outcome for name, _, outcome in split}


def test_the_corpus_has_calls_of_every_operator_that_compute_and_that_are_refused(
    fuzzer: Fuzzer,
) -> None:
    found = lines(fuzzer.run("--print")).values()
    for operator in ("Linear", "Mlp", "Experts", "LatentAttention", "RmsNorm"):
        own = [outcome for outcome in found if outcome.startswith(f"{operator} ")]
        refused = [outcome for outcome in own if "refused: " in outcome]
        assert refused
        assert len(refused) < len(own)


def test_every_instruction_set_gives_the_same_bits_on_any_number_of_threads(fuzzer: Fuzzer) -> None:
    portable = lines(fuzzer.run("--print", isa="portable"))
    assert len(portable) == len(corpus())
    for isa in library().isas:
        # Tiles sum up attention in an order of their own: the same on any number of threads.
        alone = lines(fuzzer.run("--print", isa=isa)) if isa == "amx" else portable
        expected = {
            name: alone[name]
            if outcome.startswith("LatentAttention ") and "refused: " not in outcome
            else outcome
            for name, outcome in portable.items()
        }
        assert lines(fuzzer.run("--print", "--threads", str(THREADS), isa=isa)) == expected, isa


@pytest.mark.parametrize("seed", ["1", "2"])
def test_changed_inputs_are_refused_or_computed(fuzzer: Fuzzer, seed: str) -> None:
    printed = fuzzer.run("--threads", str(THREADS), "--runs", "2000", "--seed", seed)
    total, computed = (int(part.split()[0]) for part in printed.split(","))
    assert total == 2000
    assert 0 < computed < total
