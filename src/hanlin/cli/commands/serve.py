"""`hanlin serve`: serve models over HTTP with any engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import EngineName
from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, say

app = new_app()


@command(
    app,
    say(
        "There is a plain API too. Options after -- are passed to vLLM or llama-server.",
        "另有一个简单接口。-- 之后的选项原样传给 vLLM 或 llama-server。",
    ),
)
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
    engine: EngineName = "auto",
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
    replicas: Annotated[
        int, typer.Option(min=1, help=say("number of vLLM processes to start", "启动多少个 vLLM 进程"))
    ] = 1,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help=say("GPUs that divide each layer, of each vLLM", "每个 vLLM 的张量并行数"))
    ] = 1,
    pipeline_parallel: Annotated[
        int,
        typer.Option(min=1, help=say("groups of layers on their own GPUs, of each vLLM", "每个 vLLM 的流水线并行数")),
    ] = 1,
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
        int,
        typer.Option(
            min=0, help=say("most tokens of a request; 0: the model's", "单个请求的词元上限；0 为模型自身的上限")
        ),
    ] = 0,
    threads: Annotated[
        int,
        typer.Option(min=0, help=say("CPU threads of llama.cpp; 0: automatic", "llama.cpp 的 CPU 线程数；0 为自动")),
    ] = 0,
    api_key: Annotated[
        list[str],
        typer.Option(
            envvar="HANLIN_API_KEY",
            help=say("API key that clients must send; may repeat", "客户端须提供的 API 密钥，可重复"),
        ),
    ] = [],
    api_keys: Annotated[
        Path | None,
        typer.Option(help=say("YAML file of API keys with limits", "带限额的 API 密钥文件（YAML）")),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help=say("answers at once", "同时生成的回答数"))] = 16,
    queue: Annotated[int, typer.Option(min=0, help=say("most requests that wait", "可排队的请求数"))] = 64,
    deadline: Annotated[
        float, typer.Option(min=1, help=say("time limit of a request, in seconds", "单个请求的时限（秒）"))
    ] = 600,
    drain: Annotated[
        float, typer.Option(min=1, help=say("seconds to finish answers when stopping", "停止时等待回答完成的秒数"))
    ] = 30,
    max_output_tokens: Annotated[
        int, typer.Option(min=0, help=say("most tokens of an answer; 0: the context", "回答的词元上限；0 为整个上下文"))
    ] = 0,
) -> None:
    from hanlin.serve.admission import Limits
    from hanlin.serve.auth import read_keys
    from hanlin.serve.server import serve as run_server

    start = next((index for index, word in enumerate(models) if word.startswith("-")), len(models))
    models, arguments = models[:start], models[start:]
    chosen = choose_engine(engine, llama_server, vllm)
    options: dict[str, Any] = {"context_length": context_length} if context_length else {}
    if threads:
        options["threads"] = threads
    if chosen in ("llama_server", "vllm"):
        options |= {"at": llama_server or ["llama-server"]} if chosen == "llama_server" else {"at": vllm}
        options |= {"arguments": arguments}
    elif arguments:
        what = say(
            f"options after -- are for vllm or llama_server, not for {chosen}", f"-- 之后的选项不适用于引擎 {chosen}"
        )
        raise UserError(what, arguments[0])
    if chosen == "vllm":
        options |= {"replicas": replicas, "tensor_parallel": tensor_parallel, "pipeline_parallel": pipeline_parallel}
    elif max(replicas, tensor_parallel, pipeline_parallel) > 1:
        raise UserError(say("replicas and parallelism need vLLM", "副本与并行只适用于 vLLM"), "--engine", "vllm")
    run_server(
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
        what = say(f"several engines are named: {engines}", f"指定了多个引擎：{engines}")
        raise UserError(what, "hanlin serve", say("name one", "请只指定一个"))
    return next(iter(names), "auto")
