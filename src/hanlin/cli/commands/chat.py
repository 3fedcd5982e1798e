"""The command `hanlin chat`: talk to a model, or to one that a server has.

Owns what a person types and reads. Does not own the conversation (`serve/terminal`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from hanlin.core.errors import UserError
from hanlin.core.i18n import say


def add_to(app: typer.Typer) -> None:
    app.command(help=say("Talk to a model in the terminal.", "在终端里与模型对话。"))(chat)


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|URL",
            help=say("model, adapter, GGUF, or a server's address", "模型、适配器、GGUF，或服务器地址"),
        ),
    ],
    message: Annotated[str | None, typer.Option("--message", "-m", help=say("ask once and end", "只问一句"))] = None,
    system: Annotated[str, typer.Option(help=say("system text", "系统提示"))] = "",
    session: Annotated[
        str,
        typer.Option(help=say("a kept conversation to go on with: a name or a file", "接着某个保存的对话：名称或文件")),
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help=say("go on with the last conversation", "接着上次的对话"))
    ] = False,
    engine: Annotated[str, typer.Option(help="auto, transformers, llama_cpp, llama_server, vllm")] = "auto",
    name: Annotated[str, typer.Option(help=say("which of a server's models", "服务器上的模型名"))] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help=say("0 is greedy; unset: the model's", "0 为贪心；不设则随模型"))
    ] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    repetition_penalty: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    cut: Annotated[
        bool, typer.Option("--cut", help=say("cut a message that is too long", "消息过长时截断其末尾"))
    ] = False,
    api_key: Annotated[
        str, typer.Option(envvar="HANLIN_API_KEY", help=say("a server's key", "服务器密钥"), show_default=False)
    ] = "",
) -> None:
    from hanlin.cli.chat.repl import chat as talk

    if message is not None and not message.strip():
        raise UserError(say("the message is empty", "消息为空"), "--message")
    wishes = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    talk(
        model,
        engine=engine,
        system=system or None,
        once=message,
        sampling={wish: value for wish, value in wishes.items() if value is not None},
        cut=cut,
        session=session,
        resume=resume,
        name=name,
        api_key=api_key.split()[0] if api_key.split() else "",
    )
