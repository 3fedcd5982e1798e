"""The model card of a package, in both languages, made from the model's lineage and measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.config.settings.export import Package
from hanlin.core.context import LineageNode
from hanlin.core.names import quote_markdown, quote_shell, quote_yaml
from hanlin.export.quality_page import format_table

_DATA = ("documents", "conversations", "preferences", "unpaired_preferences")
_SHOWN_FILES = 8


@dataclass(frozen=True, slots=True)
class Card:
    """What a card is made from. `root` is the packaged artifact's lineage, None if it is unknown."""

    settings: Package
    context: int
    files: Sequence[str]
    root: LineageNode | None
    evaluations: Sequence[LineageNode]

    @property
    def ancestors(self) -> list[LineageNode]:
        return [] if self.root is None else list(self.root.walk())

    @property
    def base(self) -> LineageNode | None:
        """The model on a hub that training began with, which is what a stage of another kind than data read there."""
        stages = (node for node in self.ancestors if node.type not in _DATA)
        return next((parent for node in stages for parent in node.parents if parent.type == "hub"), None)


def model_card(card: Card, chart: str = "") -> str:
    """`README.md`: front matter that hubs read, then what it is, how to run it, and what it came from."""
    return "\n".join(
        [
            *_front(card),
            *_opening(card),
            *_usage(card),
            *_describe_stages(card),
            *_data(card),
            *_describe_metrics(card, chart),
        ]
    )


def _front(card: Card) -> Iterator[str]:
    settings = card.settings
    yield from ("---", "language:", "- zh", "- en")
    if settings.license:
        yield f"license: {quote_yaml(settings.license)}"
    if card.base:
        yield f"base_model: {quote_yaml(card.base.name.removeprefix('hf:').removeprefix('ms:').partition('@')[0])}"
    yield f"library_name: {'gguf' if card.files else 'transformers'}"
    yield from ("pipeline_tag: text-generation", "---", "")


def _opening(card: Card) -> Iterator[str]:
    yield from (f"# {card.settings.name}", "")
    yield f"A chat model for Chinese and English; it reads {card.context:,} tokens at once. "
    yield f"中英文对话模型，上下文 {card.context:,} 词元。"
    yield ""
    yield "The chat template, its stop tokens and the token ids of these files were compared with those of training. "
    yield "这些文件的对话模板、结束符与词元 id 均已与训练时逐一比对。"
    yield ""


def _usage(card: Card) -> Iterator[str]:
    name, files = card.settings.name, list(card.files)
    commands = {
        "ollama": [f"ollama create {name} -f Modelfile", f"ollama run {name}"],
        "lmstudio": [f"cp -r {card.settings.publisher} ~/.lmstudio/models/"],
        "llama_cpp": ["./start.sh                 # http://127.0.0.1:8080/v1, LLAMA_SERVER names the program"],
        "vllm": ["./start.sh                 # http://127.0.0.1:8000/v1, VLLM names the program"],
        "huggingface": (
            [f"llama-server --model {quote_shell(file)} --jinja" for file in files]
            if files
            else ["vllm serve .", "hanlin chat ."]
        ),
    }
    yield from ("## Use · 使用", "", "```", *commands[card.settings.target], "```", "")


def _describe_stages(card: Card) -> Iterator[str]:
    """The stages from first to last, each with the settings that are plain values; paths stay at home."""
    yield from ("## How it was made · 制作过程", "")
    stages = [node for node in reversed(card.ancestors) if node.kind]
    if not stages:
        yield from ("No record of it lies beside the model. 模型旁没有制作记录。", "")
        return
    yield from ("| stage 阶段 | settings 设置 | digest 摘要 |", "|---|---|---|")
    for node in stages:
        settings = ", ".join(f"{name} {value}" for name, value in _plain(node.settings))
        yield f"| {node.kind} | {_cell(settings)} | `{node.digest[:16]}` |"
    yield ""
    if card.base:
        yield from (f"Base · 底座：`{card.base.name}`" + (f" ({card.base.license})" if card.base.license else ""), "")


def _plain(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _plain(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float) or (isinstance(value, str) and value and "/" not in value):
            yield prefix + name, value


def _data(card: Card) -> Iterator[str]:
    """Every file that the data stages read, with its license and hash, and how many records were kept."""
    sources = [node for node in card.ancestors if node.type in _DATA]
    if not sources:
        return
    yield from ("## Data · 数据", "", "| read by 阶段 | source 来源 | license 许可 | sha256 |", "|---|---|---|---|")
    for node in sources:
        files = [parent for parent in node.parents if parent.type in ("file", "hub")]
        for parent in files[:_SHOWN_FILES]:
            yield f"| {node.kind} | {_cell(parent.name)} | {_cell(parent.license or '?')} | `{parent.digest[:16]}` |"
        if len(files) > _SHOWN_FILES:
            licenses = ", ".join(sorted({parent.license or "?" for parent in files[_SHOWN_FILES:]}))
            yield f"| {node.kind} | {len(files) - _SHOWN_FILES} more 另有 | {_cell(licenses)} | |"
        parents_with_stage = [parent for parent in node.parents if parent.kind]
        for parent in parents_with_stage:
            yield f"| {node.kind} | {parent.kind} | | `{parent.digest[:16]}` |"
        if "rows_kept" in node.metrics:
            yield f"| {node.kind} | {node.metrics['rows_kept']:,} records kept 条保留 | | `{node.digest[:16]}` |"
    yield ""


def _describe_metrics(card: Card, chart: str) -> Iterator[str]:
    if card.evaluations:
        yield from ("## Evaluation · 评测", "", "| measurement 评测 | figure 指标 | value 数值 |", "|---|---|---|")
        for node in card.evaluations:
            for name, value in _numbers(node.metrics):
                yield f"| {node.kind} | {_cell(name)} | {value:.4g} |"
        yield ""
    rows = get_quality_reports(card.root)
    if rows:
        yield from ("## Quality · 质量报告", "")
        yield "How far each file is from the model it was made from, on held-out text (KL in nats). "
        yield "各文件在留出内容上与原模型的差距（KL 以奈特计）。"
        yield from ("", *format_table(rows), "")
        if chart:
            yield from (f"![bits per weight and divergence · 每权重比特数与散度]({chart})", "")


def _numbers(metrics: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """The figures of an evaluation with their names; the shares of a probe lie two levels down."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, (*path, str(name)))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield " ".join((*path, str(name))), value


def get_quality_reports(root: LineageNode | None) -> dict[str, Mapping[str, Any]]:
    """The quality reports in the packaged artifact's manifest, by type."""
    if root is None:
        return {}
    return {
        name: row
        for name, row in root.metrics.items()
        if isinstance(row, Mapping) and "perplexity_ratio" in row and "bits_per_weight" in row
    }


def _cell(text: str) -> str:
    return quote_markdown(text)
