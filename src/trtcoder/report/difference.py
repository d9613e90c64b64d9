"""What two certificates say differently: `compare` finds it, `Difference` holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trtcoder.bundle.provenance import Tensor
from trtcoder.errors import EngineError
from trtcoder.report.certified import CertifiedEngine
from trtcoder.report.statements import shares
from trtcoder.report.tensors import by_class

Value = float | int | str | None
# What the first and the second engine have under one name; None where one has it not.
Pairs = dict[str, tuple[Value, Value]]


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor that the engines store differently; a ratio is None where nothing was lost."""

    name: str
    kind: str
    schemes: tuple[str, str]
    methods: tuple[str, str]
    snr_db: tuple[float | None, float | None]

    @property
    def change_db(self) -> float:
        """How much better the second engine has it, infinite where one of them is exact."""
        first, second = (math.inf if ratio is None else ratio for ratio in self.snr_db)
        return 0.0 if first == second else second - first


@dataclass(frozen=True, slots=True)
class Difference:
    """Two engines side by side; pairs are of the first and the second.

    Attributes:
        names: of the engines.
        checkpoints: digests of their checkpoints.
        notes: why numbers may not be comparable.
        recipe: settings that differ.
        metrics: verdict, size in bytes, and the metrics of the logits.
        perplexity: the engines', by kind of text.
        bits: stored bits per weight by tensor class.
        class_bytes: stored bytes by tensor class.
        schemes: schemes by tensor class.
        layers: the hidden state's mean relative error by layer.
        routers: router agreement by layer.
        tensors: those whose scheme, method or ratio differs, the largest change first.
        files: sha256 by file.
    """

    names: tuple[str, str]
    checkpoints: tuple[str, str]
    notes: tuple[str, ...]
    recipe: Pairs
    metrics: Pairs
    perplexity: Pairs
    bits: Pairs
    class_bytes: Pairs
    schemes: Pairs
    layers: Pairs
    routers: Pairs
    tensors: tuple[TensorDifference, ...]
    files: Pairs

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a value that is not finite becomes null."""
        sections = {
            name: {key: list(map(_plain, pair)) for key, pair in getattr(self, name).items()}
            for name in (
                "recipe", "metrics", "perplexity", "bits", "class_bytes", "schemes", "layers",
                "routers",
            )
        }  # fmt: skip
        return {
            "engines": list(self.names),
            "checkpoints": list(self.checkpoints),
            "notes": list(self.notes),
            **sections,
            "tensors": [
                {
                    "name": found.name,
                    "class": found.kind,
                    "schemes": list(found.schemes),
                    "methods": list(found.methods),
                    "snr_db": [_plain(ratio) for ratio in found.snr_db],
                }
                for found in self.tensors
            ],
            "files": {
                name: {"sha256": list(pair), "equal": pair[0] == pair[1]}
                for name, pair in self.files.items()
            },
        }


def compare(
    first: CertifiedEngine, second: CertifiedEngine, *, across_checkpoints: bool = False
) -> Difference:
    """Return how ``second`` differs from ``first``.

    Raises:
        EngineError: they are of different checkpoints, and ``across_checkpoints`` is not set.
    """
    engines = (first, second)
    one, other = (engine.certificate for engine in engines)
    checkpoints = (one.reference.checkpoint, other.reference.checkpoint)
    if checkpoints[0] != checkpoints[1] and not across_checkpoints:
        raise EngineError(
            f"{first.name} and {second.name} are of different checkpoints "
            f"({checkpoints[0][:16]}… and {checkpoints[1][:16]}…), each is compared with its own; "
            "pass --across-checkpoints to see their numbers side by side"
        )
    classes = [
        {summary.kind: summary for summary in by_class(engine.certificate.tensors)}
        for engine in engines
    ]
    return Difference(
        names=(first.name, second.name),
        checkpoints=checkpoints,
        notes=tuple(_notes(first, second)),
        recipe={key: pair for key, pair in _recipes(first, second).items() if pair[0] != pair[1]},
        metrics=_pairs(*map(_metrics, engines)),
        perplexity=_pairs(
            *(
                {text.kind: text.engine_perplexity for text in engine.certificate.texts}
                for engine in engines
            )
        ),
        bits=_pairs(*({kind: each.bits for kind, each in found.items()} for found in classes)),
        class_bytes=_pairs(
            *({kind: each.bytes for kind, each in found.items()} for found in classes)
        ),
        schemes=_pairs(
            *({kind: shares(each.schemes) for kind, each in found.items()} for found in classes)
        ),
        layers=_pairs(
            *(
                {str(layer.layer): layer.hidden_mean for layer in engine.certificate.layers}
                for engine in engines
            )
        ),
        routers=_pairs(
            *(
                {
                    str(layer.layer): layer.router_agreement
                    for layer in engine.certificate.layers
                    if layer.router_agreement is not None
                }
                for engine in engines
            )
        ),
        tensors=_compare_tensors(one.tensors, other.tensors),
        files=_pairs(*map(_hashes, engines)),
    )


def _pairs(first: Mapping[str, Value], second: Mapping[str, Value]) -> Pairs:
    """Return both values of each key that one of them has, in the first one's order."""
    pairs = {key: (first.get(key), second.get(key)) for key in {**first, **second}}
    return {key: pair for key, pair in pairs.items() if pair != (None, None)}


