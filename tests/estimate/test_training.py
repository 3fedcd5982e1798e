"""What a plan foretells is what training then has: numbers trained, bytes of each part, operations, files, advice."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from hanlin.config.kinds import KINDS, StageKind
from hanlin.config.recipe import build_recipe
from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.preference import Dpo, Kto
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Message, Preference, ToolCall, write_jsonl
from hanlin.estimate import machine
from hanlin.estimate.advice import suggest_changes
from hanlin.estimate.batch_plan import BatchPlan, DatasetStats
from hanlin.estimate.dataset_stats import _parts, sample_dataset
from hanlin.estimate.flops import disk_usage, reference_operations, step_operations
from hanlin.estimate.machine import measure_speeds, parse_memory_size
from hanlin.estimate.memory import MAX_KEPT_PROBS_LENGTH, TILE_LOGITS, Machine, Sharding, TrainingSetup
from hanlin.estimate.shapes import ModelShape, TrainableCounts
from hanlin.estimate.training import Estimate, UnknownEstimate, estimate_training
from hanlin.models.adapters import attach_lora, count_parameters
from hanlin.models.folder.checks import check_model_folder
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from hanlin.train import stages
from hanlin.train.callbacks.checkpoint import Checkpointer
from hanlin.train.compute import tiled_loss
from hanlin.train.compute.lm_head_loss import chunk_tokens
from hanlin.train.compute.model import Precision, TrainModel
from hanlin.train.dataset.document_layout import MAX_MATMUL_LENGTH, DocumentLayout
from hanlin.train.dataset.packed import MicroBatch
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.ddp import DDP
from hanlin.train.load import load_train_model
from hanlin.train.optim.build import build_optimizer

CPU = torch.device("cpu")
LLAMA3_8B = ModelShape(128_256, 4096, 14_336, 32, 32, 8, 128)
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "last layers": {"train_last_layers": 1},
    "LoRA": {"lora": LoraSettings(rank=4)},
    "LoRA of some projections of the last layers": {
        "lora": LoraSettings(rank=4, targets=("q_proj", "down_proj")),
        "train_last_layers": 1,
    },
    "DoRA": {"lora": LoraSettings(rank=4, dora=True)},
    "embeddings, head and norms whole": {
        "lora": LoraSettings(rank=4, modules_to_save=("embed_tokens", "lm_head", "norm"))
    },
    "new rows alone": {"trainable_tokens": 390},
    "new rows beside an adapter": {"trainable_tokens": 390, "lora": LoraSettings(rank=4)},
    "galore": {"optimizer": "galore", "galore_rank": 8},
}


def sft(**changes: Any) -> Sft:
    return Sft(**{"model": "m", "data": ("d",), "max_seq_length": 128, "batch_tokens": 512, **changes})


def setup_of(shape: ModelShape, settings: Training, data: DatasetStats | None = None, **more: Any) -> TrainingSetup:
    return TrainingSetup(shape, settings, BatchPlan.of(settings, data), **more)


@pytest.fixture(scope="module")
def shape(tiny_model: Path) -> ModelShape:
    files = check_model_folder(tiny_model)
    return ModelShape.of_config(files.config, files.dtype)


def opened(tiny_model: Path, settings: Training) -> TrainModel:
    return load_train_model(tiny_model, settings, 7, CPU, "float32")


def one_pass(count: int, length: int, vocab_size: int) -> MicroBatch:
    tokens = count * length
    return MicroBatch(
        torch.randint(0, vocab_size, (1, tokens)),
        torch.arange(length).repeat(count)[None],
        torch.arange(tokens),
        torch.randint(0, vocab_size, (tokens,)),
        (length,) * count,
        DocumentLayout([length] * count),
        tuple(range(count)),
        tokens,
    )


# ------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("method", METHODS)
def test_numbers_and_their_averages_are_counted_as_training_has_them(
    method: str, tiny_model: Path, shape: ModelShape
) -> None:
    settings = sft(**METHODS[method])
    model = opened(tiny_model, settings)
    counted = count_parameters(model.hf_model)
    assert TrainableCounts.of(shape, settings).total == sum(
        weight.numel() for _, weight in model.trainable_parameters()
    )
    assert counted.trainable == TrainableCounts.of(shape, settings).total
    if settings.lora is None and settings.trainable_tokens is None:
        assert counted.total == shape.parameters
    taken = build_optimizer(settings, list(model.trainable_parameters()), CPU)
    for _, weight in model.trainable_parameters():
        weight.grad = torch.ones_like(weight)
    taken.step()
    held = sum(
        value.numel() * value.element_size()
        for state in taken.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    )
    assert setup_of(shape, settings).optimizer() == pytest.approx(held, rel=0.001)


@pytest.mark.parametrize("method", ["full", "LoRA", "galore"])
def test_a_checkpoint_copies_as_many_bytes_as_estimated(
    method: str, tiny_model: Path, shape: ModelShape, tmp_path: Path
) -> None:
    settings = sft(**METHODS[method])
    model = opened(tiny_model, settings)
    strategy = DDP(model, settings, DistContext(0, 1, CPU))
    for weight in strategy.trainable.values():
        weight.grad = torch.ones_like(weight)
    strategy.step()
    checkpoints = Checkpointer(tmp_path, 60.0)
    checkpoints.save(1, 0.0, strategy)
    checkpoints.wait()
    saved = checkpoints.load_newest()
    assert saved is not None
    tensors = [
        *saved.weights.values(),
        *(value for state in saved.optimizer_state["state"].values() for value in state.values()),
    ]
    held = sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor) and value.numel() > 1)
    estimated = setup_of(shape, settings)
    assert estimated.checkpoint() == pytest.approx(held, rel=0.001)
    if method == "full":
        assert estimated.checkpoint() == 12 * estimated.trained.total
    assert estimated.memory().parts["checkpoint"] == estimated.checkpoint()
    assert setup_of(shape, settings, machine=Machine(gpu=True)).memory().parts["checkpoint"] == 0


def test_the_shape_of_llama_3_has_its_8_billion_numbers() -> None:
    assert LLAMA3_8B.parameters == 8_030_261_248


@pytest.mark.parametrize("method", ["full", "LoRA", "embeddings, head and norms whole", "last layers"])
def test_weights_in_float32_are_the_bytes_that_the_network_keeps(
    method: str, tiny_model: Path, shape: ModelShape
) -> None:
    settings = sft(**METHODS[method])
    model = opened(tiny_model, settings)
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in weights(model)}
    assert setup_of(shape, settings).weights() == pytest.approx(sum(storages.values()), rel=0.01)


def weights(model: TrainModel) -> list[torch.Tensor]:
    return list(model.hf_model.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_are_the_bytes_that_autograd_keeps(
    precision: Precision, tiny_model: Path, shape: ModelShape
) -> None:
    """But for rotary angles and what belongs to a pass as a whole."""
    settings = sft(max_seq_length=256, micro_batch_tokens=512, batch_tokens=512, lora=LoraSettings(rank=4))
    model = load_train_model(tiny_model, settings, 7, CPU, precision)
    batch = one_pass(4, 128, shape.vocab_size)
    own = {weight.untyped_storage().data_ptr() for weight in weights(model)}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss_sum(batch)
    estimated = setup_of(shape, settings, machine=Machine(precision))
    assert estimated.batch.documents == (128.0,)
    assert estimated.activations() == pytest.approx(sum(kept.values()), rel=0.1)
    loss.backward()


def test_shares_are_kept_of_documents_as_long_as_attention_keeps_them() -> None:
    assert {getattr(torch, name): longest for name, longest in MAX_KEPT_PROBS_LENGTH.items()} == MAX_MATMUL_LENGTH


@pytest.mark.parametrize("vocab_size", [320, 32_000, 128_256])
@pytest.mark.parametrize("method", ["full", "LoRA"])
def test_pieces_of_the_head_are_those_of_the_loss(method: str, vocab_size: int, shape: ModelShape) -> None:
    settings = sft(**METHODS[method])
    for gpu in (False, True):
        found = setup_of(
            dataclasses.replace(shape, vocab_size=vocab_size), settings, machine=Machine(gpu=gpu)
        ).loss_chunk_tokens()
        assert found == chunk_tokens(vocab_size, method == "full", gpu)
    assert TILE_LOGITS == tiled_loss.TILE_LOGITS


@pytest.mark.parametrize("method", ["full", "LoRA", "last layers"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_operations_are_those_that_torch_counts(
    method: str, recomputes: bool, tiny_model: Path, shape: ModelShape
) -> None:
    settings = sft(max_seq_length=128, micro_batch_tokens=512, gradient_checkpointing=recomputes, **METHODS[method])
    model = opened(tiny_model, settings)
    # short: whole products, which torch counts, twice what a causal kernel needs
    micro_batch = one_pass(8, 64, shape.vocab_size)
    more = {torch.ops.aten.addmm_: lambda out, one, other, *_, **__: 2 * one[0] * one[1] * other[1]}
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        model.loss_sum(micro_batch).backward()
    batch = BatchPlan(512, 1, 512.0, 1.0, 1)
    predicted = step_operations(TrainingSetup(shape, settings, batch))
    assert predicted == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_long_documents_cost_more_attention() -> None:
    """Of 32,768 tokens in a row, attention of an 8B model costs more than half as much as its matrices."""
    settings = Pretrain(model="m", data=("d",), max_seq_length=32_768)
    operations = []
    for tokens, parts in ((500.0, (500.0,)), (100_000.0, (32_768.0,) * 3 + (1_696.0,))):
        setup = setup_of(LLAMA3_8B, settings, DatasetStats(100_000, tokens, 1.0, (tokens,)))
        assert setup.batch.documents == parts
        operations.append(step_operations(setup))
    assert 1.4 < operations[1] / operations[0] < 1.7


def test_answers_with_a_frozen_head_cost_what_their_tokens_cost() -> None:
    lora = LoraSettings(rank=8)
    batch = BatchPlan(512, 1, 512.0, 0.5, 1, (128.0,))
    row: dict[str, Any] = {"model": "m", "data": ("d",)}

    def operations(pairs: bool, **more: Any) -> float:
        settings = Dpo(**row, **more) if pairs else Sft(**row, **more)
        return step_operations(TrainingSetup(LLAMA3_8B, settings, batch))

    assert operations(True, lora=lora) == operations(False, lora=lora)
    assert operations(True) - operations(False) == 2.0 * LLAMA3_8B.embedding_parameters * 256


def test_zero_divides_what_it_divides(shape: ModelShape) -> None:
    alone = setup_of(shape, sft())
    two = setup_of(shape, sft(), sharding=Sharding(1, 4, 4))
    three = setup_of(shape, sft(), sharding=Sharding(4, 4, 4))
    assert two.gradients() == alone.gradients() / 4 and two.optimizer() == alone.optimizer() / 4
    assert two.weights() == alone.weights() and three.weights() == alone.weights() / 4
    assert alone.memory().peak > two.memory().peak > three.memory().peak
    assert alone.checkpoint() == two.checkpoint() == three.checkpoint(), "one process brings it together"


def test_a_model_is_read_whole_before_it_is_divided() -> None:
    """So that many processes of an adapter hold most while they load."""
    adapter = sft(max_seq_length=512, micro_batch_tokens=512, lora=LoraSettings(rank=4))
    sharded = setup_of(LLAMA3_8B, adapter, sharding=Sharding(8, 8, 8))
    whole = setup_of(LLAMA3_8B, adapter).weights()
    assert sharded.memory().parts["weights"] == whole + LLAMA3_8B.file_bytes


# ---------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("kind", ["sft", "pretrain", "dpo"])
def test_tokens_of_data_are_estimated_within_a_third_without_a_tokenizer(
    kind: str, tmp_path: Path, shared_data: Path
) -> None:
    """Beside Llama 3's own tokenizer on real text."""
    import gzip

    import tokenizers

    raw = gzip.decompress((shared_data / "tokenizer" / "llama3" / "tokenizer.json.gz").read_bytes())
    tokenizer = tokenizers.Tokenizer.from_buffer(raw)
    rows = json.loads((shared_data / "sft" / "ruozhiba_qa2449_gpt4t.json").read_text(encoding="utf-8"))[:200]
    pairs = [(str(row["instruction"]), str(row["output"])) for row in rows]
    records: list[Any]
    if kind == "sft":
        records = [
            Conversation((Message("user", a), Message("assistant", b)), id=str(n)) for n, (a, b) in enumerate(pairs)
        ]
        settings: Training = sft()
        wanted = sum(len(tokenizer.encode(a).ids) + len(tokenizer.encode(b).ids) + 10 for a, b in pairs)
    elif kind == "pretrain":
        records = [Document(b, id=str(n)) for n, (_, b) in enumerate(pairs)]
        settings = Pretrain(model="m", data=("d",))
        wanted = sum(len(tokenizer.encode(b).ids) + 2 for _, b in pairs)
    else:
        records = [
            Preference((Message("user", a),), Message("assistant", b), Message("assistant", b[::-1]), id=str(n))
            for n, (a, b) in enumerate(pairs)
        ]
        settings = Dpo(model="m", data=("d",))
        wanted = sum(len(tokenizer.encode(a).ids) + 2 * len(tokenizer.encode(b).ids) + 15 for a, b in pairs)
    write_jsonl(tmp_path / f"{records[0].kind}.jsonl", records)
    found = sample_dataset(settings, [tmp_path], 128_256)
    assert found is not None and found.units == len(records)
    assert found.total == pytest.approx(wanted, rel=1 / 3)


