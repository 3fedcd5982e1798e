"""The table of commands: sections of the help, a line for each command, and the module in which it is.

A command is imported when it is called for, so that help comes at once. Kinds of stages take their line from the table
of kinds (`config/kinds`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hanlin.cli.help import HelpGroup
from hanlin.config.kinds import KINDS
from hanlin.core.i18n import say


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: its name, one imperative line, and its module below `hanlin.cli.commands` (none: a kind of stage)."""

    name: str
    summary: str
    module: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Commands that the help lists together, under a title."""

    title: str
    entries: tuple[Entry, ...]


def sections() -> tuple[Section, ...]:
    """Every command, in the order in which the help lists them."""
    return (
        Section(
            say("Pipeline", "流程"),
            (
                Entry("plan", say("Show what each stage would do, and why", "查看各阶段将做什么及原因"), "plan"),
                Entry("run", say("Run a recipe, or resume an interrupted run", "运行配方，中断后可续做"), "run"),
                Entry("status", say("Show the progress of a recipe", "查看配方的进度"), "run"),
                Entry("report", say("Write the report of a recipe again", "重新生成配方的报告"), "run"),
                Entry("lineage", say("Show what an artifact was made from", "查看产物的来源"), "artifacts"),
            ),
        ),
        Section(
            say("Data", "数据"),
            (
                *_kinds("corpus", "conversations", "preferences", "unpaired_preferences", "mix"),
                Entry(
                    "data", say("Inspect, convert and report on data files", "查看、转换数据文件并出报告"), "data.app"
                ),
                *_kinds("demo_world"),
            ),
        ),
        Section(
            say("Train", "训练"),
            (
                *_kinds("train_tokenizer", "init_model", "extend_vocabulary", "pretrain", "sft"),
                *_kinds("reference_logprobs", "dpo", "orpo", "simpo", "kto", "merge"),
                Entry(
                    "tensorboard",
                    say("Write a training run's metrics for TensorBoard", "把训练指标写成 TensorBoard 事件文件"),
                    "artifacts",
                ),
            ),
        ),
        Section(
            say("Export", "导出"),
            (
                Entry(
                    "quantize",
                    say("Write GGUF files, or pick the smallest that passes", "写出 GGUF 文件，或选出达标的最小者"),
                    "quantize",
                ),
                *_kinds("gguf", "imatrix", "quantized_model"),
                Entry("package", _summary("package"), "package"),
                Entry(
                    "upload",
                    say("Upload a folder to Hugging Face or ModelScope", "上传文件夹到 Hugging Face 或 ModelScope"),
                    "upload",
                ),
            ),
        ),
        Section(
            say("Evaluate", "评测"),
            (
                *_kinds("evaluate", "perplexity", "exam"),
                Entry("generate", say("Answer every question of a file", "逐条回答文件中的问题"), "generate"),
            ),
        ),
        Section(
            say("Serve", "服务"),
            (
                Entry("chat", say("Chat with a model in the terminal", "在终端里与模型对话"), "chat"),
                Entry(
                    "serve",
                    say("Serve models with OpenAI's and Ollama's APIs", "以 OpenAI 与 Ollama 接口提供模型服务"),
                    "serve",
                ),
            ),
        ),
        Section(
            say("Inspect", "查看"),
            (
                Entry("doctor", say("Check what this machine has and lacks", "检查本机环境"), "doctor"),
                Entry(
                    "kinds",
                    say("List the kinds of stages, or the settings of one", "列出阶段类型，或某类型的设置"),
                    "kinds",
                ),
                Entry("schema", say("Print the JSON schema of recipes", "输出配方的 JSON Schema"), "kinds"),
                Entry("template", say("Compare chat templates across programs", "比对各程序中的对话模板"), "template"),
                Entry(
                    "tokens",
                    say("Show token ids and which of them are learned", "查看词元编号及参与学习的部分"),
                    "tokens",
                ),
            ),
        ),
    )


def _kinds(*names: str) -> Iterator[Entry]:
    for name in names:
        yield Entry(name.replace("_", "-"), _summary(name))


def _summary(kind: str) -> str:
    text = KINDS[kind].summary
    return text[:1].upper() + text[1:]


def entries() -> dict[str, Entry]:
    """Every command by its name."""
    return {entry.name: entry for section in sections() for entry in section.entries}


class RootGroup(HelpGroup):
    """The command `hanlin`: commands in sections, each imported when it is called for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(entries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = entries().get(cmd_name)
        if entry is None:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _load(entry)
        return self.commands[cmd_name]

    def command_rows(self, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        for section in sections():
            yield section.title, [(entry.name, entry.summary) for entry in section.entries]


def _load(entry: Entry) -> Any:
    """Import a command. Its help begins with its line of the table."""
    from typer.main import get_command

    if entry.module:
        module = importlib.import_module(f"hanlin.cli.commands.{entry.module}")
        loaded = get_command(module.app)
        command = getattr(loaded, "commands", {}).get(entry.name, loaded)
    else:
        from hanlin.cli.commands.single_stage import stage_command

        command = stage_command(KINDS[entry.name.replace("-", "_")])
    command.name = entry.name
    command.help = f"{entry.summary}\n\n{command.help}" if command.help else entry.summary
    return command
