"""`hanlin serve`: serve models over HTTP with any engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.commands.serving.shared_options import (
    Adapters,
    AllowedHosts,
    ApiKey,
    ApiKeyFiles,
    BasePath,
    ContextLength,
)
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson, EngineName, tell_edits
from hanlin.cli.output import echo, print_json
from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, tr

if TYPE_CHECKING:
    from hanlin.serve.server import Extension

app = new_app()


@command(
    app,
    tr("There is a plain API too. Options after -- are passed to vLLM or llama-server."),
)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help=tr("models, adapters or GGUF; NAME=PATH names one"),
        ),
    ],
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    engine: EngineName = "auto",
    llama_server: Annotated[
        list[str],
        typer.Option(help=tr("a llama-server program to start, or the address of a running one; may repeat")),
    ] = [],
    vllm: Annotated[
        list[str],
        typer.Option(help=tr("a vLLM program to start, or the address of a running one; may repeat")),
    ] = [],
    replicas: Annotated[int, typer.Option(min=1, help=tr("number of vLLM processes to start"))] = 1,
    tensor_parallel: Annotated[int, typer.Option(min=1, help=tr("GPUs that divide each layer, of each vLLM"))] = 1,
    pipeline_parallel: Annotated[
        int,
        typer.Option(min=1, help=tr("groups of layers on their own GPUs, of each vLLM")),
    ] = 1,
    adapter: Adapters = [],
    context_length: ContextLength = 0,
    threads: Annotated[
        int,
        typer.Option(min=0, help=tr("CPU threads of llama.cpp; 0: automatic")),
    ] = 0,
    api_key: ApiKey = [],
    api_key_file: ApiKeyFiles = [],
    api_keys: Annotated[
        Path | None,
        typer.Option(help=tr("YAML file of API keys with limits")),
    ] = None,
    allow_host: AllowedHosts = [],
    allow_origin: Annotated[
        list[str],
        typer.Option(help=tr("origin of web pages that may use the server (CORS); may repeat")),
    ] = [],
    base_path: BasePath = "",
    unix_socket: Annotated[
        Path | None,
        typer.Option(help=tr("listen on a Unix socket, for its owner alone, instead of --host and --port")),
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help=tr("serve the chat page too, at /ui"))] = False,
    ui_folder: Annotated[
        Path, typer.Option(help=tr("folder of the page, in which it keeps conversations (ui/)"))
    ] = Path("."),
    parallel: Annotated[int, typer.Option(min=1, help=tr("answers at once"))] = 16,
    queue: Annotated[int, typer.Option(min=0, help=tr("most requests that wait"))] = 64,
    deadline: Annotated[float, typer.Option(min=1, help=tr("time limit of a request, in seconds"))] = 600,
    drain: Annotated[float, typer.Option(min=1, help=tr("seconds to finish answers when stopping"))] = 30,
    max_connections: Annotated[int, typer.Option(min=1, help=tr("most open connections"))] = 1000,
    max_connections_per_client: Annotated[
        int, typer.Option(min=1, help=tr("most open connections of one address; a reverse proxy is one"))
    ] = 256,
    max_body: Annotated[int, typer.Option(min=1, help=tr("most MiB of a request body"))] = 8,
    max_output_tokens: Annotated[int, typer.Option(min=0, help=tr("most tokens of an answer; 0: the context"))] = 0,
    as_json: AsJson = False,
) -> None:
    from hanlin.serve.admission import Limits
    from hanlin.serve.auth import read_key_file, read_keys
    from hanlin.serve.server import serve as run_server

    if unix_socket is not None and (host, port) != ("127.0.0.1", 8000):
        raise UserError(tr("--unix-socket is instead of --host and --port"), unix_socket, tr("name one"))
    start = next((index for index, word in enumerate(models) if word.startswith("-")), len(models))
    models, arguments = models[:start], models[start:]
    chosen = choose_engine(engine, llama_server, vllm)
    options: dict[str, Any] = {"context_length": context_length} if context_length else {}
    if threads:
        options["threads"] = threads
    running = next((server for server in (*llama_server, *vllm) if "://" in server), "")
    counts = {"--threads": threads, "--replicas": replicas - 1, "--tensor-parallel": tensor_parallel - 1,
              "--pipeline-parallel": pipeline_parallel - 1, "--": len(arguments)}  # fmt: skip
    if running and (idle := [option for option, count in counts.items() if count]):
        what = tr("this is for a program that is started here, and {server} runs already", server=running)
        raise UserError(what, idle[0], tr("set it where that was started, or leave it out"), "usage")
    if chosen in ("llama_server", "vllm"):
        options |= {"at": llama_server or ["llama-server"]} if chosen == "llama_server" else {"at": vllm}
        options |= {"arguments": arguments}
    elif arguments:
        what = tr("options after -- are for vllm or llama_server, not for {chosen}", chosen=chosen)
        raise UserError(what, arguments[0])
    if chosen == "vllm":
        options |= {"replicas": replicas, "tensor_parallel": tensor_parallel, "pipeline_parallel": pipeline_parallel}
    elif max(replicas, tensor_parallel, pipeline_parallel) > 1:
        raise UserError(tr("replicas and parallelism need vLLM"), "--engine", "vllm")
    for model in models:
        tell_edits(model.partition("=")[2] if "=" in model and not os.path.exists(model) else model)
    extend = None
    if ui:
        from hanlin.web.server import extend_with_page

        extend = extend_with_page(ui_folder)
    elif ui_folder != Path("."):
        raise UserError(tr("--ui-folder is for the page"), ui_folder, tr("add --ui"))
    if as_json:
        extend, options["on_ready"] = announce_as_json(extend), _tell_people
    run_server(
        models,
        extend=extend,
        host=host,
        port=port,
        engine=chosen,
        adapters=adapter,
        api_keys=[*filter(None, api_key), *(key for file in api_key_file for key in read_key_file(file))],
        key_limits=read_keys(api_keys) if api_keys else None,
        limits=Limits(
            parallel,
            queue,
            deadline,
            drain,
            max_output_tokens or None,
            max_body_bytes=max_body << 20,
            max_bodies_bytes=max(Limits().max_bodies_bytes, 2 * max_body << 20),
            max_connections=max_connections,
            max_connections_per_client=max_connections_per_client,
        ),
        allowed_hosts=allow_host,
        allowed_origins=allow_origin,
        base_path=base_path,
        unix_socket=unix_socket,
        **options,
    )


def announce_as_json(extend: Callable[[Extension], Sequence[str]] | None) -> Callable[[Extension], Sequence[str]]:
    """An extension that also prints where the server will answer, as one line of JSON on standard output."""

    def announce(extension: Extension) -> Sequence[str]:
        lines = extend(extension) if extend is not None else ()
        names = sorted(extension.models.by_name)
        print_json({"url": extension.url, "openai": f"{extension.url}/v1", "models": names}, indent=None)
        sys.stdout.flush()
        return lines

    return announce


def _tell_people(line: str) -> None:
    echo(line, err=True)


def choose_engine(engine: str, llama_server: list[str], vllm: list[str]) -> str:
    """The engine that the options name; `auto` if they name none.

    Raises:
        UserError: The options name two engines.
    """
    names = {name for name, addresses in (("llama_server", llama_server), ("vllm", vllm)) if addresses}
    if engine != "auto":
        names.add(engine)
    if len(names) > 1:
        engines = join_list(sorted(names))
        what = tr("several engines are named: {engines}", engines=engines)
        raise UserError(what, "hanlin serve", tr("name one"))
    return next(iter(names), "auto")