def test_reasoning_calls_and_tools_are_tokens_too(tmp_path: Path) -> None:
    """An answer of a thinking model is mostly its reasoning; an agent's turn is mostly its call."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"description": "参" * 300}}}
    call = ToolCall("f", {"x": "数" * 200})
    plain = [Message("user", "问" * 20), Message("assistant", "答" * 20)]

    def stats(*messages: Message, tools: Any = (), **settings: Any) -> DatasetStats:
        write_jsonl(tmp_path / "conversations.jsonl", [Conversation(messages, "a", tools=tools)])
        known = sample_dataset(sft(**settings), [tmp_path], 128_256)
        assert known is not None
        return known

    base = stats(*plain)
    thought = [plain[0], dataclasses.replace(plain[1], reasoning="想" * 500)]
    for reasoning, more, learned in (("learn", 500, 500), ("read", 500, 0), ("drop", 0, 0)):
        known = stats(*thought, reasoning=reasoning)
        assert known.tokens - base.tokens == pytest.approx(0.68 * more, abs=6)
        assert known.learned * known.tokens - base.learned * base.tokens == pytest.approx(0.68 * learned, abs=6)
    called = stats(plain[0], Message("assistant", "", (call,)), Message("tool", "果", name="f"), plain[1])
    assert called.learned * called.tokens - base.learned * base.tokens > 0.68 * 200
    with_tools = stats(*plain, tools=(tool,))
    assert with_tools.tokens - base.tokens > 0.68 * 300
    assert with_tools.learned * with_tools.tokens == pytest.approx(base.learned * base.tokens)


def test_what_is_not_learned_is_not_counted_as_learned(tmp_path: Path) -> None:
    first, last = Message("assistant", "甲" * 100), Message("assistant", "乙" * 100)
    turns = (Message("user", "问"), first, Message("user", "问"), last)

    def learned(messages: tuple[Message, ...], **settings: Any) -> float:
        write_jsonl(tmp_path / "conversations.jsonl", [Conversation(messages, "a")])
        known = sample_dataset(sft(**settings), [tmp_path], 128_256)
        assert known is not None
        return known.learned * known.tokens

    both = learned(turns)
    assert learned(turns, train_on="last") == pytest.approx(both / 2)
    only_read = (turns[0], dataclasses.replace(first, train=False), *turns[2:])
    assert learned(only_read) == pytest.approx(both / 2)


def test_data_that_is_not_there_is_not_known(tmp_path: Path) -> None:
    assert sample_dataset(sft(), [tmp_path], 1000) is None
    assert BatchPlan.of(sft(), None).steps is None
    assert BatchPlan.of(sft(steps=7), None).steps == 7


def test_a_step_of_fewer_rows_than_a_pass_takes_is_one_pass() -> None:
    assert BatchPlan.of(sft(batch_tokens=256, micro_batch_tokens=4096), None).micro_batch_tokens == 256
    more = BatchPlan.of(sft(batch_tokens=1024, micro_batch_tokens=256), None)
    assert (more.micro_batch_tokens, more.accumulation_steps) == (256, 4)
    assert BatchPlan.of(sft(batch_tokens=1024, micro_batch_tokens=256), None, processes=4).accumulation_steps == 1


def test_the_longest_pair_sets_the_tokens_of_a_micro_batch(tmp_path: Path) -> None:
    """A pair is not divided: fewer `micro_batch_tokens` than it has save nothing. One longer than a row is dropped."""
    texts = [Message("assistant", "好" * count) for count in (10, 400, 700, 5000)]
    pairs = [Preference((Message("user", "问"),), text, texts[0], id=str(len(text.text))) for text in texts]
    write_jsonl(tmp_path / "preferences.jsonl", pairs)
    settings = Dpo(model="m", data=("d",), max_seq_length=1024, micro_batch_tokens=128)
    known = sample_dataset(settings, [tmp_path], 128_256)
    assert known is not None and 0.6 * 700 < known.longest < 0.8 * 700
    batch = BatchPlan.of(settings, dataclasses.replace(known, tokens=100.0), processes=8)
    assert known.longest <= batch.micro_batch_tokens < known.longest + 1
    stats = DatasetStats(1000, 300.0, 0.5, (200.0, 700.0), longest=900.0)
    whole = setup_of(LLAMA3_8B, settings.model_copy(update={"micro_batch_tokens": 1024}), stats)
    changes = [change.setting for change in suggest_changes(whole, stats, 1e9)]
    assert "micro_batch_tokens=512" not in changes and "micro_batch_tokens=256" not in changes


def test_rows_of_another_form_are_passed_over(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"prompt": None, "messages": None},
        {"prompt": 3, "chosen": None, "rejected": None},
        {"rejected": {"text": "不"}},
        {"prompt": [{"role": "user", "text": "问"}], "chosen": {"text": "好"}, "rejected": {"text": "不"}},
        {"messages": [{"role": "user", "text": "问"}, {"role": "assistant", "text": "好"}]},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("preferences", "conversations", "unpaired_preferences"):
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for settings in (Dpo(model="m", data=("d",)), Kto(model="m", data=("d",)), sft()):
        known = sample_dataset(settings, [tmp_path], 1000)
        assert known is not None and known.units > 0


def test_a_gpu_that_the_environment_hides_is_not_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "Path", lambda name: SimpleNamespace(glob=lambda pattern: ["/dev/nvidia0"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.has_gpu()
    for value, is_visible in (("0", True), ("1,0", True), ("GPU-8932f937", True), ("", False), ("-1", False)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert machine.has_gpu() == is_visible


def test_steps_and_files_of_a_run_are_as_estimated(tmp_path: Path, tiny_model: Path, shape: ModelShape) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    texts = [Document("翰林院在城东，春天的时候院子里开满了花。" * 3, id=str(n)) for n in range(20)]
    write_jsonl(data / "documents.jsonl", texts)
    settings = Pretrain(
        model="m", data=("d",), max_seq_length=64, batch_tokens=256, precision="float32", lora=LoraSettings(rank=4)
    )
    known = sample_dataset(settings, [data], shape.vocab_size)
    assert known is not None
    metrics = stages.pretrain(settings, Inputs({"model": (tiny_model,), "data": (data,)}), out, StageContext())
    assert BatchPlan.of(settings, known).steps == pytest.approx(metrics["steps"], rel=0.6)  # a tokenizer of 400 entries
    usage = disk_usage(setup_of(shape, settings, known), known.total)
    assert usage.artifact == pytest.approx((out / "adapter_model.safetensors").stat().st_size, rel=0.1)


# --------------------------------------------------------------------------------------------------------- advice


def test_advice_makes_8_billion_numbers_fit_a_card_of_24_gigabytes() -> None:
    settings = sft(max_seq_length=2048, batch_tokens=32_768, precision="bfloat16")
    memory_limit = 24e9 * 0.95
    whole = setup_of(LLAMA3_8B, settings, machine=Machine("bfloat16", gpu=True))
    assert whole.memory().peak > 100e9
    found = suggest_changes(whole, None, memory_limit)
    peaks = [whole.memory().peak, *(change.peak for change in found)]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] <= memory_limit < peaks[-2]
    names = [change.setting for change in found]
    assert names[:2] == ["micro_batch_tokens=2048", "gradient_checkpointing=true"]
    assert names[-1] == "lora.rank=64 lora.alpha=128"
    (last, *_) = reversed(suggest_changes(whole, None, 12e9))
    assert last.setting == "lora.quantization=nf4" and last.peak < 12e9
    harmless = [change.changes_result for change in found]
    assert harmless == sorted(harmless), "what leaves the result as it is comes first"


def test_what_advice_says_can_be_set_as_it_stands() -> None:
    settings = sft(max_seq_length=2048, batch_tokens=32_768, precision="bfloat16")
    whole = setup_of(LLAMA3_8B, settings, machine=Machine("bfloat16", gpu=True))
    row: dict[str, Any] = {"kind": "sft", **settings.model_dump(mode="json", exclude_none=True)}
    row.pop("data")
    for change in suggest_changes(whole, None, 10e9):
        for part in change.setting.split():
            name, value = part.split("=")
            target = row
            *above, last = name.split(".")
            for key in above:
                target = target.setdefault(key, {})
            target[last] = json.loads(value) if value[0].isdigit() or value == "true" else value
    row.pop("kind")
    Sft.model_validate({**row, "data": ["d"]})


def test_nothing_is_advised_that_a_group_could_not_divide() -> None:
    whole = setup_of(LLAMA3_8B, sft(max_seq_length=2048, batch_tokens=32_768), machine=Machine("bfloat16", gpu=True))
    settings_text = " ".join(change.setting for change in suggest_changes(whole, None, 1e9, sharded=True))
    assert "lora.rank" in settings_text and "adamw_8bit" not in settings_text and "packed" not in settings_text


def test_a_reference_of_its_own_stage_is_not_computed_again(shape: ModelShape) -> None:
    alone, given = (Dpo(model="m", data=("d",), reference=reference) for reference in (None, "measured"))
    assert reference_operations(setup_of(shape, alone), 1000.0) > 0
    assert reference_operations(setup_of(shape, given), 1000.0) == 0


def test_nothing_is_advised_where_all_fits(shape: ModelShape) -> None:
    assert suggest_changes(setup_of(shape, sft()), None, 1e12) == []


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24e9), ("16GiB", 16 * 2**30), ("80G", 80e9), ("1.5 TB", 1.5e12), ("500MB", 5e8)]
)
def test_amounts_of_memory_are_read_as_people_write_them(text: str, size: float) -> None:
    assert parse_memory_size(text) == size


def test_another_word_for_memory_is_refused() -> None:
    with pytest.raises(UserError, match="not an amount of memory"):
        parse_memory_size("much")


# ----------------------------------------------------------------------------------------------------------- plan


def test_a_model_that_an_earlier_stage_makes_has_the_shape_of_its_settings(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("翰林院在城东。\n", encoding="utf-8")
    made = {
        "text": {"kind": "corpus", "sources": [f"{tmp_path}/text.txt"]},
        "words": {"kind": "train_tokenizer", "text": ["text"], "entries": 500},
        "base": {"kind": "init_model", "tokenizer": "words", "hidden_size": 64, "layers": 3, "heads": 4},
        "grown": {"kind": "extend_vocabulary", "model": "base", "text": "text", "new_entries": 100},
        "first": {"kind": "pretrain", "model": "grown", "data": ["text"], "lora": {"rank": 2}},
        "whole": {"kind": "merge", "adapter": "first"},
        "second": {"kind": "pretrain", "model": "whole", "data": ["text"]},
    }
    recipe = build_recipe({"name": "r", "stages": made}, "r.yaml")
    found = estimate_training(recipe, plan(recipe, Store(tmp_path / "home")), lambda settings: Machine())
    assert [one.stage for one in found] == ["first", "second"]
    for one in found:
        assert isinstance(one, Estimate)
        assert (one.setup.shape.vocab_size, one.setup.shape.layers, one.setup.shape.intermediate_size) == (600, 3, 256)
        assert one.setup.batch.steps is None


def test_rows_that_the_adapter_of_init_from_trains_are_counted(
    tmp_path: Path, tiny_model: Path, shape: ModelShape
) -> None:
    (tmp_path / "text.txt").write_text("翰林院在城东。\n", encoding="utf-8")
    vocab_size, lora = shape.vocab_size, {"rank": 2}
    adapter = attach_lora(LlamaForCausalLM.from_pretrained(tiny_model), LoraSettings(rank=2), 7, (5, 9, vocab_size - 1))
    adapter.save_pretrained(str(tmp_path / "adapter"))
    trained = {"kind": "pretrain", "model": str(tiny_model), "data": ["text"], "lora": lora}
    made = {
        "text": {"kind": "corpus", "sources": [f"{tmp_path}/text.txt"]},
        "given": {**trained, "init_from": f"{tmp_path}/adapter"},
        "more": {**trained, "init_from": f"{tmp_path}/adapter", "trainable_tokens": vocab_size - 2},
        "first": {**trained, "trainable_tokens": vocab_size - 4},
        "second": {**trained, "init_from": "first"},
    }
    recipe = build_recipe({"name": "r", "stages": made}, "r.yaml")
    found = estimate_training(recipe, plan(recipe, Store(tmp_path / "home")), lambda settings: Machine())
    per_row = shape.hidden_size * (1 if shape.tied else 2)
    assert [(one.stage, one.setup.trained.rows) for one in found if isinstance(one, Estimate)] == [
        ("given", 3 * per_row), ("more", 4 * per_row), ("first", 4 * per_row), ("second", 4 * per_row),
    ]  # fmt: skip
    (given, *_) = found
    assert isinstance(given, Estimate)
    assert given.setup.trained.total == sum(p.numel() for p in adapter.parameters() if p.requires_grad)


def test_a_model_that_is_not_on_this_machine_is_said_to_be_unknown(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("翰林院在城东。\n", encoding="utf-8")
    made = {
        "text": {"kind": "corpus", "sources": [f"{tmp_path}/text.txt"]},
        "first": {"kind": "pretrain", "model": "hf:owner/name@abc123", "data": ["text"]},
    }
    recipe = build_recipe({"name": "r", "stages": made}, "r.yaml")
    (one,) = estimate_training(recipe, plan(recipe, Store(tmp_path / "home")), lambda settings: Machine())
    assert isinstance(one, UnknownEstimate) and "hf:owner/name@abc123" in one.why


def planned(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanlin", "plan", "recipes/quickstart.yaml", "--home", str(home), *words]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")


def test_the_plan_tells_memory_by_part_and_published_costs(tmp_path: Path) -> None:
    done = planned("--costs", "--device", "cpu", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Peak memory of a process, GB" in done.stdout and "QLoRA, 4 bits" in done.stdout
    rows = json.loads(planned("--json", "--device", "cpu", home=tmp_path).stdout)
    estimates = {row["stage"]: row["estimate"] for row in rows if "estimate" in row}
    assert set(estimates) == {"pretrained", "tuned", "aligned"}
    for estimate in estimates.values():
        assert sum(estimate["memory"].values()) == pytest.approx(estimate["peak_memory"], abs=10)


def test_a_plan_that_does_not_fit_says_what_to_set(tmp_path: Path) -> None:
    done = planned("--memory", "600MB", "--device", "cpu", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--set aligned.micro_batch_tokens=" in done.stdout
    assert planned("--memory", "plenty", home=tmp_path).returncode == 2


@pytest.mark.slow
def test_a_probe_tells_the_seconds_of_a_step(shape: ModelShape, tmp_path: Path) -> None:
    asked: list[tuple[str, TrainingSetup]] = [
        ("sft", setup_of(shape, sft())),
        ("sft", setup_of(shape, sft(lora=LoraSettings(rank=4), trainable_tokens=390))),
        ("kto", setup_of(shape, Kto(model="m", data=("d",), max_seq_length=128))),
    ]
    for speed, process in measure_speeds(asked):
        assert 0 < speed.share < 1
        assert 0.2e9 < process < 2e9


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if issubclass(kind.settings, Training)], ids=lambda kind: kind.name
)
def test_the_texts_of_every_training_kind_are_estimated(kind: StageKind) -> None:
    """A new kind of training is estimated without a row of its own: a list of kinds would be forgotten."""
    message = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    row = {"text": "文", "messages": message, "prompt": message[:1], "chosen": message[1], "rejected": message[1]}
    row |= {"answer": message[1]}
    fields = {"model": "./m", "data": ["./d"]}
    settings = kind.settings.model_validate(fields)
    assert isinstance(settings, Training)
    assert any(target for _, target in _parts(settings, row))


def test_a_measurement_that_does_not_end_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_too_long(command: list[str], timeout: float, **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("hanlin.estimate.machine.run_process", wait_too_long)
    with pytest.raises(UserError, match="did not end within 300 s"):
        measure_speeds([])
