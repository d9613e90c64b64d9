from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trtcoder.errors import RequestError
from trtcoder.runtime.triton import older_names
from trtcoder.runtime.triton.llmapi import OUTPUT
from trtcoder.runtime.triton.older_names import OlderNamesModel
from trtcoder.runtime.triton.tensor import Inputs

KINDS = {each.name: each for each in older_names.INPUTS}


def to_engine(**values: Any) -> dict[str, Any]:
    """Send tensors of a batch of one; return what the engine is sent."""
    given = {"text_input": "a", "max_tokens": 4, **values}
    tensors = {
        name: KINDS[name].array(value if isinstance(value, list) else [value])[None]
        for name, value in given.items()
    }
    found = OlderNamesModel().to_engine(Inputs(tensors))
    assert all(array.ndim == 1 for array in found.values())
    return {name: array.tolist() for name, array in found.items()}


def test_what_nvidias_client_always_sends_is_understood() -> None:
    found = to_engine(
        stream=True,
        beam_width=1,
        temperature=1.0,
        num_return_sequences=1,
        exclude_input_in_output=False,
        bad_words=[""],
        stop_words=[""],
        end_id=5,
        pad_id=5,
    )
    assert found == {
        "text_input": [b"a"],
        "sampling_param_max_tokens": [4],
        "streaming": [True],
        "stream_deltas": [True],
        # Without top_k and top_p the most likely token is taken, whatever the temperature.
        "sampling_param_temperature": [0.0],
        "sampling_param_exclude_input_from_output": [False],
        "sampling_param_stop": [b""],
        "end_id": [5],
    }


def test_a_temperature_counts_beside_top_k_or_top_p() -> None:
    for name, value in (("top_k", 3), ("top_p", 0.5)):
        found = to_engine(temperature=0.5, **{name: value})
        assert found["sampling_param_temperature"] == [0.5]
        assert found[f"sampling_param_{name}"] == [value]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"beam_width": 4}, "beam_width is 4; it must be 1"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2; it must be 1"),
        ({"bad_words": ["x"]}, "bad_words: are not served"),
        ({"return_context_logits": True}, "return_context_logits: logits are not given out"),
        ({"return_generation_logits": True}, "return_generation_logits: logits are not given out"),
    ],
)
def test_what_is_not_served_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        to_engine(**values)
    assert said in str(caught.value)


def test_responses_have_the_older_names_and_a_batch() -> None:
    outputs = {
        "text_output": OUTPUT["text_output"].array(["b"]),
        "cumulative_logprob": OUTPUT["cumulative_logprob"].array([-1.5]),
        "output_log_probs": OUTPUT["output_log_probs"].array([[-1.0, -0.5]]),
        "num_output_tokens": OUTPUT["num_output_tokens"].array([2]),
    }
    found = OlderNamesModel().from_engine(outputs)
    assert found["text_output"][0] == b"b"
    assert found["cum_log_probs"].shape == (1, 1)
    assert found["output_log_probs"].shape == (1, 1, 2)
    assert found["num_output_tokens"][0][0] == 2
    assert found["sequence_index"][0][0] == found["batch_index"][0][0] == 0
    assert set(found) <= {each.name for each in older_names.OUTPUTS}
    assert all(isinstance(array, np.ndarray) for array in found.values())
