"""Two references, transformers streamed and NumPy from the paper, must agree before they judge."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config

from tests.reference import NumpyReference
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.errors import CheckpointError, ConfigError, DependencyError
from trtcoder.export.parity.routing import select_experts
from trtcoder.export.reference.model import TransformersReference
from trtcoder.export.reference.transformers_modules import check_softmax_scale
from trtcoder.model.deepseek_v2.config import DeepseekV2Config as OurConfig
from trtcoder.testing.random_checkpoint import (
    tiny_config,
    tiny_grouped_config,
    write_random_checkpoint,
)

TOKENS = 40
AGREEMENT = 1e-5

Ids = NDArray[np.int64]
Write = Callable[..., Checkpoint]
POSITIONS = {
    "from 0": np.arange(TOKENS),
    "from 5000": np.arange(5000, 5000 + TOKENS),
    # Attention sees differences of positions only: a gap is what tests YaRN's slow pairs.
    "across a gap of 130,000": np.r_[0 : TOKENS // 2, 130_000 : 130_000 + TOKENS // 2],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other longer than they compute, on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_checkpoint(**overrides: Any) -> Checkpoint:
        name = f"checkpoint-{len(list(tmp_path.iterdir()))}"
        grouped = overrides.get("topk_method") == "group_limited_greedy"
        config = (tiny_grouped_config if grouped else tiny_config)(**overrides)
        return Checkpoint.open(write_random_checkpoint(tmp_path / name, config, seed=1))

    return write_checkpoint


def tokens(count: int = TOKENS, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(0, 512, count)


def relative(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def traces(
    checkpoint: Checkpoint, ids: Ids | None = None, positions: Ids | None = None
) -> tuple[Any, Any]:
    ids = tokens() if ids is None else ids
    positions = np.arange(len(ids)) if positions is None else positions
    (ours,) = TransformersReference(checkpoint).run([ids], [positions])
    return ours, NumpyReference(checkpoint.folder).run(ids.tolist(), positions.tolist())


def assert_agreement(found: Any, wanted: Any) -> None:
    assert relative(found.logits, wanted.logits) <= AGREEMENT
    for ours, theirs in zip(found.hidden, wanted.hidden, strict=True):
        assert relative(ours, theirs) <= AGREEMENT
    if not wanted.router_topk.size:
        assert found.router_topk.shape[0] == found.router_probabilities.shape[0] == 0
        return
    assert np.abs(found.router_probabilities - wanted.router_probabilities).max() <= AGREEMENT
    assert (found.router_topk == wanted.router_topk).all()


# -- agreement


@pytest.mark.parametrize(
    ("q_lora_rank", "topk_method", "norm_topk_prob"),
    list(itertools.product((None, 96), ("greedy", "group_limited_greedy"), (False, True))),
)
def test_references_agree_on_every_kind_of_checkpoint(
    write: Write, q_lora_rank: int | None, topk_method: str, norm_topk_prob: bool
) -> None:
    checkpoint = write(
        q_lora_rank=q_lora_rank, topk_method=topk_method, norm_topk_prob=norm_topk_prob
    )
    ids = [tokens()] * len(POSITIONS)
    found = TransformersReference(checkpoint).run(ids, list(POSITIONS.values()))
    for ours, positions in zip(found, POSITIONS.values(), strict=True):
        numpy = NumpyReference(checkpoint.folder).run(tokens().tolist(), positions.tolist())
        assert_agreement(ours, numpy)


@pytest.mark.parametrize(
    "overrides",
    [
        {"rope_scaling": None},
        {"tie_word_embeddings": True},
        {"n_shared_experts": None},
        {"n_routed_experts": None},
        {"first_k_dense_replace": 0},
        {"num_experts_per_tok": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5},
        {"rms_norm_eps": 1e-3},
        {"topk_method": "gready"},
        {"rope_theta": 50000.0},
        {"rope_scaling": tiny_config()["rope_scaling"] | {"mscale": 1.0, "factor": 8}},
    ],
    ids=str,
)
def test_references_agree_on_what_the_published_models_do_not_use(
    write: Write, overrides: dict[str, Any]
) -> None:
    assert_agreement(*traces(write(**overrides)))


@pytest.mark.parametrize(
    "change",
    [
        {"norm_topk_prob": True},
        {"routed_scaling_factor": 2.0},
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        {"rms_norm_eps": 1e-2},
        {"rope_scaling": None},
        {"rope_scaling": tiny_config()["rope_scaling"] | {"mscale_all_dim": 0.6}},
        {"rope_scaling": tiny_config()["rope_scaling"] | {"beta_fast": 8}},
    ],
    ids=str,
)
def test_a_wrong_formula_would_not_pass_as_agreement(write: Write, change: dict[str, Any]) -> None:
    # The same weights under another formula: that the references agree to 1e-5 means something
    # only if every such change moves the logits by far more.
    checkpoint = write()
    wanted = NumpyReference(checkpoint.folder)
    positions = POSITIONS["across a gap of 130,000"].tolist()
    before = wanted.run(tokens().tolist(), positions)
    wanted.config |= change
    assert relative(wanted.run(tokens().tolist(), positions).logits, before.logits) > 1e-3


@pytest.mark.parametrize("topk_method", ["greedy", "group_limited_greedy"])
def test_parity_selects_the_experts_that_both_references_chose(
    write: Write, topk_method: str
) -> None:
    checkpoint = write(topk_method=topk_method)
    config = OurConfig.of(checkpoint.config)
    for trace in traces(checkpoint):
        for layer, chosen in enumerate(trace.router_topk):
            selected = select_experts(trace.router_probabilities[layer], config)
            assert (selected == chosen).all()


# -- streaming


def test_streamed_layers_equal_the_whole_model(write: Write) -> None:
    checkpoint = write(q_lora_rank=96, topk_method="group_limited_greedy")
    ids = [tokens(), tokens(13, seed=1)]
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.folder, dtype=torch.float32
    )
    model.eval()
    for offset in (0, 5000):
        streamed = TransformersReference(checkpoint).run(ids, offset)
        for one, trace in zip(ids, streamed, strict=True):
            with torch.inference_mode():
                whole = model(
                    input_ids=torch.from_numpy(one)[None],
                    position_ids=torch.arange(len(one))[None] + offset,
                    output_hidden_states=True,
                )
            assert relative(trace.logits, whole.logits[0].numpy()) <= AGREEMENT
            # The last of transformers' hidden states is normed; the first is the embedding.
            for ours, theirs in zip(trace.hidden[:-1], whole.hidden_states[1:-1], strict=True):
                assert relative(ours, theirs[0].numpy()) <= AGREEMENT


def test_streamed_experts_compute_what_a_whole_layer_computes(write: Write) -> None:
    checkpoint = write(topk_method="group_limited_greedy", norm_topk_prob=True)
    reference = TransformersReference(checkpoint)
    states = [reference.embed(tokens(seed=seed)) for seed in range(3)]
    for layer in range(reference.layers):
        module = reference.load_layer(layer)
        with torch.inference_mode():
            whole = [reference.forward(module, state)[0].numpy() for state in states]
        streamed = reference.run_layer(layer, states)
        for found, wanted in zip(streamed, whole, strict=True):
            assert relative(found.hidden, wanted) <= 1e-6


def test_sequences_do_not_see_each_other_and_have_their_own_offset(write: Write) -> None:
    checkpoint = write()
    reference = TransformersReference(checkpoint)
    ids = [tokens(seed=seed) for seed in range(2)]
    together = reference.run(ids, [0, 7])
    for one, offset, trace in zip(ids, (0, 7), together, strict=True):
        (alone,) = reference.run([one], offset)
        # Other sums of the same products: the experts take the tokens of all sequences at once.
        assert relative(trace.logits, alone.logits) <= AGREEMENT


def test_a_prefix_has_the_same_logits_as_within_the_whole(write: Write) -> None:
    reference = TransformersReference(write())
    whole, part = reference.run([tokens(), tokens()[:10]])
    assert relative(part.logits, whole.logits[:10]) <= AGREEMENT


def test_each_layer_is_told(write: Write) -> None:
    told: list[int] = []
    TransformersReference(write()).run([tokens(4)], on_layer=told.append)
    assert told == [0, 1, 2]


@pytest.mark.parametrize("positions", [[3, 3], [4, 3], [-1, 0], [0]])
def test_positions_must_ascend(write: Write, positions: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        TransformersReference(write()).run([tokens(2)], [np.array(positions)])


def test_a_parameter_that_no_tensor_fills_is_an_error(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = TransformersReference(write())
    layer = modeling_deepseek_v2.DeepseekV2DecoderLayer

    class Extended(layer):  # type: ignore[valid-type,misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.extra = torch.nn.Linear(2, 2)

    monkeypatch.setattr(modeling_deepseek_v2, "DeepseekV2DecoderLayer", Extended)
    with pytest.raises(CheckpointError, match=r"has no tensor model\.layers\.0\.extra\.weight"):
        reference.run([tokens(2)])


# -- what the reference refuses


def test_another_transformers_is_no_reference(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write()
    monkeypatch.setattr("trtcoder.export.reference.transformers_modules.TRANSFORMERS", "5.99.0")
    with pytest.raises(DependencyError, match=r"5\.23\.0 is .*only 5\.99\.0.*trtcoder\[verify\]"):
        TransformersReference(checkpoint)


def test_a_softmax_scale_without_mscale_squared_is_refused() -> None:
    check_softmax_scale(modeling_deepseek_v2)

    class Attention(modeling_deepseek_v2.DeepseekV2Attention):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.scaling = self.qk_head_dim**-0.5

    broken = SimpleNamespace(DeepseekV2Config=DeepseekV2Config, DeepseekV2Attention=Attention)
    with pytest.raises(DependencyError, match="mscale squared"):
        check_softmax_scale(broken)


def test_a_rotary_scale_that_transformers_reads_otherwise_is_refused(write: Write) -> None:
    scaling = tiny_config()["rope_scaling"] | {"mscale_all_dim": 0}
    with pytest.raises(ConfigError, match="cannot judge"):
        TransformersReference(write(rope_scaling=scaling))


def test_versions_name_what_computed_the_reference(write: Write) -> None:
    versions = TransformersReference(write()).versions()
    assert versions["transformers"] == "5.23.0"
    assert torch.__version__.startswith(versions["torch"])


# -- the NumPy reference itself


def test_numpy_reference_imports_nothing_of_ours() -> None:
    files = sorted((Path(__file__).parents[2] / "reference").glob("*.py"))
    assert len(files) > 3
    for path in files:
        imports = [
            line for line in path.read_text("utf-8").splitlines() if "import" in line.split()[:3]
        ]
        assert not any("trtcoder" in line or "torch" in line for line in imports), path


def test_numpy_reference_reads_the_parameters_that_transformers_saves(write: Write) -> None:
    checkpoint = write()
    path = checkpoint.folder / "config.json"
    before = NumpyReference(checkpoint.folder).run(tokens().tolist())
    config = json.loads(path.read_text("utf-8"))
    config["rope_parameters"] = {
        "rope_type": "yarn",
        "rope_theta": config.pop("rope_theta"),
        **{k: v for k, v in config.pop("rope_scaling").items() if k != "type"},
    }
    path.write_text(json.dumps(config), "utf-8")
    after = NumpyReference(checkpoint.folder).run(tokens().tolist())
    np.testing.assert_array_equal(after.logits, before.logits)
