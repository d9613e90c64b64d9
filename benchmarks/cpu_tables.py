"""The tables of README.md and docs/performance.md of a whole Lite beside llama.cpp."""

from __future__ import annotations

from typing import Any

from benchmarks.cpu_names import INT8, KERNELS, REST, STOCK
from benchmarks.record import hardware

Result = dict[str, Any]
# Row -> the ratio to the best of llama.cpp that was aimed at, on AVX2, and on AVX-512 and AMX.
GOALS = {
    "decode at 0": (1.35, 1.1),
    "decode at 2048": (1.6, 2.0),
    "decode at 8192": (2.0, 3.0),
    "prefill 512": (2.6, 5.0),
    "8 sequences at 64": (2.0, 2.2),
    "8 sequences at 512": (2.0, 3.0),
}
# Roles of nodes with less of every step are one row of the table.
SMALL = 0.01
LOAD_GOAL, MEMORY_GOAL, LIMIT_GOAL = 2.0, 1.1, 0.9


def best_peer(result: Result, row: str) -> str:
    """Return the setting of llama.cpp that was the fastest at a row."""
    speeds: dict[str, dict[str, float]] = result["tokens_per_second"]
    peers = [name for name in speeds if name.startswith("llama.cpp")]
    return max(peers, key=lambda name: speeds[name][row])


def heading(result: Result) -> str:
    """Return what was measured, and on what."""
    isa = result["runs_on"].rpartition(", ")[2]
    limit = result.get("limited_to")
    kernels = f"both programs limited to {limit}" if limit else f"our kernels: {isa}"
    command = f"make bench-cpu ARGS='--isa {limit}'" if limit else "make bench-cpu"
    return (
        f"A Lite of full width and {result['layers']} layers, random weights, int4 in blocks of 32 "
        f"({result['engine_bytes'] / 1e9:.1f} GB), beside llama.cpp (`{command}`; "
        f"{hardware(result['environment'])}; {kernels}; {result['rounds']} "
        f"round{'s' * (result['rounds'] > 1)}, of which medians)"
    )


def verdict(value: float, goal: float, *, at_most: bool = False) -> str:
    """Return whether a goal is met."""
    is_met = value <= goal if at_most else value >= goal
    return f"{'≤' if at_most else '≥'} {goal:g}: {'met' if is_met else '**missed**'}"


def goals_table(result: Result) -> str:
    """Return the goals and what became of them."""
    speeds, ratios = result["tokens_per_second"], result["ratio_to_best_of_llama_cpp"]
    which = 0 if result["runs_on"].endswith("avx2") else 1
    with_int8 = INT8 in ratios
    lines = [
        f"{heading(result)}. Tokens a second, the ratio to the best setting of llama.cpp in the "
        "same round, and what it would be at the limit of the machine's memory and products:",
        "",
        f"| | ours | llama.cpp | ratio |{' with an int8 cache |' * with_int8} at the limit "
        "| goal |",
        f"| --- | ---: | ---: | ---: |{' ---: |' * with_int8} ---: | --- |",
    ]
    for row, goals in GOALS.items():
        if row not in ratios[KERNELS]:
            continue
        ratio, goal = ratios[KERNELS][row], goals[which]
        peer = speeds[best_peer(result, row)][row]
        cells = f"| {row} | {speeds[KERNELS][row]:,.1f} | {peer:,.1f} | {ratio:.2f} |"
        outcome = verdict(ratio, goal)
        if with_int8:
            cells += f" {ratios[INT8][row]:.2f} |"
            if ratio < goal <= ratios[INT8][row]:
                outcome = f"{verdict(ratios[INT8][row], goal)} with an int8 cache"
        lines.append(f"{cells} {result['limits'][row]['limit'] / peer:.2f} | {outcome} |")
    rss = result["peak_rss_mb"][KERNELS] * 2**20 / result["engine_bytes"]
    peers = [name for name in result["load_seconds"] if name.startswith("llama.cpp")]
    quickest = min(peers, key=lambda name: result["load_seconds"][name])
    leanest = min(peers, key=lambda name: _rss_share(result, name))
    empty = " |" * (2 + with_int8)
    load = result["load_seconds"][KERNELS]
    lines.append(
        f"| load, file in memory, s | {load:.2f} | {result['load_seconds'][quickest]:.2f} |{empty} "
        f"{verdict(load, LOAD_GOAL, at_most=True)} |"
    )
    lines.append(
        f"| peak memory over file size | {rss:.2f} | {_rss_share(result, leanest):.2f} |{empty} "
        f"{verdict(rss, MEMORY_GOAL, at_most=True)} |"
    )
    if "decode at 0" in result["limits"]:
        share = result["limits"]["decode at 0"]["share"]
        lines.append(
            f"| decode at 0 over what memory allows | {share:.2f} | |{empty} "
            f"{verdict(share, LIMIT_GOAL)} |"
        )
    return "\n".join(lines)


