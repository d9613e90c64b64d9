from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.toy_engine import EOS, FIM_END, toy_manifest, write_toy_engine
from trtcoder.bundle.manifest import Manifest, SamplingDefaults
from trtcoder.cli import main

MANIFEST = toy_manifest()
TOKENS = dataclasses.replace(MANIFEST.tokens, eos=(EOS, FIM_END, 7))


@pytest.mark.parametrize(
    ("manifest", "shown"),
    [
        (dataclasses.replace(MANIFEST, tokens=TOKENS),
         [f"{EOS} <｜end▁of▁sentence｜>, {FIM_END} <｜fim▁end｜>, 7", "the parts of its template",
          "no defaults"]),
        (dataclasses.replace(toy_manifest(chat=False), chat_refusal="it fails"),
         ["none: it fails"]),
        (toy_manifest(chat=False), ["none: the checkpoint has no chat template"]),
        (dataclasses.replace(MANIFEST, sampling=SamplingDefaults(True, 0.3, top_p=0.95)),
         ["do_sample True, temperature 0.3, top_p 0.95 (the checkpoint's defaults)"]),
    ],
)  # fmt: skip
def test_stop_tokens_chat_and_defaults_are_shown(
    tmp_path: Path, manifest: Manifest, shown: list[str]
) -> None:
    folder = write_toy_engine(tmp_path / "engine", manifest)
    result = CliRunner().invoke(main, ["inspect", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    for text in shown:
        assert text in result.output
