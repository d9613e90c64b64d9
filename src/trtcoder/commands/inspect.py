"""`trtcoder inspect`: what an engine folder holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtcoder.commands.terminal import print_json, show
from trtcoder.errors import EngineError

if TYPE_CHECKING:
    from trtcoder.bundle.compiled import CompiledParts
    from trtcoder.bundle.folder import Bundle
    from trtcoder.bundle.manifest import Manifest, SamplingDefaults
    from trtcoder.bundle.onnx import OnnxParts
    from trtcoder.bundle.quantized import QuantizedParts


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def inspect(engine: Path, as_json: bool) -> None:
    """Check an engine folder against its manifest and show what it holds."""
    from trtcoder.bundle.folder import Bundle
    from trtcoder.tables import render_table

    bundle = Bundle.load(engine)
    if as_json:
        print_json(dataclasses.asdict(bundle.manifest), indent=2)
        return
    manifest = bundle.manifest
    files = [
        [name, f"{info.bytes:,}", f"{info.sha256[:16]}…"]
        for name, info in sorted(manifest.files.items())
    ]
    show(render_table(describe(bundle), left=(0, 1)))
    show("")
    show(render_table(files, header=["file", "bytes", "sha256"], left=(0, 2)))


def describe(bundle: Bundle) -> list[tuple[str, str]]:
    """Return what the manifest says, by name."""
    from trtcoder.report.statements import recipe

    manifest = bundle.manifest
    able = [name for name, value in dataclasses.asdict(manifest.capabilities).items() if value]
    parts = dict(recipe(manifest.recipe))
    weights = parts.pop("weights", "unknown")
    return [
        ("model", manifest.model.name),
        ("target", f"{manifest.target}, format {manifest.format}, trtcoder {manifest.trtcoder}"),
        ("source", f"{manifest.source.dtype}, sha256 {manifest.source.digest[:16]}…"),
        ("weights", weights),
        *parts.items(),
        ("capabilities", ", ".join(able)),
        ("context", f"{manifest.model.max_positions:,} tokens"),
        ("vocabulary", f"{manifest.model.vocab_size:,} tokens"),
        ("stops at", ", ".join(_named(bundle, manifest.tokens.eos))),
        ("chat", _chat(manifest)),
        ("sampling", _sampling(manifest.sampling)),
        *(() if manifest.onnx is None else _of_onnx(manifest.onnx)),
        *(() if manifest.quantized is None else _of_quantized(manifest.quantized)),
        *(() if manifest.compiled is None else _of_compiled(manifest.compiled)),
        ("parity", _parity(manifest.parity)),
    ]


def _named(bundle: Bundle, tokens: Iterable[int]) -> list[str]:
    """Return tokens as their ids and texts; without a tokenizer as their ids."""
    from trtcoder.prompting.tokenizer import TextTokenizer

    try:
        known = TextTokenizer.load(bundle.tokenizer_path, bundle.manifest.tokens.ids()).control
    except EngineError:
        return list(map(str, tokens))
    texts = {id_: text for text, id_ in known.items()}
    return [f"{token} {texts[token]}" if token in texts else str(token) for token in tokens]


def _chat(manifest: Manifest) -> str:
    """Return how prompts of a chat are made."""
    if manifest.chat_template is not None:
        return f"by the template {manifest.chat_template.file}"
    if manifest.chat_format is not None:
        return "by the parts of its template"
    return f"none: {manifest.chat_refusal or 'the checkpoint has no chat template'}"


def _sampling(defaults: SamplingDefaults) -> str:
    """Return the checkpoint's own defaults."""
    given = [
        f"{name} {value}"
        for name, value in dataclasses.asdict(defaults).items()
        if value is not None
    ]
    return f"{', '.join(given)} (the checkpoint's defaults)" if given else "no defaults"


def _of_onnx(parts: OnnxParts) -> list[tuple[str, str]]:
    from trtcoder.bundle.onnx import CUDA
    from trtcoder.plugins.choice import choose

    requires = parts.requires
    size = sum(cache.row_nbytes for cache in parts.graph.caches)

    return [
        ("runs on" if requires.provider == CUDA else "here it runs on", str(choose(parts))),
        ("cache bytes", f"{size:,} a token"),
        ("requires", f"{requires.package} {requires.onnxruntime}, {requires.provider}"),
    ]


def _of_quantized(parts: QuantizedParts) -> list[tuple[str, str]]:
    return [
        ("form", parts.form),
        ("served by", f"{', '.join(parts.readers)}; see README.md and launch/ in it"),
        ("stays in bf16", ", ".join(parts.excluded)),
    ]


def _of_compiled(parts: CompiledParts) -> list[tuple[str, str]]:
    from trtcoder.tensorrt_rtx.gpus import GPUS

    gpus = [f"{each} ({GPUS.get(each, 'unknown')})" for each in parts.compute_capabilities]
    streamed = ", weights may stay in the host's memory" if parts.weight_streaming else ""
    return [
        ("compiled for", f"{', '.join(gpus)}{streamed}"),
        ("compiled by", ", ".join(f"{name} {found}" for name, found in parts.builder.items())),
        ("plans", f"{len(parts.plans)}, the last one is the head"),
        (
            "at once",
            f"{parts.slots} answers of {parts.context:,} tokens, {parts.chunk} of a prompt",
        ),
    ]


def _parity(found: Mapping[str, object] | None) -> str:
    """Return the certificate's outcome in words."""
    if found is None:
        return "not compared with a reference"
    rest = dict(found)
    words = [str(rest.pop(key)) for key in ("verdict", "quality") if key in rest]
    kl, top1, tokens = (rest.pop(key, None) for key in ("kl_mean", "top1_agreement", "tokens"))
    if isinstance(kl, float):
        words.append(f"KL mean {kl:.3g} nats")
    if isinstance(top1, float):
        words.append(f"top-1 {top1:.1%}")
    if isinstance(tokens, int):
        words.append(f"{tokens:,} tokens")
    return ", ".join(words + [f"{key} {value}" for key, value in rest.items()])
