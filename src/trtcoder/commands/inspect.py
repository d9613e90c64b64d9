"""`trtcoder inspect`: what an engine folder holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from trtcoder.bundle.folder import Bundle
from trtcoder.bundle.onnx import OnnxParts


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def inspect(engine: Path, as_json: bool) -> None:
    """Check an engine folder against its manifest and show what it holds."""
    bundle = Bundle.load(engine)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(bundle.manifest), ensure_ascii=False, indent=2))
        return
    for label, value in describe(bundle):
        click.echo(f"{label:<14}{value}")


def describe(bundle: Bundle) -> list[tuple[str, str]]:
    """Return the table's rows."""
    manifest = bundle.manifest
    model, recipe = manifest.model, manifest.recipe
    able = [name for name, value in dataclasses.asdict(manifest.capabilities).items() if value]
    rows = [
        ("model", model.name),
        ("target", f"{manifest.target}, format {manifest.format}, trtcoder {manifest.trtcoder}"),
        ("source", f"{manifest.source.dtype}, sha256 {manifest.source.digest[:16]}…"),
        ("weights", ", ".join(f"{key} {value}" for key, value in recipe.items() if value != {})),
        ("capabilities", ", ".join(able)),
        ("context", f"{model.max_positions:,} tokens"),
        ("vocabulary", f"{model.vocab_size:,} tokens"),
    ]
    if manifest.onnx is not None:
        rows += _of_onnx(manifest.onnx)
    if manifest.parity is not None:
        rows.append(
            ("parity", ", ".join(f"{key} {value}" for key, value in manifest.parity.items()))
        )
    rows += [
        ("file", f"{name}  {info.bytes:,} bytes  sha256 {info.sha256[:16]}…")
        for name, info in sorted(manifest.files.items())
    ]
    return rows


def _of_onnx(parts: OnnxParts) -> list[tuple[str, str]]:
    size = sum(cache.width * (4 if cache.dtype == "float32" else 1) for cache in parts.graph.caches)
    requires = parts.requires
    return [
        ("cache", f"{size:,} bytes a token"),
        ("requires", f"onnxruntime {requires.onnxruntime}, {requires.provider}"),
    ]
