"""The tables of docs/serving.md, from what was measured."""

from __future__ import annotations

from typing import Any

from benchmarks.record import hardware

Result = dict[str, Any]


def startup_line(result: Result) -> str:
    """Return how long a start takes."""
    seconds = result["seconds"]
    return (
        f"From the start of `trtcoder serve` on the {result['engine']} engine to the first 200 of "
        f"`/health/ready`: {result['median']:.2f} s, the median of {len(seconds)} starts "
        f"({seconds[0]:.2f} to {seconds[-1]:.2f}; `make bench-startup`; "
        f"{hardware(result['environment'])})."
    )


def load_table(result: Result) -> str:
    """Return rates and latencies of many streams, beside llama-server's."""
    lines = [
        f"`make load` ({hardware(result['environment'])}; llama-server of "
        f"{result['llama.cpp']['package']}, one slot a client, {result['context']} tokens each). "
        "Medians of the rounds, in which the servers take turns; times in ms.",
        "",
        "| model | clients | server | tokens/s | first token p50 / p95 | between tokens p50 / p95 "
        "/ p99 | streams that differ |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, model in result["models"].items():
        for row in model["rows"]:
            differing = f"{row['differing']} of {row['streams']}" if "streams" in row else ""
            lines.append(
                f"| {name} | {row['clients']} | {row['server']} | {row['tokens_per_second']:,.0f} "
                f"| {row['first_p50']:,.0f} / {row['first_p95']:,.0f} | {row['gap_p50']:.1f} / "
                f"{row['gap_p95']:.1f} / {row['gap_p99']:.1f} | {differing} |"
            )
    return "\n".join(lines)


def keystrokes_table(result: Result) -> str:
    """Return what an editor waits for, beside llama-server's `/infill`."""
    lines = [
        f"`make keystrokes` ({hardware(result['environment'])}): {result['answer_tokens']} tokens "
        "for each keystroke of a session that types, deletes and moves; times in ms.",
        "",
        "| model | file | server | first text p50 / p95 | whole p50 / p95 | prompt tokens "
        "| cached | computed p50 / p95 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, model in result["models"].items():
        for server, row in model["rows"].items():
            lines.append(
                f"| {name} | {model['lines']} lines | {server} | {row['first_p50']:,.0f} / "
                f"{row['first_p95']:,.0f} | {row['whole_p50']:,.0f} / {row['whole_p95']:,.0f} "
                f"| {row['prompt_tokens']:,} | {row['cached_share']:.1%} "
                f"| {row['computed_p50']:,.0f} / {row['computed_p95']:,.0f} |"
            )
    return "\n".join(lines)


def overhead_table(result: Result) -> str:
    """Return what the core and HTTP cost beside the session alone."""
    lines = [
        f"`make bench-overhead` ({hardware(result['environment'])}): tokens a second of the ONNX "
        "Runtime session in a loop, of the core (schedule, run, sample, text), and of streams over "
        "HTTP, whose clients run on the same cores; in brackets what a step costs beside the "
        "session.",
        "",
        "| engine | streams | session | core | HTTP |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in result["engines"].items():
        for row in rows:
            cells = [f"{row['session_tokens_per_second']:,.0f}"]
            cells += [
                f"{row[f'{way}_tokens_per_second']:,.0f}, {-row[f'{way}_overhead']:+.1%} "
                f"({row[f'{way}_step_us']:+,.0f} µs)"
                for way in ("core", "http")
            ]
            lines.append(f"| {name} | {row['clients']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speculation_table(result: Result) -> str:
    """Return what drafts gain and cost, by what the answers say."""
    lines = [
        f"`make bench-speculation` ({hardware(result['environment'])}): tokens a second of the "
        f"engine's loop behind prompts of {result['prompt_tokens']} tokens, without drafts and "
        "with; medians of rounds in which the two take turns, and of their ratios (in brackets the "
        "least and the most); tokens that an answer gets a step.",
        "",
        "| engine | streams | the answers are | without | with | ratio | tokens a step |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in result["engines"].items():
        for row in rows:
            lines.append(
                f"| {name} | {row['streams']} | {row['workload']} | {row['without']:,.0f} "
                f"| {row['with']:,.0f} | {row['gain']:.2f} ({row['gains'][0]:.2f} to "
                f"{row['gains'][-1]:.2f}) | {row['tokens_a_step']:.2f} |"
            )
    return "\n".join(lines)


def sampler_table(result: Result) -> str:
    """Return what choosing a token costs."""
    rows = list(next(iter(result["ms_a_row"].values())))
    lines = [
        f"`make bench-sampler` ({hardware(result['environment'])}): ms a row of "
        f"{result['vocabulary']:,} logits, for steps of so many rows.",
        "",
        f"| asked for | {' | '.join(rows)} |",
        f"| --- |{' ---: |' * len(rows)}",
    ]
    for name, found in result["ms_a_row"].items():
        lines.append(f"| {name} | {' | '.join(f'{found[row]:.2f}' for row in rows)} |")
    return "\n".join(lines)


def chaos_table(result: Result) -> str:
    """Return what a server went through, and what held."""
    lines = [
        f"`make chaos` ({hardware(result['environment'])}); every text is compared with the "
        "library's offline one:",
        "",
        "| what | outcome |",
        "| --- | --- |",
    ]
    for name, part in result["parts"].items():
        said = {key: value for key, value in part.items() if key not in ("passed", "requests")}
        requests = part.get("requests")
        told = [f"{sum(requests.values()):,} requests ({_listed(requests)})"] if requests else []
        told += [f"{key.replace('_', ' ')} {_shown(key, value)}" for key, value in said.items()]
        verdict = "held" if part["passed"] else "**did not hold**"
        lines.append(f"| {name} | {verdict}: {'; '.join(told)} |")
    return "\n".join(lines)


def fim_table(result: Result) -> str:
    """Return what options of filling in do to what is written, and to what is computed."""
    kinds = ("line start", "word start", "inside a word", "all")
    columns = [("line", "all"), *(("word", kind) for kind in kinds)]
    sessions = ("fits", "is cut")
    names = [
        "whole line",
        *(f"word, {kind}" for kind in kinds),
        *(f"cached, file {place}" for place in sessions),
    ]
    lines = [
        f"`make bench-fim` (int4 demo engine; {hardware(result['environment'])}): of "
        f"{result['items']} holes in functions that the demo model was trained on, the share whose "
        "middle is the line's whole end, and the share that begins with the word at the cursor, by "
        "where the cursor is; and the share of a prompt that a keystroke finds in the cache "
        "(tokens computed, p50 / p95).",
        "",
        f"| options | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    for name, row in result["modes"].items():
        cells = [f"{row['exact'][measure][kind]:.1%}" for measure, kind in columns]
        cells += [
            f"{row[place]['cached_share']:.1%} ({row[place]['computed_p50']} / "
            f"{row[place]['computed_p95']})"
            if place in row
            else ""
            for place in sessions
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def batching_table(result: Result) -> str:
    """Return how many texts change with what else is asked."""
    variants = list(next(iter(result["changed"].values())))
    lines = [
        f"`make bench-batching` (demo model; {hardware(result['environment'])}): greedy answers of "
        f"{result['tokens']} tokens, of {result['prompts']}, that are not those of the same prompt "
        "asked alone.",
        "",
        f"| engine | {' | '.join(variants)} |",
        f"| --- |{' ---: |' * len(variants)}",
    ]
    for name, row in result["changed"].items():
        lines.append(f"| {name} | {' | '.join(map(str, row.values()))} |")
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def _shown(key: str, value: Any) -> str:
    if key == "growth":
        return f"{value:+.2%}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


CANCELLING = {
    "grpc_stream": "a stream over gRPC",
    "grpc_unary": "a unary call over gRPC",
    "http_stream": "`/generate_stream`",
}


def triton_table(result: Result) -> str:
    """Return what a token costs inside Triton beside the engine's own loop."""
    lines = [
        f"`make bench-triton` ({hardware(result['environment'])}; the server of "
        f"{result['server'].replace('==', ' ')}): tokens a second of the engine's loop alone, and "
        "of streams whose clients run on the same cores; in brackets what a token costs beside "
        "the loop.",
        "",
        "| engine | streams | loop | gRPC | `/generate_stream` | `tensorrt_llm_bls`, gRPC |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, engine in result["engines"].items():
        for row in engine.get("rows", ()):
            cells = [f"{row['core_tokens_per_second']:,.0f}"]
            cells += [
                f"{row[f'{way}_tokens_per_second']:,.0f} ({row[f'{way}_token_us']:+,.0f} µs)"
                for way in ("grpc", "http", "older")
            ]
            lines.append(f"| {name} | {row['streams']} | {' | '.join(cells)} |")
    left = "; ".join(
        f"{name} {times[len(times) // 2]:.0f} (longest {times[-1]:.0f}) by {CANCELLING[way]}"
        for name, engine in result["engines"].items()
        for way, times in engine.get("cancel_ms", {}).items()
    )
    lines += [
        "",
        "From a client's leaving to the first token of the one that waited for its place, ms, "
        f"medians of 10: {left}.",
    ]
    return "\n".join(lines)


PARTS = {
    "fim": fim_table,
    "batching": batching_table,
    "startup": startup_line,
    "load": load_table,
    "keystrokes": keystrokes_table,
    "overhead": overhead_table,
    "speculation": speculation_table,
    "sampler": sampler_table,
    "triton": triton_table,
    "chaos": chaos_table,
}
