from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtcoder.errors import ConfigError
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.model.deepseek_v2.config_keys import FIXED, IGNORED, SIZES
from trtcoder.model.registry import load_config
from trtcoder.testing.random_checkpoint import (
    FULL_CONFIG,
    LITE_CONFIG,
    tiny_config,
    tiny_grouped_config,
)

YARN = LITE_CONFIG["rope_scaling"]


@pytest.mark.parametrize(
    ("config", "name", "tensors", "parameters"),
    [
        (LITE_CONFIG, "DeepSeek-Coder-V2-Lite", 5_291, 15_706_484_224),
        (FULL_CONFIG, "DeepSeek-Coder-V2", 29_102, 235_741_434_880),
    ],
)
def test_the_published_models_are_known_by_their_sizes(
    config: dict[str, Any], name: str, tensors: int, parameters: int
) -> None:
    parsed = DeepseekV2Config.from_dict(config)
    shapes = parsed.expected_tensors()
    assert parsed.published_name == name
    assert len(shapes) == tensors
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters


def test_the_softmax_scale_carries_yarns_magnitude_squared() -> None:
    scale = DeepseekV2Config.from_dict(LITE_CONFIG).softmax_scale
    assert scale == pytest.approx(192**-0.5 * (0.1 * 0.707 * math.log(40) + 1) ** 2, rel=1e-12)
    plain = DeepseekV2Config.from_dict(LITE_CONFIG | {"rope_scaling": None}).softmax_scale
    assert scale / plain == pytest.approx(1.5896, rel=1e-4)


@pytest.mark.parametrize("config", [LITE_CONFIG, FULL_CONFIG, tiny_config()])
def test_rotary_frequencies_equal_those_of_transformers(config: dict[str, Any]) -> None:
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = transformers.DeepseekV2Config(**copy.deepcopy(config))
    wanted, _ = ROPE_INIT_FUNCTIONS["yarn"](theirs, None)
    np.testing.assert_array_equal(
        DeepseekV2Config.from_dict(config).inverse_frequencies(), wanted.numpy()
    )


def test_both_spellings_of_the_rotary_settings_are_read() -> None:
    old = DeepseekV2Config.from_dict(LITE_CONFIG)
    renamed = {key: value for key, value in YARN.items() if key != "type"}
    new = {k: v for k, v in LITE_CONFIG.items() if k not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = {**renamed, "rope_type": "yarn", "rope_theta": 10000.0}
    read = DeepseekV2Config.from_dict(new)
    assert (read.yarn, read.rope_theta) == (old.yarn, old.rope_theta)


def test_the_misspelt_greedy_of_some_files_is_read() -> None:
    assert DeepseekV2Config.from_dict(tiny_config(topk_method="gready")).topk_method == "greedy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type: 'llama' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"scoring_func": "sigmoid"}, "scoring_func"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"topk_method": "noaux_tc"}, "topk_method 'noaux_tc'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "type 'linear'"),
        ({"rope_scaling": {**YARN, "surprise": 1}}, "rope_scaling: unknown surprise"),
        ({"sliding_window": 4096}, "sliding_window: 4096 is not supported, only None"),
        ({"rope_scaling": {**YARN, "rope_type": "linear"}}, "type 'linear' and 'yarn'"),
        ({"rope_scaling": {**YARN, "type": ["yarn"]}}, "type ['yarn'] is not supported"),
        ({"rope_scaling": {**YARN, "attention_factor": 2.0}}, "attention_factor"),
        ({"rope_parameters": {**YARN, "factor": 8}}, "rope_scaling and rope_parameters differ"),
        ({"rope_scaling": "yarn"}, "rope_scaling: 'yarn' is not an object"),
        ({"qk_head_dim": 81}, "qk_head_dim is 81, the other sizes give 80"),
        ({"num_experts": 8}, "num_experts is 8, the other sizes give 16"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"compression_config": {"bits": 4}}, "use the bf16 one"),
        ({"hidden_size": 2048.5}, "hidden_size: 2048.5 is not of type int"),
        ({"hidden_size": 10**400}, "hidden_size is a number of more than 30 digits"),
        ({"rope_theta": 10**400}, "rope_theta: a number of more than 30 digits"),
        ({"hidden_size": math.inf}, "hidden_size: inf is not of type int"),
        ({"norm_topk_prob": 1}, "norm_topk_prob: 1 is not of type bool"),
        ({"rms_norm_eps": True}, "rms_norm_eps: True is not of type float"),
        ({"eos_token_id": [257, None]}, "eos_token_id"),
        ({"rope_scaling": {**YARN, "rope_theta": 5.0}}, "rope_theta differs inside and outside"),
        ({"hidden_size": "2048"}, "hidden_size: '2048' is not of type int"),
        ({"hidden_size": True}, "hidden_size: True is not of type int"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"qk_rope_head_dim": 33}, "qk_rope_head_dim is 33"),
        ({"num_experts_per_tok": 17}, "num_experts_per_tok is 17, expected 1 to 16"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DeepseekV2Config.from_dict(tiny_config(**change), "config.json")
    assert str(caught.value).startswith("config.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_group": 5}, "n_group 5 does not divide 16"),
        ({"topk_group": 5}, "topk_group is 5"),
        ({"topk_group": 1, "num_experts_per_tok": 6}, "exceeds 1 groups"),
    ],
)
def test_groups_that_contradict_themselves_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DeepseekV2Config.from_dict(tiny_grouped_config(**change))


@pytest.mark.parametrize("key", ["vocab_size", "kv_lora_rank", "hidden_act", "model_type"])
def test_a_missing_key_is_named(key: str) -> None:
    config = tiny_config()
    del config[key]
    with pytest.raises(ConfigError, match=key):
        DeepseekV2Config.from_dict(config)


