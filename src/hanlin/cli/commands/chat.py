"""`hanlin chat`: chat with a model that is opened here, or with one of a server."""

from __future__ import annotations

from typing import Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import EngineName
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

app = new_app()


@command(app, say("Within the chat, /help lists the commands.", "对话中输入 /help 可列出命令。"))
def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|URL",
            help=say("model, adapter, GGUF, or a server's address", "模型、适配器、GGUF，或服务器地址"),
        ),
    ],
    message: Annotated[
        str | None, typer.Option("--message", "-m", help=say("send one message and exit", "只发一条消息便退出"))
    ] = None,
    system: Annotated[str, typer.Option(help=say("system text", "系统提示"))] = "",
    session: Annotated[
        str, typer.Option(help=say("saved conversation to continue: name or file", "继续已保存的对话：名称或文件"))
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help=say("continue the last conversation", "继续上次的对话"))
    ] = False,
    engine: EngineName = "auto",
    name: Annotated[str, typer.Option(help=say("model of the server", "服务器上的模型名"))] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help=say("0: greedy; default: the model's", "0 为贪心解码；默认随模型"))
    ] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    repetition_penalty: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help=say("cut the end of a message that is too long", "消息过长时截去末尾"))
    ] = False,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="HANLIN_API_KEY", help=say("API key of the server", "服务器的 API 密钥"), show_default=False
        ),
    ] = "",
) -> None:
    from hanlin.cli.chat.repl import run_chat

    if message is not None and not message.strip():
        raise UserError(say("the message is empty", "消息为空"), "--message")
    sampling = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    run_chat(
        model,
        engine=engine,
        system=system or None,
        once=message,
        sampling={option: value for option, value in sampling.items() if value is not None},
        truncate=truncate,
        session=session,
        resume=resume,
        name=name,
        api_key=api_key.split()[0] if api_key.split() else "",
    )
