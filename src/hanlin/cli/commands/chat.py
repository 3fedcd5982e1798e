"""`hanlin chat`: chat with a model that is opened here, or with one of a server."""

from __future__ import annotations

from typing import Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import EngineName, read_sampling, refuse_key_in_command, refuse_options, tell_edits
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

app = new_app()


@command(app, tr("Within the chat, /help lists the commands."))
def chat(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|URL",
            help=tr("model, adapter, GGUF, or a server's address"),
        ),
    ],
    message: Annotated[str | None, typer.Option("--message", "-m", help=tr("send one message and exit"))] = None,
    system: Annotated[str, typer.Option(help=tr("system text"))] = "",
    session: Annotated[str, typer.Option(help=tr("saved conversation to continue: name or file"))] = "",
    resume: Annotated[bool, typer.Option("--resume", help=tr("continue the last conversation"))] = False,
    engine: EngineName = "auto",
    name: Annotated[str, typer.Option(help=tr("model of the server"))] = "",
    max_new_tokens: Annotated[int, typer.Option(min=-1, help=tr("-1: as many as the context holds"))] = 512,
    temperature: Annotated[float | None, typer.Option(min=0.0, help=tr("0: greedy; default: the model's"))] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    repetition_penalty: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(min=-1)] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help=tr("cut the end of a message that is too long"))] = False,
    api_key: Annotated[
        str,
        typer.Option(envvar="HANLIN_API_KEY", hidden=True, callback=refuse_key_in_command),
    ] = "",
) -> None:
    from hanlin.cli.chat.backends import is_server_address
    from hanlin.cli.chat.editor import recover_text
    from hanlin.cli.chat.repl import run_chat

    if message is not None:
        refuse_options(context, ("session", "resume"), tr("--message sends one message, outside any conversation"))
    if session:
        refuse_options(context, ("resume",), tr("--session names the conversation to continue"))
    if is_server_address(model):
        refuse_options(context, ("engine", "truncate"), tr("the model of a server is opened there"))
    else:
        refuse_options(context, ("name",), tr("it chooses among the models of a server"))
    message, system = None if message is None else recover_text(message), recover_text(system)
    if message is not None and not message.strip():
        raise UserError(tr("the message is empty"), "--message")
    tell_edits(model)
    run_chat(
        model,
        engine=engine,
        system=system or None,
        once=message,
        sampling=read_sampling(
            max_new_tokens, temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
        ),
        truncate=truncate,
        session=session,
        resume=resume,
        name=name,
        api_key=api_key.split()[0] if api_key.split() else "",
    )