def test_every_problem_is_in_one_error() -> None:
    with pytest.raises(ConfigError, match=r"(?s)hidden_size.*unknown novelty"):
        DeepseekV2Config.from_dict(tiny_config(hidden_size=None, novelty=1))


def test_files_that_are_no_configuration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        load_config(tmp_path)
    for text in ("[]", "{", '"text"'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            load_config(tmp_path)


def test_a_list_of_end_tokens_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(eos_token_id=[257, 5])))
    assert load_config(tmp_path).eos_token_ids == (257, 5)


@pytest.mark.parametrize("key", sorted(set(IGNORED) - set(FIXED)))
def test_ignored_keys_change_nothing(key: str) -> None:
    plain = DeepseekV2Config.from_dict(tiny_config())
    changed = DeepseekV2Config.from_dict(tiny_config(**{key: "anything"}))
    assert replace(changed, raw=plain.raw) == plain


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"n_shared_experts": -1}, "n_shared_experts"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps"),
        ({"routed_scaling_factor": math.inf}, "routed_scaling_factor"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": 1}, "rope_theta"),
        ({"rope_scaling": {**YARN, "factor": 0}}, "factor"),
        ({"rope_scaling": {**YARN, "beta_fast": 0}}, "beta_fast"),
        (
            {"rope_scaling": {**YARN, "original_max_position_embeddings": 0}},
            "original_max_position_embeddings",
        ),
        ({"rope_scaling": {**YARN, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "default", "surprise": 1}}, "surprise"),
        ({"bos_token_id": 512}, "bos_token_id"),
        ({"eos_token_id": [257, 512]}, "eos_token_id"),
        ({"eos_token_id": -1}, "eos_token_id"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        DeepseekV2Config.from_dict(tiny_config(**change))


# As files have them that transformers 4 and 5, trainers and servers wrote.
AS_WRITTEN: dict[str, dict[str, Any]] = {
    "transformers 4 with everything": {
        "_name_or_path": "x", "return_dict": True, "output_attentions": False, "torchscript": False,
        "pruned_heads": {}, "is_encoder_decoder": False, "is_decoder": False, "top_k": 50,
        "add_cross_attention": False, "cross_attention_hidden_size": None, "max_length": 20,
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "tokenizer_class": None,
        "tie_encoder_decoder": False, "problem_type": None, "bad_words_ids": None,
        "_attn_implementation_autoset": True, "tf_legacy_loss": False,
    },
    "transformers 5": {"qk_head_dim": 80, "head_dim": 32, "dtype": "bfloat16", "mlp_bias": False},
    "unsloth": {"unsloth_version": "2026.1", "unsloth_fixed": True, "model_name": "x/y"},
    "no window": {"sliding_window": None, "use_sliding_window": False, "max_window_layers": 28},
    "attention": {"_attn_implementation": "eager", "attn_implementation": "flash_attention_2"},
    "one kind of attention": {"layer_types": ["full_attention"] * 3},
    "no quantization": {"quantization_config": None},
    "null is absent": {
        "n_group": None, "topk_method": None, "mlp_bias": None, "norm_topk_prob": None,
        "scoring_func": None, "moe_layer_freq": None, "rope_interleave": None,
    },
    "both rotary keys": {"rope_parameters": {**YARN, "rope_theta": 10000.0}},
    "rotary extras": {
        "rope_scaling": {**YARN, "rope_type": "yarn", "attention_factor": None, "truncate": True,
                         "partial_rotary_factor": 1.0, "finetuned": True},
    },
    "another name for the experts": {"num_experts": 16, "num_local_experts": 16},
    "numbers that are not used": {"use_cache": "yes", "attention_dropout": "none"},
}  # fmt: skip


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_harmless_keys_of_other_tools_change_nothing(name: str) -> None:
    plain = DeepseekV2Config.from_dict(tiny_config())
    changed = DeepseekV2Config.from_dict(tiny_config(**AS_WRITTEN[name]))
    assert replace(changed, raw=plain.raw) == plain


def with_points(value: Any) -> Any:
    """Return a JSON value whose whole numbers have a point."""
    if isinstance(value, dict):
        return {key: with_points(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_points(item) for item in value]
    return float(value) if type(value) is int else value


@pytest.mark.parametrize("config", [LITE_CONFIG, FULL_CONFIG, tiny_config(eos_token_id=[257, 5])])
def test_whole_numbers_may_be_written_with_a_point(config: dict[str, Any]) -> None:
    plain = DeepseekV2Config.from_dict(config)
    changed = DeepseekV2Config.from_dict(with_points(config))
    assert replace(changed, raw=plain.raw) == plain
    assert type(changed.hidden_size) is int
    assert {type(token) for token in changed.eos_token_ids} == {int}


@pytest.mark.parametrize("key", [*SIZES, "n_routed_experts", "moe_intermediate_size"])
@pytest.mark.parametrize("value", [10**9 * 4, 10**400, 4e300])
def test_absurd_sizes_are_refused_at_once(key: str, value: float) -> None:
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=f"{key} is .*, expected at most"):
        DeepseekV2Config.from_dict(tiny_config(**{key: value}))
    assert time.perf_counter() - started < 1


def test_sizes_that_are_absurd_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_routed_experts in num_hidden_layers"):
        DeepseekV2Config.from_dict(tiny_config(num_hidden_layers=4000, n_routed_experts=16000))


@pytest.mark.parametrize("text", ['{"rms_norm_eps": NaN}', '{"x": -Infinity}', "[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        load_config(tmp_path)


def test_a_model_without_end_tokens_is_left_to_the_other_file() -> None:
    config = tiny_config()
    del config["eos_token_id"]
    assert DeepseekV2Config.from_dict(config).eos_token_ids == ()
