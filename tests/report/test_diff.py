from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.certificates import certificate, old_certificate, write_certificate, write_engine
from trtcoder.cli import main


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["diff", *(str(argument) for argument in arguments)])


@pytest.fixture
def engines(tmp_path: Path) -> tuple[Path, Path]:
    """Two engines of one checkpoint, the second with more bits for its experts."""
    other = certificate()
    other["logits"] |= {"kl_mean": 0.00615, "top1_agreement": 0.944}
    other["texts"][0]["engine_perplexity"] = 7.574
    other["layers"][1]["hidden_mean"] = 0.0117
    other["layers"][1]["router_agreement"] = 0.981
    for tensor in other["tensors"]:
        if tensor["class"] == "experts_down":
            tensor |= {"scheme": "int8 b32", "bytes": 2176, "snr_db": tensor["snr_db"] + 24}
    small = {"weights": "int4", "schemes": {"mlp": "int4 b32", "experts_down": "int4 b32"}}
    large = {"weights": "int4", "schemes": {"mlp": "int4 b32", "experts_down": "int8 b32"}}
    return (
        write_engine(tmp_path / "small", certificate(), recipe=small),
        write_engine(tmp_path / "large", other, recipe=large),
    )


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_the_table_has_what_differs(engines: tuple[Path, Path]) -> None:
    shown = lines(run(*engines))
    for line in (
        "outcome small large change",
        "KL mean, nats 0.0123 0.00615 −50.00%",
        "KL p99, nats 0.0456 0.0456 =",
        "same top token 93.40% 94.40% +1.00 points",
        "plain 7.6500 7.5740 −0.99%",
        "experts_down 4.500 8.500 +4.000",
        "experts_down 9,216 17,408 +88.89%",
        "schemes.experts_down int4 b32 int8 b32",
        "1 0.0234 0.0117 −50.00%",
        "1 97.10% 98.10% +1.00 points",
        "layers.1/moe/experts/down[3] 10.97 34.97 +24.00 int4 b32 rtn → int8 b32 rtn",
        "8 of 8 tensors that are stored differently",
        "parity.json different",
    ):
        assert line in shown, "\n".join(shown)
    assert any(line.startswith("model.onnx equal (") for line in shown)
    assert not any(line.startswith("schemes.mlp") for line in shown)
    assert any(line.startswith("size ") for line in shown)


def test_columns_are_aligned(engines: tuple[Path, Path]) -> None:
    result = run(*engines)
    table = result.output[result.output.index("outcome") :].split("\n\n")[0].splitlines()
    ends = [len(line) for line in table if not line.startswith("positions")]
    assert len(set(ends)) == 1


def test_json_has_all_of_it(engines: tuple[Path, Path]) -> None:
    result = run(*engines, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["engines"] == ["small", "large"]
    assert found["metrics"]["kl_mean"] == [0.0123, 0.00615]
    assert found["recipe"] == {"schemes.experts_down": ["int4 b32", "int8 b32"]}
    assert found["bits"]["experts_down"] == [4.5, 8.5]
    assert len(found["tensors"]) == 8
    assert found["files"]["model.onnx"]["equal"] is True
    assert found["files"]["parity.json"]["equal"] is False


def test_an_engine_equals_itself(engines: tuple[Path, Path]) -> None:
    shown = lines(run(engines[0], engines[0]))
    assert "(the same)" in shown
    assert not any("%" in line.split(" ")[-1] for line in shown)
    assert not any("different" in line for line in shown)


def test_engines_of_different_checkpoints_are_refused_unless_asked(
    engines: tuple[Path, Path], tmp_path: Path
) -> None:
    data = certificate()
    data["reference"]["checkpoint"] = "ef" * 32
    other = write_engine(tmp_path / "other", data)
    refused = run(engines[0], other)
    assert refused.exit_code == 1
    assert "different checkpoints" in refused.output
    assert "--across-checkpoints" in refused.output
    asked = lines(run(engines[0], other, "--across-checkpoints"))
    assert any(line.startswith("note: of different checkpoints") for line in asked)


def test_different_text_and_versions_are_noted(tmp_path: Path) -> None:
    other = certificate()
    other["text"] |= {"source": "built-in", "tokens": 500}
    other["reference"]["versions"]["torch"] = "2.14.0"
    shown = lines(
        run(
            write_certificate(tmp_path / "a.json", certificate()),
            write_certificate(tmp_path / "b.json", other),
        )
    )
    assert "note: compared on different text (held.jsonl, 1,000 tokens; built-in, 500 tokens)" in (
        shown
    )
    assert "note: compared with different versions: torch 2.13.0 and 2.14.0" in shown
    assert "files: not compared, two certificates were given" in shown


def test_an_older_certificate_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    old = write_certificate(tmp_path / "old.json", old_certificate())
    new = write_certificate(tmp_path / "new.json", certificate())
    shown = lines(run(old, new))
    assert "experts_down – 4.500 –" in shown
    assert "KL mean, nats 0.0123 0.0123 =" in shown


def test_values_that_are_not_finite_do_not_break_it(tmp_path: Path) -> None:
    bad = certificate()
    bad["logits"]["kl_mean"] = None
    bad["tensors"][-1]["snr_db"] = None  # exact
    bad["texts"][0]["engine_perplexity"] = None
    paths = (
        write_certificate(tmp_path / "a.json", certificate()),
        write_certificate(tmp_path / "b.json", bad),
    )
    assert "KL mean, nats 0.0123 not finite not finite" in lines(run(*paths))
    assert json.loads(run(*paths, "--json").output)["metrics"]["kl_mean"] == [0.0123, None]


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    bad = certificate()
    bad["tensors"][-1] |= {"name": "\x1b[2Jname", "scheme": "x"}
    first = certificate()
    first["tensors"][-1]["name"] = "\x1b[2Jname"
    result = run(
        write_certificate(tmp_path / "a.json", first), write_certificate(tmp_path / "b.json", bad)
    )
    assert result.exit_code == 0
    assert "name" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1]"])
def test_malformed_input_is_one_line(engines: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    result = run(engines[0], tmp_path / "bad.json")
    assert result.exit_code == 1
    assert "bad.json" in result.output
    assert result.output.count("\n") == 1


def test_an_engine_without_certificate_is_refused(
    engines: tuple[Path, Path], tmp_path: Path
) -> None:
    result = run(engines[0], write_engine(tmp_path / "bare", None))
    assert result.exit_code == 1
    assert "has no certificate" in result.output
