"""What is fuzzed: how valid samples are made, how they are damaged, and how they are read."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from fuzz import layouts, templates
from fuzz.mutate import damage_bytes, damage_json_file
from fuzz.run import Target

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [
    "翰林院在城东，春天的时候院子里开满了花。",
    "你叫什么名字？我叫小翰，是一个中文助手。",
    "What is your name? My name is Xiaohan, an assistant.",
    "def f(x):\n    return 3.14 * x  # 圆周率",
]
CONFIG_WORDS = (
    *("rope_scaling", "rope_parameters", "head_dim", "quantization_config", "num_local_experts", "auto_map"),
    *("num_experts_per_tok", "architectures", "torch_dtype", "hidden_act", "layer_types", "sliding_window"),
    *("_attn_implementation", "attn_implementation", "tp_plan", "base_model_tp_plan", "return_dict", "id2label"),
)
ADAPTER_WORDS = (
    *("rank_pattern", "alpha_pattern", "target_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
    *("layer_replication", "trainable_token_indices", "use_dora", "init_lora_weights", "exclude_modules", "bias"),
    *(
        "target_parameters",
        "megatron_config",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_bias",
        "arrow_config",
    ),
)


def _model(folder: Path) -> Path:
    """A model of two layers over a trained tokenizer."""
    from hanlin.models.train_tokenizer import train_tokenizer
    from hanlin.tokenizer.tokenizer import Tokenizer
    from tiny_llama import tiny_llama

    train_tokenizer(TEXTS, vocab_size=400, template="llama3", out=folder)
    tokenizer = Tokenizer.load(folder)
    tiny_llama(folder, tokenizer, seed=0, pad_token_id=tokenizer.pad_id)
    tokenizer.save(folder)
    return folder


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("case"))


def _damage_file(rng: random.Random, file: Path, words: tuple[str, ...] = ()) -> None:
    file.write_bytes(damage_json_file(rng, file.read_bytes(), words))


# --------------------------------------------------------------------------------------------- model folders


def _damage_config(rng: random.Random, model: Path, folder: Path) -> None:
    _copy(model, folder)
    _damage_file(rng, folder / "config.json", CONFIG_WORDS)
    if rng.random() < 0.3:
        _damage_file(rng, folder / "generation_config.json", ("temperature", "top_p", "top_k", "do_sample"))


def _load_model(_: Path, folder: Path) -> None:
    from hanlin.export.gguf.source import load_source
    from hanlin.models.load import load_model
    from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params

    read_eos_token_ids(folder)
    read_sampling_params(folder)
    load_model(folder)
    source = load_source(folder)
    assert source.stop_ids and source.tensors


def _damage_weights(rng: random.Random, model: Path, folder: Path) -> None:
    _copy(model, folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    way = rng.random()
    if way < 0.5:
        header = damage_json_file(rng, header, ("__metadata__", "shape", "dtype", "data_offsets"))
        file.write_bytes(len(header).to_bytes(8, "little") + header + rest)
    elif way < 0.8:
        file.write_bytes(damage_bytes(rng, data[: 8 + length]) + rest)
    else:
        names = list(json.loads(header))
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
        file.rename(folder / "model-00001-of-00001.safetensors")
        index_file = folder / "model.safetensors.index.json"
        index_file.write_text(json.dumps(index), encoding="utf-8")
        _damage_file(rng, index_file, ("weight_map", *names[:3]))


def _check_folder(_: Path, folder: Path) -> None:
    from hanlin.models.folder.checks import check_model_folder

    check_model_folder(folder)


def _adapter(folder: Path) -> tuple[Any, Path]:
    from hanlin.config.settings.model import LoraSettings
    from hanlin.models.adapters import attach_lora, save_adapter
    from hanlin.models.load import load_model

    base = folder / "base_model"
    base.mkdir()
    _model(base)
    lora = LoraSettings.model_validate({"rank": 4})
    save_adapter(attach_lora(load_model(base), lora, seed=1), folder / "adapter", base=base)
    return base, folder / "adapter"


def _damage_adapter(rng: random.Random, prepared: tuple[Path, Path], folder: Path) -> None:
    _copy(prepared[1], folder)
    _damage_file(rng, folder / "adapter_config.json", ADAPTER_WEIGHT_WORDS if rng.random() < 0.1 else ADAPTER_WORDS)
    if rng.random() < 0.2:
        _damage_file(rng, folder / "base.json", ("fingerprint",))


ADAPTER_WEIGHT_WORDS = ("r", "lora_alpha", "peft_type", "task_type")


def _load_adapter(prepared: tuple[Path, Path], folder: Path) -> None:
    from hanlin.models.adapters import load_adapter, read_trained_rows
    from hanlin.models.folder.adapter import check_base
    from hanlin.models.folder.checks import check_model_folder
    from hanlin.models.load import load_model

    check_base(folder, check_model_folder(prepared[0]))
    read_trained_rows(folder)
    load_adapter(load_model(prepared[0]), folder)


# --------------------------------------------------------------------------------------------- tokenizers


def _damage_tokenizer(rng: random.Random, model: Path, folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(model / name, folder / name)
    if rng.random() < 0.7:
        file = folder / "tokenizer.json"
        data = json.loads(file.read_bytes())
        if rng.random() < 0.8:  # the vocabulary is most of the file, and little of what can go wrong
            part = rng.choice(["normalizer", "pre_tokenizer", "decoder", "post_processor", "added_tokens"])
            data[part] = json.loads(json.dumps(data[part] or rng.choice(_RULES)))
            inner = damage_json_file(rng, json.dumps(data[part]).encode(), ("type", "pattern", "content"))
            rest = json.dumps({key: value for key, value in data.items() if key != part}).encode()
            file.write_bytes(rest[:-1] + b', "' + part.encode() + b'": ' + inner + b"}")
        else:
            _damage_file(rng, file)
    else:
        _damage_file(rng, folder / "tokenizer_config.json", ("added_tokens_decoder", "chat_template", "eos_token"))


_RULES: list[Any] = [
    {"type": "Replace", "pattern": {"Regex": "[a-z]+"}, "content": "x"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "NFKC"}]},
    {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s+"}, "behavior": "Isolated", "invert": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    {
        "type": "Sequence",
        "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
    },
]


def _load_tokenizer(_: Any, folder: Path) -> None:
    from hanlin.chat.template import ChatTemplate
    from hanlin.core.records import Message
    from hanlin.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    tokenizer.enable_fast_encoder()
    for text in TEXTS:
        ids = tokenizer.encode(text)
        tokenizer.decode(ids)
    _ = len(tokenizer), tokenizer.pad_id, tokenizer.adds_bos, tokenizer.special_ids
    if isinstance(tokenizer.config.get("chat_template"), str):
        ChatTemplate.load(folder, tokenizer).render([Message("user", "?"), Message("assistant", "!")])


def _sentencepiece(folder: Path) -> Path:
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TEXTS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "use_fast": true}')
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def _damage_sentencepiece(rng: random.Random, prepared: Path, folder: Path) -> None:
    for name in ("tokenizer_config.json", "config.json"):
        shutil.copyfile(prepared / name, folder / name)
    data = (prepared / "tokenizer.model").read_bytes()
    # pieces come first, the settings of trainer and normalizer last
    cut = rng.choice([0, len(data) - 700])
    (folder / "tokenizer.model").write_bytes(data[:cut] + damage_bytes(rng, data[cut:]))


def _gguf(folder: Path) -> Path:
    import gguf

    model = folder / "model"
    model.mkdir()
    _model(model)
    data = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    added = [row["content"] for row in data["added_tokens"] if row["content"] not in data["model"]["vocab"]]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([*vocabulary, *added])
    writer.add_token_types([1] * len(vocabulary) + [3] * len(added))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(vocabulary))
    writer.add_eos_token_id(len(vocabulary) + 1)
    writer.add_chat_template((model / "chat_template.jinja").read_text(encoding="utf-8"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return folder / "model.gguf"


def _gguf_models(folder: Path) -> list[Path]:
    (folder / "model").mkdir()
    return layouts.gguf_models(folder, _model(folder / "model"))


def _checkpoint(folder: Path) -> Path:
    (folder / "model").mkdir()
    return layouts.meta_checkpoint(folder, _model(folder / "model"))


def _damage_gguf(rng: random.Random, prepared: Path, folder: Path) -> None:
    data = prepared.read_bytes()
    if rng.random() < 0.1:
        data = data.replace(b"gpt2", b"llama").replace(
            b"\x04\x00\x00\x00\x00\x00\x00\x00llama", b"\x05" + bytes(7) + b"llama"
        )
    (folder / "model.gguf").write_bytes(damage_bytes(rng, data))


def _read_gguf(_: Path, folder: Path) -> None:
    from hanlin.chat.template import ChatTemplate
    from hanlin.core.records import Message
    from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params
    from hanlin.tokenizer.gguf_metadata import read_gguf_template
    from hanlin.tokenizer.tokenizer import Tokenizer

    file = folder / "model.gguf"
    read_eos_token_ids(file)
    read_sampling_params(file)
    tokenizer = Tokenizer.load(file)
    for text in TEXTS:
        tokenizer.decode(tokenizer.encode(text))
    if read_gguf_template(file):
        ChatTemplate.load(file, tokenizer).render([Message("user", "?"), Message("assistant", "!")])


# --------------------------------------------------------------------------------------------- text of others


def _damage_template(rng: random.Random, _: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(templates.make(rng), encoding="utf-8", errors="surrogatepass")


def _render_template(_: Any, folder: Path) -> None:
    import jinja2

    from hanlin.chat.rendering.jinja import DEFAULT_MARKERS, JinjaTemplate, make_portable
    from hanlin.core.errors import UserError

    source = (folder / "chat_template.jinja").read_text(encoding="utf-8", errors="replace")
    try:
        template = JinjaTemplate(source)
        _ = template.variables, template.literal_text, template.has_generation_blocks, make_portable(source)
        template.render(DEFAULT_MARKERS, templates.VARIABLES)
    except jinja2.TemplateError as error:
        raise UserError((error.message or "").replace("\n", " ")) from error


def _damage_recipe(rng: random.Random, _: Any, folder: Path) -> None:
    recipe = rng.choice(sorted((ROOT / "recipes").glob("*.yaml")))
    data = recipe.read_bytes()
    for _ in range(rng.randint(1, 4)):
        lines = data.split(b"\n")
        index = rng.randrange(len(lines))
        way = rng.random()
        if way < 0.3:
            data = damage_bytes(rng, data)
        elif way < 0.6 and b":" in lines[index]:
            values = [b"5", b"-1", b"null", b"[]", b"{}", b"1e999", b"0x7f", b"!!python/object:x {}", b"*a", b"&a [*a]"]
            lines[index] = lines[index].partition(b":")[0] + b": " + rng.choice(values)
            data = b"\n".join(lines)
        else:
            lines[index : index + 1] = [] if way < 0.8 else [lines[index], rng.choice(lines)]
            data = b"\n".join(lines)
    (folder / "recipe.yaml").write_bytes(data)


def _read_recipe(_: Any, folder: Path) -> None:
    from hanlin.config.recipe_file import read_recipe

    read_recipe(folder / "recipe.yaml")


def _manifest(_: Path) -> dict[str, Any]:
    entry = {"path": "a.jsonl", "bytes": 5, "sha256": "0" * 64}
    source = {"field": "data", "reference": "x", "key": "1" * 16, "digest": "2" * 64, "artifact": "sft-b", "inside": ""}
    return {
        "kind": "sft",
        "type": "model",
        "version": 1,
        "key": "a",
        "digest": "3" * 64,
        "settings": {"lr": 0.1},
        "seed": 0,
        "inputs": [{**source, "files": [entry], "license": ""}],
        "files": [entry],
        "metrics": {"a": 1},
        "made_by": {"hanlin": "0"},
        "started": "2026-01-01",
        "finished": "2026-01-01",
        "seconds": 1.0,
        "key_settings": {},
    }


def _damage_manifest(rng: random.Random, prepared: dict[str, Any], folder: Path) -> None:
    for name, other in (("sft-a", "sft-b"), ("sft-b", rng.choice(["sft-a", "sft-b", "sft-c", ""]))):
        (folder / name).mkdir()
        data = json.loads(json.dumps(prepared))
        data["inputs"] = [{**data["inputs"][0], "artifact": other}] * rng.choice([1, 1, 2])
        (folder / name / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    words = ("artifact", "files", "inputs", "version")
    _damage_file(rng, folder / rng.choice(["sft-a", "sft-b"]) / "manifest.json", words)


def _read_lineage(_: Any, folder: Path) -> None:
    from hanlin.pipeline.lineage import lineage

    lineage(folder / "sft-a")


def _samples(_: Path) -> dict[str, bytes]:
    import format_samples

    return format_samples.files()


def _damage_data(rng: random.Random, samples: dict[str, bytes], folder: Path) -> None:
    import fuzz_readers

    name = rng.choice(sorted(samples))
    (folder / name).write_bytes(fuzz_readers.damage(rng, name, samples[name], samples))


def _read_data(_: Any, folder: Path) -> None:
    from hanlin.core.errors import UserError
    from hanlin.data.formats.convert import convert
    from hanlin.data.report.inspect import inspect

    for path in sorted(folder.iterdir()):
        (row,) = inspect([str(path)], {})
        convert([str(path)], "dpo" if row.get("stage") == "preferences" else "messages", folder / "out.jsonl", {})
        if "error" in row:
            raise UserError("refused")


def _server(folder: Path) -> Any:
    """A server of the tiny model on a loopback port, for the life of the worker."""
    from contextlib import ExitStack

    from hanlin.inference.loading import load_engine
    from live_server import run_server

    stack = ExitStack()
    return stack.enter_context(run_server(load_engine(_model(folder)))), stack


def _damage_request(rng: random.Random, _: Any, folder: Path) -> None:
    bodies = _bodies()
    route = rng.choice(sorted(bodies))
    body = json.dumps({"model": "tiny", **bodies[route]}).encode()
    (folder / "route").write_text(route, encoding="utf-8")
    (folder / "body.json").write_bytes(damage_json_file(rng, body, ("messages", "stream", "n", "seed", "format")))


def _send_request(prepared: Any, folder: Path) -> None:
    import httpx

    from hanlin.core.errors import UserError

    route, body = (folder / "route").read_text(encoding="utf-8"), (folder / "body.json").read_bytes()
    headers = {"content-type": "application/json"}
    answer = httpx.post(prepared[0].address + route, content=body, headers=headers, timeout=60)
    assert answer.status_code < 500, f"{answer.status_code} {answer.text[:200]}"
    if answer.status_code != 200:
        raise UserError(answer.text[:200].replace("\n", " "))


def _bodies() -> dict[str, dict[str, Any]]:
    """The bodies of the test of damaged bodies."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("bodies", ROOT / "tests" / "serve" / "api" / "test_mutated_bodies.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BODIES  # type: ignore[no-any-return]


TARGETS = {
    target.name: target
    for target in (
        Target("gguf", _gguf, _damage_gguf, _read_gguf),
        Target("safetensors", _model, _damage_weights, _check_folder),
        Target("config", _model, _damage_config, _load_model),
        Target("tokenizer", _model, _damage_tokenizer, _load_tokenizer),
        Target("sentencepiece", _sentencepiece, _damage_sentencepiece, _load_tokenizer),
        Target("templates", lambda _: None, _damage_template, _render_template),
        Target("adapters", _adapter, _damage_adapter, _load_adapter),
        Target("manifests", _manifest, _damage_manifest, _read_lineage),
        Target("recipes", lambda _: None, _damage_recipe, _read_recipe),
        Target("data", _samples, _damage_data, _read_data),
        Target("imports", _gguf_models, layouts.damage_gguf_model, layouts.import_gguf_model),
        Target("checkpoints", _checkpoint, layouts.damage_checkpoint, layouts.import_checkpoint),
        Target("requests", _server, _damage_request, _send_request),
    )
}
