"""The text of a first recipe: YAML with comments that say what each stage is for and what to change."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hanlin.catalog.answers import (
    MODELSCOPE_BRANCH,
    NEW_ENTRIES,
    Answers,
    Base,
    Have,
    Method,
    TargetMachine,
    extends_vocabulary,
)
from hanlin.catalog.schema import Model
from hanlin.core.i18n import language, tr


def write_recipe_text(answers: Answers, base: Base, method: Method) -> str:
    """The recipe that trains a model on the data of the answers.

    Args:
        answers: What there is and what is wanted.
        base: The model to begin with.
        method: How it is trained.

    Returns:
        YAML in the reader's language.
    """
    lines = [*_head(answers, base), "stages:"]
    model = base.reference
    have = answers.have
    lines += _data_stages(answers)
    if "text" in have:
        if extends_vocabulary(answers, base):
            lines += [
                *_comment(tr("Chinese entries are learned from the text and added to the vocabulary")),
                "  grown:",
                "    kind: extend_vocabulary",
                f"    model: {_quoted(model)}",
                "    text: corpus",
                f"    new_entries: {NEW_ENTRIES}",
                "",
            ]
            model = "grown"
        before = model
        lines += _comment(tr("learn from the text: every document, cut at sequence ends without losing a token"))
        lines += _training("pretrained", "pretrain", model, "corpus", method, answers.machine)
        model, merged = _merged("pretrained", "base_zh", method)
        lines += merged
        lines += [
            *_comment(tr("the perplexity of held-out text, before and after")),
            f"  text_before: {{ kind: perplexity, model: {_quoted(before)}, data: corpus, window: 1024 }}",
            f"  text_after: {{ kind: perplexity, model: {model}, data: corpus, window: 1024 }}",
            "",
        ]
    if "chats" in have:
        lines += _comment(tr("learn to answer: the loss is on the answers alone, the end of each included"))
        extra = [f"    template: {base.template}"] if base.template else []
        if base.entry is not None and base.entry.kind == "base" and method != "full":
            comment = tr("special tokens that the base never trained are trained too, or no answer ends")
            extra += [f"    # {comment}", "    trainable_tokens: untrained"]
        lines += _training("tuned", "sft", model, "chats", method, answers.machine, extra)
        model, merged = _merged("tuned", "chat_zh", method)
        lines += merged
    if "preferences" in have:
        lines += _comment(tr("prefer the better answer of each pair; the loss begins at log 2 = 0.693"))
        lines += _training("aligned", "dpo", model, "pairs", method, answers.machine, ["    beta: 0.1"])
        model, merged = _merged("aligned", "aligned_zh", method)
        lines += merged
    lines += [
        *_comment(tr("files for llama.cpp, Ollama and LM Studio, compared with the model that they were made from")),
        "  gguf:",
        "    kind: gguf",
        f"    model: {_quoted(model)}",
        "    types: [Q8_0, Q4_K_M]",
        "",
        "report:",
    ]
    if "text" in have:
        lines.append("  figures:")
        lines.append("    perplexity_of_text: { before: text_before.perplexity, after: text_after.perplexity }")
    return "\n".join([*lines, "  chat: gguf", ""])


def _head(answers: Answers, base: Base | None) -> Iterator[str]:
    aims = {
        "chat": tr("A chat model that answers in Chinese."),
        "knowledge": tr("A model that has read your text."),
        "chinese_answers": tr("A model that prefers to answer in Chinese."),
        "try": tr("The whole pipeline on a small invented world: no data, no download, minutes on a laptop."),
    }
    yield f"# {aims[answers.want]}"
    yield "#"
    yield f"#   hanlin plan {answers.name}.yaml      {tr('what will run, and the memory it takes')}"
    yield f"#   hanlin run {answers.name}.yaml       {tr('go; the same command goes on after a stop')}"
    if base is not None and base.entry is not None:
        entry = base.entry
        yield "#"
        yield f"# {tr('Model: {name}, license {license}.', name=entry.name, license=entry.license)}"
        yield from (f"# {line}" for line in _hub_notes(entry, base.reference))
        for fault in entry.faults:
            yield f"# {tr('Mind: {fault}', fault=fault.to(language()))}"
    yield f"name: {answers.name}"
    yield "seed: 42"


def _hub_notes(entry: Model, reference: str) -> Iterator[str]:
    """What is to know of the hub that a model comes from, and its name on the other one."""
    if reference.startswith("ms:"):
        if entry.gated:
            yield tr("ModelScope asks for no agreement; the license holds all the same.")
        if "ms" in entry.unverified:
            yield tr("Its name on ModelScope was not compared with a second source.")
        if reference.endswith(f"@{MODELSCOPE_BRANCH}"):
            name = reference.partition("@")[0]
            yield tr("A branch, for no public list that the catalog was compared with names commits of ModelScope.")
            yield tr("It may change: `hanlin pull {name}` tells the commit to write in its place.", name=name)
        if entry.revision is not None:
            yield tr("From Hugging Face: {reference}", reference=f"hf:{entry.hubs['hf']}@{entry.revision}")
    else:
        if entry.gated:
            page = f"https://huggingface.co/{entry.hubs['hf']}"
            yield tr("Hugging Face asks for an agreement first: {page} (then `hf auth login`).", page=page)
        if "ms" in entry.hubs:
            yield tr("From ModelScope: {reference}", reference=f"ms:{entry.hubs['ms']}@{MODELSCOPE_BRANCH}")


def _data_stages(answers: Answers) -> list[str]:
    lines: list[str] = []
    stages: dict[Have, tuple[str, str, str]] = {
        "text": ("corpus", "corpus", tr("text: read, cleaned, deduplicated; the ledger lists every dropped row")),
        "chats": ("chats", "conversations", tr("conversations: the format is recognized (`hanlin data inspect PATH`)")),
        "preferences": ("pairs", "preferences", tr("pairs of a better and a worse answer")),
    }
    for have, (name, kind, comment) in stages.items():
        if have in answers.have:
            lines += [
                *_comment(comment),
                f"  {name}:",
                f"    kind: {kind}",
                "    sources:",
                f"      # {tr('write the license of your data here; it is recorded in all that is made from it')}",
                f'      - {{ path: {_quoted(_as_path(answers.have[have]))}, license: "unknown" }}',
                "    validation_fraction: 0.02",
                "",
            ]
    return lines


def _training(
    name: str, kind: str, model: str, data: str, method: Method, machine: TargetMachine, extra: list[str] | None = None
) -> list[str]:
    """A training stage; its comments say what to change."""
    lines = [f"  {name}:", f"    kind: {kind}", f"    model: {_quoted(model)}", f"    data: [{data}]", *(extra or [])]
    if method != "full":
        quantized = ", quantization: nf4" if method == "qlora" else ""
        comment = tr("an adapter on all linear layers") + (
            tr("; the frozen base is in 4 bits (pip install 'hanlin[qlora]')") if quantized else ""
        )
        lines += [f"    # {comment}", f"    lora: {{ rank: 64, alpha: 128{quantized} }}"]
        lines += ["    optimizer: adamw_8bit"] if quantized else []
    length = (1024 if kind == "dpo" else 2048) if machine.gpu else (256 if kind == "dpo" else 512)
    lines += [f"    # {tr('tokens of the longest record; longer ones lose their last turns')}"] if kind == "sft" else []
    lines.append(f"    max_seq_length: {length}")
    if kind == "dpo":
        lines.append("    batch_pairs: 16")
    else:
        lines.append(f"    batch_tokens: {(65_536 if kind == 'pretrain' else 32_768) if machine.gpu else 8_192}")
    lines.append(f"    micro_batch_tokens: {2 * length if kind == 'dpo' else length}")
    lines.append(f"    epochs: {2 if kind == 'sft' else 1}")
    if machine.gpu:
        lines += ["    precision: bfloat16", "    gradient_checkpointing: true"]
    return [*lines, ""]


def _merged(name: str, merged: str, method: Method) -> tuple[str, list[str]]:
    """The model that a training stage ends with, and the stage that merges its adapter."""
    if method == "full":
        return name, []
    return merged, [f"  {merged}:", "    kind: merge", f"    adapter: {name}", ""]


def _comment(text: str) -> list[str]:
    return [f"  # {text}"]


def _quoted(text: str) -> str:
    """A text as YAML writes it; a plain name stays plain."""
    return text if text.isidentifier() else json.dumps(text, ensure_ascii=False)


def _as_path(text: str) -> str:
    return text if text.startswith(("./", "../", "/", "~")) else f"./{text}"


def write_demo_text(answers: Answers) -> str:
    """The recipe of the aim `try`, which makes its data and its model itself."""
    license = 'license: "Apache-2.0 (written by Hanlin)"'
    return "\n".join(
        [
            *_head(answers, None),
            "launch: { threads: 1 }",
            "stages:",
            *_comment(tr("text, chats and questions of an invented town")),
            "  world: { kind: demo_world }",
            *_comment(tr("text: read, cleaned, deduplicated; the ledger lists every dropped row")),
            f"  corpus: {{ kind: corpus, sources: [{{ path: world/text, {license} }}], validation_fraction: 0.05 }}",
            f"  chats: {{ kind: conversations, sources: [{{ path: world/chats, {license} }}] }}",
            "",
            *_comment(tr("a new, small Llama whose tokenizer knows English only")),
            "  base_tokenizer: { kind: train_tokenizer, text: [world/english], entries: 600, template: llama3 }",
            "  base:",
            "    kind: init_model",
            "    tokenizer: base_tokenizer",
            "    hidden_size: 256",
            "    intermediate_size: 512",
            "    layers: 3",
            "    heads: 8",
            "    key_value_heads: 4",
            "    context_length: 512",
            "    initializer_range: 0.06",
            "",
            *_comment(tr("Chinese entries are learned from the text and added to the vocabulary")),
            "  grown: { kind: extend_vocabulary, model: base, text: corpus, new_entries: 600, init: mean }",
            "",
            *_comment(tr("learn from the text: every document, cut at sequence ends without losing a token")),
            "  pretrained:",
            "    kind: pretrain",
            "    model: grown",
            "    data: [corpus]",
            "    precision: float32",
            "    epochs: 0.5",
            "    learning_rate: 2e-3",
            "    max_seq_length: 256",
            "    batch_tokens: 512",
            "",
            *_comment(tr("learn to answer: the loss is on the answers alone, the end of each included")),
            "  tuned:",
            "    kind: sft",
            "    model: pretrained",
            "    data: [chats]",
            "    precision: float32",
            "    epochs: 10",
            "    learning_rate: 2e-3",
            "    betas: [0.9, 0.99]",
            "    weight_decay: 0.1",
            "    max_seq_length: 256",
            "    batch_tokens: 512",
            "",
            *_comment(tr("questions that were held out, and the share that is answered word for word")),
            "  asked:",
            "    kind: evaluate",
            "    model: tuned",
            "    questions: world/questions/validation.jsonl",
            "    max_new_tokens: 48",
            "",
            *_comment(
                tr("files for llama.cpp, Ollama and LM Studio, compared with the model that they were made from")
            ),
            "  gguf: { kind: gguf, model: tuned, types: [Q8_0] }",
            "",
            "report:",
            "  figures:",
            "    exact_match: asked.exact_match",
            "    stop_rate: asked.stop_rate",
            "  targets:",
            "    - { figure: exact_match, at_least: 0.90 }",
            "  conversation: asked",
            "  chat: gguf",
            "",
        ]
    )