def _rss_share(result: Result, name: str) -> float:
    kind = name.removeprefix("llama.cpp ").partition(",")[0]
    share: float = result["peak_rss_mb"][name] * 2**20 / result["gguf_bytes"][kind]
    return share


def cpu_table(result: Result) -> str:
    """Return every row: all programs, the ratios, and how far we are from the machine's limit."""
    speeds, ratios = result["tokens_per_second"], result["ratio_to_best_of_llama_cpp"]
    columns = [name for name in (KERNELS, INT8, STOCK) if name in speeds]
    titles = {KERNELS: "ours", INT8: "int8 cache", STOCK: "ONNX Runtime's operators"}
    peaks = result["peaks"]
    int8 = ", ".join(f"{name} {each / 1e12:.2f}" for name, each in peaks["int8"].items())
    lines = [
        f"{heading(result)}. Tokens a second. The machine reads {peaks['read'] / 1e9:.1f} GB/s and "
        f"makes at most so many 10^12 int8 operations a second: {int8}, measured in the same run; "
        "a row's limit is what these allow for the weights and the cache that it reads and the "
        "products that it makes.",
        "",
        f"| | {' | '.join(titles[name] for name in columns)} | llama.cpp, best | its setting "
        f"| {' | '.join(f'ratio, {titles[name]}' for name in columns if name in ratios)} "
        "| limit | by | reached |",
        f"| --- |{' ---: |' * len(columns)} ---: | --- |{' ---: |' * len(ratios)} ---: | --- "
        "| ---: |",
    ]
    for row, limit in result["limits"].items():
        best = best_peer(result, row)
        cells = [row, *(f"{speeds[name][row]:,.1f}" for name in columns)]
        cells += [f"{speeds[best][row]:,.1f}", best.removeprefix("llama.cpp ")]
        cells += [f"{ratios[name][row]:.2f}" for name in columns if name in ratios]
        cells += [f"{limit['limit']:,.1f}", limit["by"], f"{limit['share']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | load, s | peak memory, MB | over its file |", "| --- | ---: | ---: | ---: |"]
    for name in speeds:
        share = (
            _rss_share(result, name)
            if name.startswith("llama.cpp")
            else result["peak_rss_mb"][name] * 2**20 / result["engine_bytes"]
        )
        lines.append(
            f"| {name} | {result['load_seconds'][name]:.2f} | {result['peak_rss_mb'][name]:,.0f} "
            f"| {share:.2f} |"
        )
    for name, why in result["failed"].items():
        lines.append(f"| {name} | {why} | | |")
    return "\n".join(lines)


def profile_table(result: dict[str, Any]) -> str:
    """Return the page's table."""
    rows: dict[str, dict[str, float]] = result["milliseconds"]
    totals = {row: sum(found.values()) for row, found in rows.items()}
    roles = list(dict.fromkeys(role for found in rows.values() for role in found))
    small = [
        role
        for role in roles
        if role != REST
        and all(found.get(role, 0) < SMALL * totals[row] for row, found in rows.items())
    ]
    lines = [
        f"`python -m benchmarks.cpu_profile` ({hardware(result['environment'])}; a Lite of "
        f"{result['layers']} layers): milliseconds a step, those of all layers together.",
        "",
        f"| | {' | '.join(rows)} |",
        f"| --- |{' ---: |' * len(rows)}",
    ]
    shown: dict[str, list[str]] = {role: [role] for role in roles if role not in small}
    shown[f"{len(small)} others"] = small
    for name, members in shown.items():
        sums = [sum(found.get(role, 0) for role in members) for found in rows.values()]
        label = name if name == REST or members == small else f"`{name}`"
        lines.append(f"| {label} | {' | '.join(f'{value:,.2f}' for value in sums)} |")
    lines.append(f"| **a step** | {' | '.join(f'{total:,.2f}' for total in totals.values())} |")
    return "\n".join(lines)


def contention_table(result: dict[str, Any]) -> str:
    """Return the page's table."""
    lines = [
        f"`make bench-contention` ({hardware(result['environment'])}; a Lite of "
        f"{result['layers']} layers; medians of {result['rounds']} turns): decoded tokens a second "
        f"at {result['context']} tokens of context, and what is left of the speed alone.",
        "",
        "| | alone | beside one busy process | beside two |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, rows in result["tokens_per_second"].items():
        alone, *others = rows.values()
        cells = [f"{value:.1f} ({value / alone:.0%})" for value in others]
        lines.append(f"| {name} | {alone:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)