def _recipes(first: CertifiedEngine, second: CertifiedEngine) -> Pairs:
    if first.manifest is None or second.manifest is None:  # a certificate has only its precision
        precisions = (first.certificate.precision, second.certificate.precision)
        return {"precision": precisions}
    return _pairs(_flat(first.manifest.recipe), _flat(second.manifest.recipe))


def _flat(recipe: Mapping[str, object]) -> dict[str, Value]:
    """Return a recipe with one key a setting, such as ``schemes.attention``."""
    flat: dict[str, Value] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": str(item) for name, item in value.items()}
        else:
            flat[key] = str(value)
    return flat


def _metrics(engine: CertifiedEngine) -> dict[str, Value]:
    certificate = engine.certificate
    logits = certificate.logits
    return {
        "verdict": certificate.verdict,
        "quality": certificate.quality,
        "bytes": engine.size,
        "kl_mean": logits.kl_mean,
        "kl_p99": logits.kl_p99,
        "kl_max": logits.kl_max,
        "weights_only_kl": certificate.weights_only_kl,
        "lost_context": certificate.lost_context,
        "top1_agreement": logits.top1_agreement,
        "positions": logits.positions,
    }


def _hashes(engine: CertifiedEngine) -> dict[str, Value]:
    if engine.manifest is None:
        return {}
    return {name: info.sha256 for name, info in sorted(engine.manifest.files.items())}


def _notes(first: CertifiedEngine, second: CertifiedEngine) -> Iterable[str]:
    one, other = first.certificate, second.certificate
    if one.reference.checkpoint != other.reference.checkpoint:
        yield "of different checkpoints: each engine is compared with its own"
    if one.text != other.text:
        yield (
            f"compared on different text ({one.text.source}, {one.text.tokens:,} tokens; "
            f"{other.text.source}, {other.text.tokens:,} tokens)"
        )
    versions = _pairs(one.reference.versions, other.reference.versions)
    different = [
        f"{name} {before} and {after}" for name, (before, after) in versions.items()
        if before != after
    ]  # fmt: skip
    if different:
        yield f"compared with different versions: {', '.join(different)}"


def _compare_tensors(
    first: Iterable[Tensor], second: Iterable[Tensor]
) -> tuple[TensorDifference, ...]:
    before = {tensor.name: tensor for tensor in first}
    found = [
        TensorDifference(
            after.name,
            after.kind,
            (before[after.name].scheme, after.scheme),
            (before[after.name].method, after.method),
            (before[after.name].snr_db, after.snr_db),
        )
        for after in second
        if after.name in before
    ]
    changed = [
        each
        for each in found
        if each.change_db
        or each.schemes[0] != each.schemes[1]
        or each.methods[0] != each.methods[1]
    ]
    return tuple(sorted(changed, key=lambda each: (-abs(each.change_db), each.name)))


def _plain(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
