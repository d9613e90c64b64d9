"""Every configuration that is accepted can be judged, or is refused before converting."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtcoder.errors import ConfigError
from trtcoder.export.reference.config import transformers_config
from trtcoder.export.reference.transformers_modules import import_modules
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.model.deepseek_v2.config_keys import IGNORED
from trtcoder.testing.random_checkpoint import FULL_CONFIG, LITE_CONFIG, tiny_config

ODD: list[Any] = [
    None, 0, 1, 2, -1, 1.0, 0.5, 3.0, True, False, "yes", [], {}, [1], 7, 10**6, 1e-6, 4096,
]  # fmt: skip
YARN_KEYS = sorted(LITE_CONFIG["rope_scaling"])
KEYS = sorted({*LITE_CONFIG, *IGNORED, "sliding_window", "rope_parameters", "qk_head_dim"})


@given(
    base=st.sampled_from([LITE_CONFIG, FULL_CONFIG, tiny_config()]),
    changes=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ODD), max_size=3),
    rotary=st.dictionaries(st.sampled_from(YARN_KEYS), st.sampled_from(ODD), max_size=1),
)
def test_an_accepted_configuration_is_transformers_or_refused_as_ours(
    base: dict[str, Any], changes: dict[str, Any], rotary: dict[str, Any]
) -> None:
    scaling = {**base["rope_scaling"], **rotary}
    try:
        config = DeepseekV2Config.from_dict({**base, "rope_scaling": scaling, **changes})
    except ConfigError:
        return
    try:
        found = transformers_config(import_modules(), config, "config.json")
    except ConfigError:
        assert config.hidden_size % config.num_attention_heads
        return
    assert found.rms_norm_eps == config.rms_norm_eps
    assert found.hidden_size == config.hidden_size
    assert found.qk_head_dim == config.qk_head_dim
    assert found.rope_parameters["rope_theta"] == config.rope_theta
    assert (found.rope_parameters["rope_type"] == "yarn") == (config.yarn is not None)


@pytest.mark.parametrize("config", [LITE_CONFIG, FULL_CONFIG, tiny_config()])
def test_the_values_are_those_that_transformers_reads_of_the_file(config: dict[str, Any]) -> None:
    modules = import_modules()
    ours = transformers_config(modules, DeepseekV2Config.from_dict(config), "config.json").to_dict()
    theirs = modules.DeepseekV2Config.from_dict(
        {**config, "rope_scaling": dict(config["rope_scaling"])}
    ).to_dict()
    different = {key for key in ours if ours[key] != theirs.get(key)}
    assert different <= {
        "rope_parameters", "bos_token_id", "eos_token_id", "dtype", "architectures", "auto_map",
        "pad_token_id",
    }  # fmt: skip
    for key in LITE_CONFIG["rope_scaling"].keys() - {"type"}:
        assert ours["rope_parameters"][key] == theirs["rope_parameters"][key]
