"""The command `hanlin serve`: models over HTTP, by whichever engine.

Owns what a person types and reads. Does not own the server (`serve/`) or the engines (`engines/`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.core.errors import UserError
from hanlin.core.i18n import say


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Serve models with OpenAI's, Ollama's and a plain API. What follows -- goes to vLLM or llama-server.",
            "以 OpenAI、Ollama 及简单接口提供模型服务。-- 之后的选项原样交给 vLLM 或 llama-server。",
        )
    )(serve)


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help=say("models, adapters or GGUF; NAME=PATH names one", "模型、适配器或 GGUF；可用 名称=路径 命名"),
        ),
    ],
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    engine: Annotated[str, typer.Option(help="auto, transformers, llama_cpp, llama_server, vllm")] = "auto",
    llama_server: Annotated[
        list[str],
        typer.Option(
            help=say(
                "a llama-server program to start, or the address of a running one; may repeat",
                "要启动的 llama-server 程序，或已在运行的地址，可重复",
            )
        ),
    ] = [],
    vllm: Annotated[
        list[str],
        typer.Option(
            help=say(
                "a vLLM program to start, or the address of a running one; may repeat",
                "要启动的 vLLM 程序，或已在运行的地址，可重复",
            )
        ),
    ] = [],
    replicas: Annotated[int, typer.Option(min=1, help=say("how many vLLMs are started", "启动多少个 vLLM"))] = 1,
    tensor_parallel: Annotated[int, typer.Option(min=1, help=say("of each vLLM", "每个 vLLM 的张量并行数"))] = 1,
    pipeline_parallel: Annotated[int, typer.Option(min=1, help=say("of each vLLM", "每个 vLLM 的流水线并行数"))] = 1,
    adapter: Annotated[
        list[str],
        typer.Option(
            help=say(
                "NAME=FOLDER: a LoRA over the model, served as a model of that name; may repeat",
                "名称=文件夹：模型之上的 LoRA，以该名称提供，可重复",
            )
        ),
    ] = [],
    context_length: Annotated[
        int, typer.Option(min=0, help=say("tokens of a request; 0: the model's", "单个请求的词元上限；0 为模型自身的"))
    ] = 0,
    threads: Annotated[
        int, typer.Option(min=0, help=say("CPU threads of llama.cpp; 0: chosen", "llama.cpp 的 CPU 线程数；0 为自动"))
    ] = 0,
    api_key: Annotated[
        list[str],
        typer.Option(
            envvar="HANLIN_API_KEY",
            help=say("key that clients must send; may repeat", "客户端须提供的密钥，可重复"),
        ),
    ] = [],
    api_keys: Annotated[
        Path | None,
        typer.Option(help=say("YAML file of keys with limits (docs/serving.md)", "带限额的密钥文件（YAML）")),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help=say("answers at once", "同时生成的回答数"))] = 16,
    queue: Annotated[int, typer.Option(min=0, help=say("requests that may wait", "可排队的请求数"))] = 64,
    deadline: Annotated[
        float, typer.Option(min=1, help=say("seconds a request may take", "单个请求的时限（秒）"))
    ] = 600,
    drain: Annotated[
        float, typer.Option(min=1, help=say("seconds to end answers when stopping", "停止时等待回答完成的秒数"))
    ] = 30,
    max_output_tokens: Annotated[
        int, typer.Option(min=0, help=say("longest answer; 0: the context", "回答的最大词元数；0 为整个上下文"))
    ] = 0,
) -> None:
    from hanlin.serve.admission import Limits
    from hanlin.serve.auth import read_keys
    from hanlin.serve.server import serve as listen

    start = next((place for place, word in enumerate(models) if word.startswith("-")), len(models))
    models, arguments = models[:start], models[start:]
    chosen = engine_chosen(engine, llama_server, vllm)
    options: dict[str, Any] = {"context_length": context_length} if context_length else {}
    if threads:
        options["threads"] = threads
    if chosen in ("llama_server", "vllm"):
        options |= {"at": llama_server or ["llama-server"]} if chosen == "llama_server" else {"at": vllm}
        options |= {"arguments": arguments}
    elif arguments:
        what = say(f"what follows -- is for vllm or llama_server, not {chosen}", f"-- 之后的选项不适用于引擎 {chosen}")
        raise UserError(what, arguments[0])
    if chosen == "vllm":
        options |= {"replicas": replicas, "tensor_parallel": tensor_parallel, "pipeline_parallel": pipeline_parallel}
    elif max(replicas, tensor_parallel, pipeline_parallel) > 1:
        raise UserError(say("replicas and parallel parts are vLLM's", "副本与并行只适用于 vLLM"), "--engine", "vllm")
    listen(
        models,
        host=host,
        port=port,
        engine=chosen,
        adapters=adapter,
        api_keys=[key for key in api_key if key],
        key_limits=read_keys(api_keys) if api_keys else None,
        limits=Limits(parallel, queue, deadline, drain, max_output_tokens or None),
        **options,
    )


def engine_chosen(engine: str, llama_server: list[str], vllm: list[str]) -> str:
    """The engine that the options name. Raises UserError when they name two."""
    named = {name for name, places in (("llama_server", llama_server), ("vllm", vllm)) if places}
    if engine != "auto":
        named.add(engine)
    if len(named) > 1:
        raise UserError(
            say(f"{' and '.join(sorted(named))} were both asked for", f"同时指定了 {'、'.join(sorted(named))}")
        )
    return next(iter(named), "auto")
