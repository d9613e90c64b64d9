"""An engine as a model of transformers' generation, in the style of Optimum's ORTModelForCausalLM.

The forward pass is ours: `runtime`'s runner over a paged latent cache. Greedy and sampled answers,
beams, processors, stopping criteria and streamers are transformers' own.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.deepseek_v2 import DeepseekV2Config

from trtcoder.bundle.folder import Bundle
from trtcoder.errors import EngineError, RequestError
from trtcoder.optimum.latent_rows import LatentRows
from trtcoder.optimum.ragged_forward import RaggedForward
from trtcoder.runtime.engine.runner import ModelRunner

_CPU = torch.device("cpu")


class PreTrainedModel:
    """A name: by it transformers 4 knows in its pipelines that a class works with torch."""


class EngineForCausalLM(GenerationMixin, PreTrainedModel):
    """An engine folder with ``generate``, for transformers' programs and its ``pipeline``.

    >>> model = EngineForCausalLM.from_pretrained("engines/lite")                # doctest: +SKIP
    >>> tokenizer = AutoTokenizer.from_pretrained("DeepSeek-Coder-V2-Lite-Base") # doctest: +SKIP
    >>> pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)     # doctest: +SKIP

    It runs one forward pass at a time, whoever asks. For servers, for many requests at once and to
    fill in the middle there is `trtcoder.LLM`.

    Attributes:
        config: transformers' configuration of the model.
        generation_config: what the checkpoint's authors advise.
        manifest: what the engine's folder says about it.
        context: most tokens of a row.
    """

    main_input_name = "input_ids"
    base_model_prefix = "model"
    input_modalities = ("text",)
    device = _CPU
    dtype = torch.float32
    _is_stateful = False

    def __init__(self, bundle: Bundle, runner: ModelRunner) -> None:
        """Take a graph that is loaded; `from_pretrained` loads one."""
        self.manifest = bundle.manifest
        config: dict[str, Any] = bundle.manifest.model.config
        self.config = DeepseekV2Config(**config)
        self.generation_config = _generation_config(bundle)
        self._forward = RaggedForward(runner)
        self.context = self._forward.context
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        engine: str | Path,
        *,
        threads: int | None = None,
        cache_tokens: int | None = None,
        verify_hashes: bool = True,
        export: bool = False,
        provider: str = "CPUExecutionProvider",
        trust_remote_code: bool = False,
    ) -> EngineForCausalLM:
        """Load an engine folder.

        Args:
            engine: what `trtcoder build` or `optimum-cli export onnx` made.
            threads: of the matrix products; by default the cores that may be used.
            cache_tokens: tokens that the cache holds, for all rows together; the model's context if
                None. Memory is reserved, and only taken by the rows in use.
            verify_hashes: compare every file with its hash.
            export: Optimum's name; a checkpoint is exported by a command of its own.
            provider: Optimum's name.
            trust_remote_code: Optimum's name; an engine has no code to trust.

        Raises:
            DependencyError: onnxruntime is not installed.
            EngineError: the folder does not match its manifest, or cannot run here.
            RequestError: ``export`` or another provider is asked for.
        """
        if export:
            raise RequestError(
                f"export=True: {engine} is not exported on the way; run `trtcoder build` or "
                "`optimum-cli export onnx` first, and give its folder"
            )
        if provider != "CPUExecutionProvider":
            raise RequestError(f"provider {provider}: engines of this kind run on the CPU's only")
        bundle = Bundle.load(engine, verify_hashes=verify_hashes)
        if bundle.manifest.model.config.get("model_type") != "deepseek_v2":
            raise EngineError(f"{engine}: not a DeepSeek-V2 model; use trtcoder.LLM")
        return cls(bundle, ModelRunner(bundle, threads=threads, cache_tokens=cache_tokens))

    def __call__(self, *args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
        """Run `forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: LatentRows | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Run columns of a batch.

        Args:
            input_ids: int64 ``[rows, columns]``, behind those that ``past_key_values`` has.
            attention_mask: ``[rows, past and new columns]``, 0 where there is padding; on
                whichever side that is, it takes neither position nor cache.
            past_key_values: what an earlier call returned; it is taken on, not copied.
            use_cache: return the cache, so that the next call goes on from it.
            logits_to_keep: so many of the last columns get logits; all of them if 0.
            return_dict: transformers' name; the answer always has names.

        Returns:
            ``logits``, float32 ``[rows, kept columns, vocab]``, zero where there is padding, and
            ``past_key_values``.

        Raises:
            RequestError: shapes do not fit, a token is out of range, or the cache is full.
            ContextError: a row becomes longer than the context.
            EngineError: ONNX Runtime fails, or values are not finite.
        """
        ids, shown = self._checked(input_ids, attention_mask, past_key_values)
        kept = min(logits_to_keep or ids.shape[1], ids.shape[1])
        if logits_to_keep == 1 and not shown[:, -1].all():
            row = int(np.flatnonzero(~shown[:, -1])[0])
            raise RequestError(
                f"attention_mask: row {row} ends with padding; pad on the left "
                "(padding_side='left' of the tokenizer)"
            )
        with self._lock:
            past = past_key_values
            rows = self._forward.empty_rows(len(ids)) if past is None else past
            logits = self._forward.run(rows, ids, shown, kept)
        return CausalLMOutputWithPast(
            logits=torch.from_numpy(logits),
            past_key_values=None if use_cache is False else rows,  # type: ignore[arg-type]
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        past_key_values: LatentRows | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of the next forward pass: the columns that were not run yet."""
        seen = 0 if past_key_values is None else past_key_values.columns
        return {
            "input_ids": input_ids[:, seen:],
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "logits_to_keep": kwargs.get("logits_to_keep", 1),
        }

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Continue a batch; see transformers' ``generate``. Rows are padded on the left.

        Raises:
            RequestError: drafts are asked for, or as `forward`.
        """
        config = kwargs.get("generation_config") or self.generation_config
        for name in ("assistant_model", "prompt_lookup_num_tokens"):
            if kwargs.get(name) or getattr(config, name, None):
                raise RequestError(f"{name}: not here; trtcoder.LLM drafts from the prompt itself")
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def can_generate(self) -> bool:
        """Return that it can."""
        return True

    def is_remote_code(self) -> bool:
        """Return that no code came with the engine."""
        return False

    def get_experts_implementation(self) -> dict[str, str]:
        """Return that transformers has none of its experts' implementations to change."""
        return {}

    def eval(self) -> EngineForCausalLM:
        """Return the model: it is never in training."""
        return self

    def to(self, device: Any) -> EngineForCausalLM:
        """Return the model, where ``device`` is the CPU.

        Raises:
            RequestError: it is not.
        """
        if torch.device(device).type != "cpu":
            raise RequestError(
                f"device {device}: engines of this kind run on the CPU; leave it out"
            )
        return self

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> bool:
        """Make none of transformers' caches: the first forward pass takes ours."""
        return False

    def _checked(
        self, input_ids: torch.Tensor, mask: torch.Tensor | None, past: LatentRows | None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return ids and which of them are shown, both ``[rows, columns]``, once they fit."""
        ids = np.asarray(input_ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
            raise RequestError(
                f"input_ids has shape {list(ids.shape)} and type {ids.dtype}; "
                "it must be whole numbers [rows, columns]"
            )
        if past is not None and len(past) != len(ids):
            raise RequestError(f"past_key_values has {len(past)} rows, and input_ids {len(ids)}")
        columns = (0 if past is None else past.columns) + ids.shape[1]
        shown = np.ones((len(ids), columns), bool)
        if mask is not None:
            shown = np.asarray(mask) != 0
        if shown.shape != (len(ids), columns):
            raise RequestError(
                f"attention_mask has shape {list(shown.shape)}; it must be {[len(ids), columns]}, "
                "the columns in the cache included"
            )
        shown = shown[:, columns - ids.shape[1] :]
        size = self.manifest.model.vocab_size
        wrong = ids[shown & ((ids < 0) | (ids >= size))]
        if wrong.size:
            raise RequestError(
                f"input_ids has token id {wrong[0]}, outside the vocabulary of {size}"
            )
        return ids.astype(np.int64), shown


# Its pipelines log an error of every class that is not in this table; Optimum does so as well.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["trtcoder_engine"] = EngineForCausalLM.__name__


def _generation_config(bundle: Bundle) -> GenerationConfig:
    """Return the checkpoint's advice; its end of sequence where it has none."""
    if (bundle.folder / "generation_config.json").exists():
        config = GenerationConfig.from_pretrained(bundle.folder)
    else:
        tokens = bundle.manifest.tokens
        ends = {"bos_token_id": tokens.bos, "eos_token_id": list(tokens.eos)}
        config = GenerationConfig(**ends)  # type: ignore[no-untyped-call]
    # Written beside the model's weights; transformers would make it anew from the configuration.
    config._from_model_config = False
    return config
