"""The models `preprocessing` and `postprocessing` of the older layout: text to token ids and back.

They answer who asks them by name; `ensemble` needs neither.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from trtcoder.runtime.triton.reply import Outputs, TritonReply, inputs_of
from trtcoder.runtime.triton.tensor import Inputs, Tensor

PREPROCESSING_INPUTS = (
    Tensor("QUERY", "STRING", optional=False),
    Tensor("REQUEST_OUTPUT_LEN", "INT32"),
    Tensor("BAD_WORDS_DICT", "STRING", (-1,)),
    Tensor("STOP_WORDS_DICT", "STRING", (-1,)),
    Tensor("END_ID", "INT32"),
    Tensor("PAD_ID", "INT32"),
)
PREPROCESSING_OUTPUTS = (
    Tensor("INPUT_ID", "INT32", (-1,)),
    Tensor("REQUEST_INPUT_LEN", "INT32"),
    Tensor("DECODER_INPUT_ID", "INT32", (-1,)),
    Tensor("REQUEST_DECODER_INPUT_LEN", "INT32"),
    Tensor("REQUEST_OUTPUT_LEN", "INT32", (-1,)),
    Tensor("OUT_END_ID", "INT32"),
    Tensor("OUT_PAD_ID", "INT32"),
)
POSTPROCESSING_INPUTS = (
    Tensor("TOKENS_BATCH", "INT32", (-1, -1), optional=False),
    Tensor("SEQUENCE_LENGTH", "INT32", (-1,), optional=False),
)
POSTPROCESSING_OUTPUTS = (Tensor("OUTPUT", "STRING", (-1,)),)


class TextModel(ABC):
    """Answers at once, with the tokenizer of the engine; what is answered is for who derives."""

    backend: ClassVar[Any]

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine's tokenizer."""
        from trtcoder.bundle.folder import Bundle
        from trtcoder.errors import TrtcoderError
        from trtcoder.prompting.prompts import Prompts

        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], config["parameters"]["engine"]["string_value"])
        try:
            bundle = Bundle.load(folder, verify_hashes=False)
            self.prompts = Prompts.load(bundle.folder, bundle.manifest)
        except TrtcoderError as error:
            raise self.backend.TritonModelException(str(error)) from error

    @abstractmethod
    def answer(self, inputs: Inputs) -> Outputs:
        """Return the tensors for the client.

        Raises:
            RequestError: a tensor has a value that cannot be served.
        """

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer requests."""
        for request in requests:
            reply = TritonReply(self.backend, request.get_response_sender())
            try:
                outputs = self.answer(inputs_of(request))
            except Exception as error:
                reply.fail(error)
            else:
                reply.send(outputs, last=True)


class PreprocessingModel(TextModel):
    """Text to the token ids of its prompt."""

    def answer(self, inputs: Inputs) -> Outputs:
        """Return the prompt's ids, and the ids that end an answer and that fill up."""
        ids = self.prompts.completion(inputs.text("QUERY") or "")
        eos = self.prompts.format.tokens.eos
        given = inputs.whole("END_ID")
        end = given if given is not None else (eos[0] if eos else -1)
        pad = inputs.whole("PAD_ID")
        values = {
            "INPUT_ID": ids,
            "REQUEST_INPUT_LEN": [len(ids)],
            # Of models with an encoder, which this is none.
            "DECODER_INPUT_ID": [end],
            "REQUEST_DECODER_INPUT_LEN": [1],
            "REQUEST_OUTPUT_LEN": [inputs.whole("REQUEST_OUTPUT_LEN") or 0],
            "OUT_END_ID": [end],
            "OUT_PAD_ID": [end if pad is None else pad],
        }
        return {name: Tensor(name, "INT32").array([row]) for name, row in values.items()}


class PostprocessingModel(TextModel):
    """Token ids of answers to their texts."""

    def answer(self, inputs: Inputs) -> Outputs:
        """Return the text of each answer, without control tokens."""
        tokens = inputs.tensors["TOKENS_BATCH"]
        rows = tokens.reshape(-1, tokens.shape[-1])
        lengths = inputs.tensors["SEQUENCE_LENGTH"].reshape(-1)
        texts = [
            self.prompts.tokenizer.decode(row[:length].tolist())
            for row, length in zip(rows, lengths, strict=False)
        ]
        return {"OUTPUT": Tensor("OUTPUT", "STRING").array(texts)}
