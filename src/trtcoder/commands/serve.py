"""`trtcoder serve`: HTTP from one or several engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trtcoder.commands import engine_options
from trtcoder.refusals import reason


def _from_file(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Take options from a TOML file; those of the command line and the environment go first."""
    if path is None:
        return None
    import tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: cannot be read ({reason(error)})") from error
    known = {each.name for each in context.command.params}
    values = {key.replace("-", "_"): value for key, value in found.items()}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise click.BadParameter(f"{path}: unknown {', '.join(unknown)}")
    context.default_map = {**(context.default_map or {}), **values}
    return path


@click.command(context_settings={"auto_envvar_prefix": "TRTCODER_SERVE"})
@click.argument("engines", nargs=-1, metavar="ENGINE…", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    callback=_from_file,
    is_eager=True,
    help="A TOML file of these options.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="Keys that requests must show, one a line.",
)
@click.option(
    "--insecure", is_flag=True, help="Let everybody in on addresses that others can reach."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Threads.  [default: the cores that may be used]",
)
@engine_options.CONTEXT
@engine_options.CACHE_TOKENS
@engine_options.MAX_BATCH
@engine_options.MAX_QUEUE
@engine_options.MAX_ANSWER_TOKENS
@click.option(
    "--max-body-mib",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Larger request bodies are refused.",
)
@click.option(
    "--gap",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    help="Seconds that a chunk of a prompt may delay running answers.",
)
@click.option(
    "--keep-alive",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds of silence after which a stream gets a comment or a ping.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that running answers may go on after SIGTERM.",
)
@engine_options.DETERMINISTIC
@engine_options.SPECULATE
@engine_options.NO_PREFIX_CACHE
@click.option(
    "--prefix-store",
    type=click.Path(path_type=Path),
    help="A folder in which long prefixes outlive the process, each key's apart.",
)
@click.option(
    "--prefix-store-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="That it may take, for each engine.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    help="A browser's origin that may call. Repeatable.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    help="A name beside localhost that requests may use on loopback. Repeatable.",
)
@click.option(
    "--no-rendered-fim",
    is_flag=True,
    help="Markers of FIM that a client writes into a raw prompt are text.",
)
@click.option(
    "--fim-heal/--no-fim-heal",
    default=None,
    help="Filling in the middle chooses the last token before the cursor again.  "
    "[default: where the line is anchored]",
)
@click.option("--fim-anchored", is_flag=True, help="The line of the cursor belongs to the middle.")
@click.option(
    "--fim-trim-suffix",
    is_flag=True,
    help="The end of a middle that repeats what is behind the hole is left out.",
)
@click.option("--fim-single-line", is_flag=True, help="A middle ends at the first line break.")
@click.option(
    "--no-page",
    is_flag=True,
    help="Without the page for browsers at /.",
)
@click.option(
    "--otel-endpoint",
    metavar="URL",
    help="Send OpenTelemetry spans there, by OTLP over HTTP.  "
    "[default: where OTEL_EXPORTER_OTLP_ENDPOINT says]",
)
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="How the log is written; it never holds prompts or answers.",
)
def serve(engines: tuple[Path, ...], config: Path | None, **values: Any) -> None:
    """Serve the engines in folders ENGINE… over HTTP.

    Speaks OpenAI's dialect and others; /docs lists all. Each option can also be given as an
    environment variable, such as TRTCODER_SERVE_PORT, or in a TOML file.
    """
    if not engines:
        raise click.UsageError("Missing argument 'ENGINE…'.")
    from trtcoder.runtime.engine.settings import EngineSettings
    from trtcoder.runtime.server.fim.options import FimDefaults
    from trtcoder.runtime.server.run import run_server
    from trtcoder.runtime.server.settings import MIB, ServerSettings, read_api_keys

    key_file = values["api_key_file"]
    server = ServerSettings(
        host=values["host"],
        port=values["port"],
        api_keys=read_api_keys(Path(key_file)) if key_file else (),
        insecure=values["insecure"],
        max_body_bytes=values["max_body_mib"] * MIB,
        max_answer_tokens=values["max_answer_tokens"],
        keep_alive_seconds=values["keep_alive"],
        drain_seconds=values["drain"],
        cors_origins=tuple(values["cors_origins"]),
        hosts=tuple(values["hosts"]),
        rendered_fim=not values["no_rendered_fim"],
        fim=FimDefaults(
            heal=values["fim_heal"],
            anchored=values["fim_anchored"],
            trim_suffix=values["fim_trim_suffix"],
            single_line=values["fim_single_line"],
        ),
        page=not values["no_page"],
        otel_endpoint=values["otel_endpoint"],
    )
    engine = EngineSettings(
        threads=values["threads"],
        context=values["context"],
        cache_tokens=values["cache_tokens"],
        max_batch=values["max_batch"],
        max_queue=values["max_queue"],
        gap_seconds=values["gap"],
        deterministic=values["deterministic"],
        speculate=values["speculate"],
        prefix_cache=not values["no_prefix_cache"],
        prefix_store=values["prefix_store"],
        prefix_store_bytes=round(values["prefix_store_gib"] * (1 << 30)),
    )
    run_server(engines, server, engine, log_format=values["log_format"])
