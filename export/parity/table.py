"""A comparison as plain text, for the terminal."""

from __future__ import annotations

import math

from trtcoder.bundle.certificate import Certificate
from trtcoder.bundle.comparison import Comparison, Gate
from trtcoder.bundle.quality import describe


def render_table(found: Comparison) -> str:
    """Return a comparison as plain text, about 80 columns wide, a line for each layer."""
    logits = found.logits
    lines = ["layer  hidden error: mean      max    router: agree   ties  after  wrong"]
    for layer in found.layers:
        line = f"{layer.layer:5d}        {layer.hidden_mean:12.2e} {layer.hidden_max:8.2e}"
        if layer.router_agreement is not None:
            line += f"        {layer.router_agreement:8.3%} {layer.router_ties:6d} "
            line += f"{layer.router_after_tie:6d} {layer.router_wrong:6d}"
        lines.append(line)
    lines += [
        "",
        f"logits of {logits.positions} positions: max-abs {logits.max_abs:.2e}, "
        f"relative {logits.relative_error:.2e}",
        f"KL (nats): mean {logits.kl_mean:.3e}, p99 {logits.kl_p99:.3e}, max {logits.kl_max:.3e}",
        f"top-1: {logits.top1_agreement:.3%} agree, {logits.top1_ambiguous} ambiguous, "
        f"{logits.top1_wrong} wrong",
        "",
        "text    tokens   perplexity: reference   engine   nats/byte: reference   engine",
    ]
    lines += [
        f"{text.kind:7s} {text.tokens:6d}   {text.reference_perplexity:21.4f} "
        f"{text.engine_perplexity:8.4f}   {_shown(text.reference_nats_per_byte):>20s} "
        f"{_shown(text.engine_nats_per_byte):>8s}"
        for text in found.texts
    ]
    lines.append("")
    for gate in found.gates:
        outcome = {True: "pass", False: "FAIL", None: "stated"}[gate.passed]
        limit = "no limit" if gate.limit is None else f"limit {shown(gate, gate.limit)}"
        lines.append(f"{outcome:6s} {gate.name}: {shown(gate, gate.measured)} ({limit})")
    lines.append(f"verdict for {found.precision}: {found.verdict}")
    if found.quality is not None:
        lines.append(describe(found.quality, found.lost_context))
    return "\n".join(lines)


def render_certificate(certificate: Certificate) -> str:
    """Return a certificate's comparison as a table."""
    table = render_table(certificate)
    if certificate.weights_only_kl is None:
        return table
    return f"{table}\nKL with float32 activations: {certificate.weights_only_kl:.3g}"


def shown(gate: Gate, value: float) -> str:
    """Return a gate's value or limit: a share in percent, a count in full."""
    if gate.name.startswith("share of"):
        return f"{value:.3g}" if not math.isfinite(value) else f"{value:.2%}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
