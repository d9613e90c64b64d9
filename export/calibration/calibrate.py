"""Runs calibration text through a checkpoint, layer by layer, while its weights are converted.

Before a layer is converted, the text runs through it with the checkpoint's weights, and every
activation is observed. After it, the text runs through it again with the weights as they are
stored, so that the next layer is calibrated on what it will get. One layer is in memory at a time,
and the text's activations (`trtcoder.calib.spill` moves them to disk when they are large).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtcoder.bundle import provenance
from trtcoder.bundle.provenance import Coverage
from trtcoder.calib.coverage import ExpertCoverage, ExpertTokens
from trtcoder.calib.observers import ActivationObserver
from trtcoder.calib.quantizers.calibrated import CalibratedQuantizer, Observed
from trtcoder.calib.spill import CAP_BYTES, ActivationStore
from trtcoder.calib.storage.scheme import Scheme
from trtcoder.calib.text.calibration import CalibrationText
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.checkpoint.shard import blake3
from trtcoder.export.calibration.layer_module import LayerModule
from trtcoder.export.calibration.observe import LayerWatch, Seen, parallel
from trtcoder.export.reference.model import SequenceState, TransformersReference
from trtcoder.export.weights.experts import expert_product
from trtcoder.export.weights.plan import StoredMatrix, WeightPlan
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.typed_json import MismatchError, plain, read

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
EMBEDDING = "embed_tokens/weight"
# Sequences whose activations are held at a time.
_BATCH = 8
# Experts whose matrices stand for all when the scale of their common input is searched.
_SEARCHED_EXPERTS = 8


class Calibration:
    """Carries text through the layers; its hooks are called around each stage of conversion."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        text: CalibrationText,
        method: str,
        workspace: Path,
        *,
        minimum: int = 32,
        cap_bytes: int = CAP_BYTES,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            checkpoint: the weights.
            text: what calibrates.
            method: one of `trtcoder.calib.quantizers.calibrated.METHODS`.
            workspace: a folder for the activations, where an interrupted build finds them again.
            minimum: tokens that an expert needs to be calibrated.
            cap_bytes: activations beyond this go to disk.
        """
        self.quantizer = CalibratedQuantizer(method)
        self.quantizer.on_kept = self._assign
        self.coverage = ExpertCoverage(minimum, {}, [])
        self.text = text
        self._config = DeepseekV2Config.of(checkpoint.config)
        self._reference = TransformersReference(checkpoint)
        self._store = ActivationStore(cap_bytes, workspace)
        self._workspace = workspace
        self._say: Callable[[str], None] = lambda item: None
        self._matrices: dict[str, StoredMatrix] = {}
        self._layer_module: LayerModule | None = None
        self._layer = -1
        self._offsets = np.cumsum([0, *(len(sequence.ids) for sequence in text.sequences)])
        self._streams = self._store.allocate(int(self._offsets[-1]), self._config.hidden_size)
        self._moe_input = self._store.allocate(*self._streams.shape)
        self._states: list[SequenceState] = []

    def attach(self, plan: WeightPlan, say: Callable[[str], None]) -> None:
        """Learn from a plan which matrices there are; ``say`` is told what is going on."""
        self._matrices = plan.matrices
        self._say = say

    def plan(self) -> dict[str, object]:
        """Return what the stored values depend on, for the journal."""
        return {
            "method": self.quantizer.method,
            "minimum": self.coverage.minimum,
            **self.text.to_dict(),
            "versions": self._reference.versions(),
        }

    def stated(self) -> provenance.Calibration:
        """Return what a certificate says of it."""
        text = self.text
        return provenance.Calibration(
            self.quantizer.method,
            text.source,
            text.digest,
            text.seed,
            len(text.sequences),
            text.tokens,
            text.kinds,
            text.dropped,
            self.coverage.stated(),
        )

    def before_stage(self, stage: int) -> None:
        """Observe a stage's activations: 0 is the embedding, then the layers, then the head."""
        import torch

        with torch.inference_mode():
            if stage == 0:
                self._embed()
            elif stage <= self._config.num_hidden_layers:
                self._layer = stage - 1
                self._say(f"calibrating layer {self._layer}")
                module = self._reference.load_layer(self._layer)
                self._layer_module = LayerModule(module, self._layer)
                self._observe_layer(module)
            else:
                self._layer = -1
                normed = self._reference.final_norm(torch.from_numpy(self._streams)).numpy()
                self._add("final_norm", normed)
            self._search_scales()

    def after_stage(self, stage: int) -> None:
        """Carry the text through the stage as it is stored."""
        import torch

        if self._layer_module is not None:
            module = self._layer_module.module

            def advance(state: SequenceState) -> None:
                with torch.inference_mode():
                    state.stream.copy_(self._reference.forward(module, state))

            with parallel() as pool:
                list(pool.map(advance, self._states))
        self._layer_module = None
        self.quantizer.forget_activations()

    def save(self, stage: int) -> Mapping[str, object]:
        """Keep the residual stream in a file; the file of the stage before goes."""
        target = self._saved(stage)
        with target.with_suffix(".tmp").open("wb") as file:
            np.save(file, self._streams)
            file.flush()
            os.fsync(file.fileno())
        os.replace(target.with_suffix(".tmp"), target)
        self._saved(stage - 2).unlink(missing_ok=True)
        return {"coverage": plain(self.coverage.stated()), "stream": _digest(self._streams)}

    def restore(self, stage: int, state: Mapping[str, Any]) -> bool:
        """Go on behind ``stage`` with what `save` kept; return False where that is damaged."""
        import torch

        try:
            stream = np.load(self._saved(stage), mmap_mode="r")
            if (stream.shape, stream.dtype) != (self._streams.shape, self._streams.dtype):
                return False
            if _digest(stream) != state["stream"]:
                return False
            coverage = read(Coverage, state["coverage"])
        except (OSError, EOFError, ValueError, KeyError, MismatchError):
            return False
        with torch.inference_mode():
            self._embed()
        self._streams[:] = stream
        self.coverage.routed = {layer: list(n) for layer, n in coverage.tokens.items()}
        self.coverage.short = list(coverage.short)
        return True

    def _saved(self, stage: int) -> Path:
        return self._workspace / f"stream.{stage}.npy"

    def _embed(self) -> None:
        import torch

        for sequence, start in zip(self.text.sequences, self._offsets, strict=False):
            state = self._reference.embed(np.array(sequence.ids))
            rows = torch.from_numpy(self._streams[start : start + len(sequence.ids)])[None]
            state.stream = rows.copy_(state.stream)
            self._states.append(state)

    def _observe_layer(self, module: Any) -> None:
        """Run the layer with the checkpoint's weights and observe its activations."""
        name = f"layers.{self._layer}"
        attention, mlp = module.self_attn, module.mlp
        is_moe = self._config.is_moe_layer(self._layer)
        watched: dict[str, Any] = {f"{name}/attention/heads": attention.o_proj}
        if attention.q_lora_rank is None:
            watched[f"{name}/input_norm"] = attention.q_proj
        else:
            watched[f"{name}/input_norm"] = attention.q_a_proj
            watched[f"{name}/attention/q_norm"] = attention.q_b_proj
        watched[f"{name}/post_attention_norm"] = mlp.gate if is_moe else mlp.gate_proj
        if not is_moe:
            watched[f"{name}/mlp/product"] = mlp.down_proj
        elif self._config.shared_intermediate_size:
            watched[f"{name}/moe/shared_experts/product"] = mlp.shared_experts.down_proj
        observers: dict[str, ActivationObserver] = {}
        routed: list[tuple[torch.Tensor, ...]] = []
        gate = mlp.gate if is_moe else None
        with parallel() as pool, LayerWatch(self._reference, module, watched, gate) as watch:
            for start in range(0, len(self._states), _BATCH):
                seen = list(pool.map(watch.run, self._states[start : start + _BATCH]))
                self._observe(observers, seen, pool)
                if is_moe:
                    routed += [each.routed for each in seen if each.routed is not None]
                    inputs = [each.activations[f"{name}/post_attention_norm"] for each in seen]
                    rows = slice(self._offsets[start], self._offsets[start + len(seen)])
                    np.concatenate(inputs, out=self._moe_input[rows])
        for activation, observer in observers.items():
            self.quantizer.add_activation(activation, partial(Observed, observer))
        if is_moe:
            self._register_experts(module.mlp.experts, routed)

    def _observe(
        self, observers: dict[str, ActivationObserver], seen: list[Seen], pool: ThreadPoolExecutor
    ) -> None:
        """Add what sequences showed to the observers, an activation in each thread."""
        for activation, x in seen[0].activations.items():
            if activation not in observers:
                observers[activation] = self._observer(activation, x.shape[1])

        def add(activation: str) -> None:
            for each in seen:
                observers[activation].add(each.activations[activation])

        list(pool.map(add, observers))

    def _register_experts(self, experts: Any, routed: list[tuple[torch.Tensor, ...]]) -> None:
        """Make the activations of each expert known, with the tokens that it learns from."""
        import torch

        logits, weights, chosen = (torch.cat(part) for part in zip(*routed, strict=True))
        probabilities = logits.softmax(-1).numpy()
        mixing = np.zeros_like(probabilities)
        np.put_along_axis(mixing, chosen.numpy(), weights.numpy(), axis=1)
        top_k = self._config.num_experts_per_tok
        shared_out = self.coverage.share_out(self._layer, probabilities, mixing, top_k)
        for expert, found in enumerate(shared_out):
            self._register_expert(expert, experts.gate_up_proj[expert], found)
        if not self.quantizer.needs_hessian:
            # Little is kept of each. And the range of what float8 rounds may be asked for by the
            # steps of all experts, while gate and up are being replaced by what is stored.
            with parallel() as pool:
                list(pool.map(self.quantizer.observed, self.quantizer.known_activations()))

    def _register_expert(self, expert: int, gate_up: torch.Tensor, found: ExpertTokens) -> None:
        hidden, name = self._moe_input, f"layers.{self._layer}/moe/experts"

        def observe(activation: str, values: Floats) -> Observed:
            observer = self._observer(activation, values.shape[1])
            observer.add(values, found.shares)
            return Observed(observer, found.short)

        def gated() -> Floats:
            import torch

            with torch.inference_mode():
                x = torch.from_numpy(hidden[found.tokens])
                gate, up = (x @ gate_up.T).chunk(2, dim=-1)
                result: Floats = (torch.nn.functional.silu(gate) * up).numpy()
            return result

        own, down = f"{name}/input[{expert}]", expert_product(name, expert)
        self.quantizer.add_activation(own, lambda: observe(own, hidden[found.tokens]))
        self.quantizer.add_activation(down, lambda: observe(down, gated()))
        for role in ("gate", "up"):
            self.quantizer.set_own_activation(f"{name}/{role}[{expert}]", own)
        if self.quantizer.needs_hessian:
            self.quantizer.set_private(f"{name}/down[{expert}]", (own, down))

    def _search_scales(self) -> None:
        if not self.quantizer.rescales:
            return
        by_activation: dict[str, list[StoredMatrix]] = {}
        for name, stored in self._matrices.items():
            expert = int(name.rpartition("[")[2][:-1]) if name.endswith("]") else 0
            stands_for_all = expert % self._expert_step == 0 or stored.kind == "experts_down"
            scheme = stored.scheme
            # Float8 keeps its relative precision whatever a channel's scale.
            is_integer = isinstance(scheme, Scheme) and not scheme.is_float
            if is_integer and stands_for_all:
                by_activation.setdefault(stored.activation, []).append(stored)
        for activation in self.quantizer.known_activations():
            found = by_activation.get(activation, [])
            if found:
                schemes = [s.scheme for s in found if isinstance(s.scheme, Scheme)]
                self.quantizer.add_scale(activation, partial(_read_all, found), schemes)

    @property
    def _expert_step(self) -> int:
        return max(1, self._config.n_routed_experts // _SEARCHED_EXPERTS)

    def _observer(self, activation: str, width: int) -> ActivationObserver:
        return ActivationObserver(activation, width, with_hessian=self.quantizer.needs_hessian)

    def _add(self, activation: str, values: Floats) -> None:
        observer = self._observer(activation, values.shape[1])
        observer.add(values)
        self.quantizer.add_activation(activation, partial(Observed, observer))

    def _assign(self, name: str, start: int, restored: Floats) -> None:
        """Put stored rows back where the checkpoint has them, for the run behind the stage."""
        if name == EMBEDDING:
            self._assign_embedding(start, restored)
        elif self._layer_module is not None:
            self._layer_module.assign(self._matrices[name].source, start, restored)

    def _assign_embedding(self, start: int, rows: Floats) -> None:
        for sequence, first in zip(self.text.sequences, self._offsets, strict=False):
            ids = np.array(sequence.ids) - start
            inside = np.flatnonzero((ids >= 0) & (ids < len(rows)))
            self._streams[first + inside] = rows[ids[inside]]


def _digest(stream: Floats) -> str:
    digest = blake3()
    digest.update(stream.reshape(-1).view(np.uint8).data)
    return str(digest.hexdigest())


def _read_all(matrices: list[StoredMatrix]) -> list[Floats]:
    return [stored.source.read() for stored in matrices]
