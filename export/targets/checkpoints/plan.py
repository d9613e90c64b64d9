"""One quantized checkpoint, planned from shapes: its weights, its files and its manifest."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from trtcoder import __version__
from trtcoder.bundle.manifest import FORMAT, Manifest, SourceInfo
from trtcoder.bundle.quantized import QuantizedParts
from trtcoder.checkpoint.reader import Checkpoint
from trtcoder.checkpoint.side_files import read_bytes
from trtcoder.checkpoint.weight_files import INDEX
from trtcoder.export.recipe import Recipe
from trtcoder.export.targets.checkpoints.card import card
from trtcoder.export.targets.checkpoints.exclusions import summary
from trtcoder.export.targets.checkpoints.form import form_of, readers
from trtcoder.export.targets.checkpoints.launch import group_of, launch_files, launches
from trtcoder.export.targets.checkpoints.settings import config_json, hf_quant_config
from trtcoder.export.targets.checkpoints.splits import Split, problems
from trtcoder.export.targets.target import model_info
from trtcoder.export.weights.plan import WeightPlan
from trtcoder.export.weights.safetensors_files import (
    SHARD_BYTES,
    index,
    open_files,
    place_all,
    shard,
)
from trtcoder.export.weights.sink import Sink
from trtcoder.model.deepseek_v2.config import DeepseekV2Config
from trtcoder.plain_json import dumps
from trtcoder.prompting.source import Prompting, prompt_files

# What a checkpoint's folder may say of its licence; it goes along with the weights.
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


@dataclass(frozen=True)
class CheckpointPlan:
    """A quantized checkpoint (see `EnginePlan`).

    Attributes:
        target: the target's name.
        checkpoint: what it is made of.
        recipe: how it is stored.
        weights: its tensors, under the names that servers read.
        excluded: the modules that stay in bfloat16, with the reason.
        shard_bytes: the largest file of weights.
    """

    target: str
    checkpoint: Checkpoint
    recipe: Recipe
    weights: WeightPlan
    excluded: Mapping[str, str]
    shard_bytes: int = SHARD_BYTES

    @functools.cached_property
    def files(self) -> dict[str, str]:
        """The file of each tensor."""
        return shard(self.weights.declared.values(), self.shard_bytes)

    @functools.cached_property
    def scalars(self) -> frozenset[str]:
        """Tensors that are one number."""
        return frozenset(
            name
            for name, weight in self.weights.declared.items()
            if weight.shape == (1,) and name.endswith(("_scale", "_scale_2"))
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the checkpoint, but for its manifest and certificate."""
        placed = place_all(self.weights, self.files, self.scalars).values()
        return sum(each.size for each in placed) + sum(map(len, self._small_files().values()))

    @property
    def compiled_bytes(self) -> int:
        """Nothing is compiled."""
        return 0

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache of one token takes, all layers together: latent, in bfloat16."""
        config = DeepseekV2Config.of(self.checkpoint.config)
        return 2 * config.num_hidden_layers * config.cache_width

    @property
    def data_files(self) -> tuple[str, ...]:
        """Names of the shards."""
        return tuple(dict.fromkeys(self.files.values()))

    def allows(self, tp: int, ep: int) -> bool:
        """Return whether servers load it on ``tp`` GPUs, the experts in ``ep`` shares.

        They have experts in as many shares as GPUs, or cut along their inner width.
        """
        config = DeepseekV2Config.of(self.checkpoint.config)
        split, form = Split(tp, expert_parallel=ep > 1), form_of(self.recipe)
        return ep in (1, tp) and not problems(
            config, form, group_of(self.recipe), self.excluded, split
        )

    def open_sink(self, folder: Path) -> AbstractContextManager[Sink]:
        """Open the shards for writing; what is in them stays."""
        return open_files(self.weights, folder, self.files, self.scalars)

    def write_rest(self, folder: Path) -> None:
        """Write the index, the configuration, and what servers and prompts need."""
        for name, data in self._small_files().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            if name.endswith(".sh"):
                (folder / name).chmod(0o755)

    def manifest(self, prompting: Prompting, digest: str, method: str = "rtn") -> Manifest:
        """Return the manifest, without files and certificate."""
        recipe = self.recipe.to_dict() | {"method": method}
        kept = {"embedding": "bf16", "lm_head": "bf16"}
        schemes = {kind: str(scheme) for kind, scheme in sorted(self.recipe.schemes.items())} | kept
        form = form_of(self.recipe)
        return Manifest(
            format=FORMAT,
            trtcoder=__version__,
            target=self.target,
            model=model_info(self.checkpoint),
            source=SourceInfo(digest, self.checkpoint.stored_dtype),
            recipe={**recipe, "schemes": schemes},
            capabilities=prompting.capabilities,
            chat_format=prompting.chat_format,
            tokens=prompting.tokens,
            files={},
            parity=None,
            chat_template=prompting.chat_template,
            chat_refusal=prompting.chat_refusal,
            sampling=prompting.sampling,
            quantized=QuantizedParts(form.value, self._readers, summary(self.excluded)),
        )

    @property
    def _readers(self) -> tuple[str, ...]:
        width = DeepseekV2Config.of(self.checkpoint.config).moe_intermediate_size
        return readers(self.recipe, width)

    def _small_files(self) -> dict[str, bytes]:
        config, excluded = DeepseekV2Config.of(self.checkpoint.config), list(self.excluded)
        texts = {
            INDEX: index(self.weights, self.files),
            "config.json": _json(config_json(config, self.recipe, excluded)),
        }
        modelopt = hf_quant_config(self.recipe, excluded)
        if modelopt is not None:
            texts["hf_quant_config.json"] = _json(modelopt)
        form, licences = form_of(self.recipe), licence_files(self.checkpoint.folder)
        found = launches(config, self.recipe, self.excluded, self.weights)
        served = self._readers
        texts |= launch_files(served, found, config.max_position_embeddings, form)
        texts["README.md"] = card(
            self.checkpoint.name, form, served, self.excluded, found, list(licences)
        )
        return {
            **{name: text.encode() for name, text in texts.items()},
            **prompt_files(self.checkpoint.folder),
            **licences,
        }


def licence_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a checkpoint's folder that state its licence.

    Raises:
        CheckpointError: one cannot be read.
    """
    found = sorted({path for pattern in _LICENCES for path in folder.glob(pattern)})
    return {path.name: read_bytes(path) for path in found if path.is_file()}


def _json(value: object) -> str:
    return dumps(value, indent=2) + "\n"
