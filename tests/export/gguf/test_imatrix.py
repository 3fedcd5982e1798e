"""An importance matrix: what it holds, its two file formats, and that quantizers use it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Ggml
from transformers import LlamaForCausalLM, MixtralForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import NEEDS_IMPORTANCE, GgufType, Imatrix
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Message, write_jsonl
from hanlin.export.gguf import imatrix
from hanlin.export.gguf.imatrix import collect_imatrix, run
from hanlin.export.gguf.imatrix_file import ImportanceMatrix, InputSums, read_imatrix, write_imatrix
from hanlin.export.gguf.quant_types import FILE_TYPES, QuantShape, requires_imatrix, tensor_type
from hanlin.export.gguf.quantize import encode_rows

Make = Callable[..., Path]
Export = Callable[..., tuple[Path, dict[str, Any]]]
RANDOM = np.random.default_rng(0)
MATRIX = ImportanceMatrix(
    {
        "blk.0.attn_q.weight": InputSums(np.array([4.0, 8.0], np.float32), 4, np.array([1.0, -1.0], np.float32)),
        "blk.0.ffn_down.weight": InputSums(np.array([2.0, 6.0, 1.0], np.float32), 2),
    },
    ("对话.jsonl",),
    1,
    4,
)
ROWS = [[1, 5, 7, 9, 11, 13], [1, 40, 41]]


@pytest.mark.parametrize("name", ["imatrix.gguf", "imatrix.dat"])
def test_a_matrix_that_is_written_and_read_weighs_columns_alike(tmp_path: Path, name: str) -> None:
    write_imatrix(tmp_path / name, MATRIX)
    back = read_imatrix(tmp_path / name)
    assert (back.datasets, back.chunks) == (MATRIX.datasets, 1)
    for tensor, used in MATRIX.used.items():
        weights = back.weights(tensor, len(used.in_sum2))
        assert weights is not None
        assert np.array_equal(weights[0], used.in_sum2 / used.count), tensor


def test_the_new_format_keeps_every_sum(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "one.gguf", MATRIX)
    write_imatrix(tmp_path / "two.gguf", read_imatrix(tmp_path / "one.gguf"))
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_the_old_format_is_means_times_chunks_as_llama_cpp_lays_it_out(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "imatrix.dat", MATRIX)
    name = b"blk.0.attn_q.weight"
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii2f", 1, 2, 1.0, 2.0)
    assert (tmp_path / "imatrix.dat").read_bytes().startswith(struct.pack("<i", 2) + entry)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00", b"\xff" * 64, struct.pack("<ii", 1, 9)])
def test_a_file_that_is_no_matrix_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "imatrix").write_bytes(content)
    with pytest.raises(UserError, match="importance matrix"):
        read_imatrix(tmp_path / "imatrix")


def test_a_matrix_whose_counts_are_empty_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "imatrix")
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 4), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.zeros((0, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="not an importance matrix"):
        read_imatrix(tmp_path / "imatrix.gguf")


def test_the_sums_are_of_what_each_matrix_is_given(plain_model: Path) -> None:
    found = collect_imatrix(plain_model, ROWS, 4)
    model = LlamaForCausalLM.from_pretrained(plain_model)
    outputs = [model.model(torch.tensor([row]), output_hidden_states=True).hidden_states for row in ROWS]
    first = torch.cat([model.model.layers[0].input_layernorm(states[0][0]) for states in outputs]).detach()
    assert len(found.used) == 2 * 7
    for part in ("attn_q", "attn_k", "attn_v"):
        used = found.used[f"blk.0.{part}.weight"]
        assert used.count == 9
        assert np.allclose(used.in_sum2, first.square().sum(0), rtol=1e-4)
        assert used.in_sum is not None and np.allclose(used.in_sum, first.sum(0), rtol=1e-3, atol=1e-4)
    assert np.array_equal(found.used["blk.1.ffn_up.weight"].in_sum2, found.used["blk.1.ffn_gate.weight"].in_sum2)
    assert len(found.used["blk.1.ffn_down.weight"].in_sum2) == 128


@pytest.fixture
def sparse_model(make_model: Make) -> Path:
    """A model of four experts, two of which compute a position."""
    return make_model(num_local_experts=4, num_experts_per_tok=2, hidden_size=256, intermediate_size=512)


def test_each_expert_has_the_sums_of_the_positions_that_it_computes(sparse_model: Path) -> None:
    rows = [[1, 5, 7, 9, 11, 13], [1, 40]]
    found = collect_imatrix(sparse_model, rows, 4)
    model = MixtralForCausalLM.from_pretrained(sparse_model)
    moe: Any = model.model.layers[1].mlp
    given: list[torch.Tensor] = []
    moe.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].detach()[0]))
    for row in rows:
        model.model(torch.tensor([row]), use_cache=False)
    counts, squares = [0] * 4, {"ffn_gate_exps": np.zeros((4, 256)), "ffn_down_exps": np.zeros((4, 512))}
    for position in torch.cat(given):
        for expert in (moe.gate.weight @ position).topk(2).indices.tolist():
            gate, up = (moe.experts.gate_up_proj[expert] @ position).detach().chunk(2)
            counts[expert] += 1
            squares["ffn_gate_exps"][expert] += position.double().square().numpy()
            squares["ffn_down_exps"][expert] += (torch.nn.functional.silu(gate) * up).double().square().numpy()
    for name, expected in squares.items():
        used = found.used[f"blk.1.{name}.weight"]
        assert used.expert_counts == tuple(counts) and sum(counts) == 2 * 8
        assert np.allclose(used.in_sum2.reshape(4, -1), expected, rtol=1e-4, atol=1e-6), name
    assert np.array_equal(
        found.used["blk.1.ffn_up_exps.weight"].in_sum2, found.used["blk.1.ffn_gate_exps.weight"].in_sum2
    )
    assert found.used["blk.1.ffn_gate_inp.weight"].count == 8
    assert len(found.used) == 2 * (4 + 3 + 1)
    assert found.chunks == 2


def test_experts_in_two_bits_follow_their_matrix(make_model: Make, export: Export, tmp_path: Path) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    model = make_model(num_local_experts=4, num_experts_per_tok=2, **shape)
    made = make_matrix(model, data_folder(tmp_path / "data", 20), tmp_path / "matrix")
    assert made["entries"] == 4 + 3 + 1
    out, metrics = export(model, "IQ2_XS", "Q4_K_M", importance=tmp_path / "matrix" / "imatrix.gguf")
    stored = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(out / "model-IQ2_XS.gguf").tensors}
    assert stored["blk.0.ffn_gate_exps.weight"] == stored["blk.0.ffn_up_exps.weight"] == Ggml.IQ2_XS
    assert metrics["IQ2_XS"]["kl"] > metrics["Q4_K_M"]["kl"] > 0  # of the file, as llama.cpp computes it


def test_an_expert_that_no_position_chose_weighs_all_columns_alike_in_both_formats(tmp_path: Path) -> None:
    sums = InputSums(np.array([4.0, 8.0, 0.0, 0.0, 3.0, 6.0], np.float32), 4, None, (4, 0, 3))
    matrix = ImportanceMatrix({"blk.0.ffn_up_exps.weight": sums}, ("文.jsonl",), 1, 4)
    for name in ("imatrix.gguf", "imatrix.dat"):
        write_imatrix(tmp_path / name, matrix)
        weights = read_imatrix(tmp_path / name).weights("blk.0.ffn_up_exps.weight", 2, 3)
        assert weights is not None and weights.tolist() == [[1.0, 2.0], [1.0, 1.0], [1.0, 2.0]], name


def data_folder(folder: Path, count: int) -> Path:
    folder.mkdir()
    write_jsonl(folder / "documents.jsonl", [Document(f"翰林院在城东，第{n}年。", f"d{n}") for n in range(count)])
    return folder


def make_matrix(model: Path, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    chosen = Imatrix(model="./m", data=("./d",), **settings)
    return run(chosen, Inputs({"model": (model,), "data": (data,)}), out, StageContext())


def test_conversations_are_read_as_the_template_renders_them(plain_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    chat = Conversation((Message("user", "你叫什么名字？"), Message("assistant", "我叫小翰。")), "c1")
    write_jsonl(data / "conversations.jsonl", [chat])
    metrics = make_matrix(plain_model, data, tmp_path / "out")
    (rendered,) = ChatTemplate.load(plain_model).render_conversation(chat)
    assert metrics["tokens"] == len(rendered.ids)


def test_a_killed_collection_goes_on_to_the_same_bytes(
    plain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_folder(tmp_path / "data", 12)
    make_matrix(plain_model, data, tmp_path / "whole")
    monkeypatch.setattr(imatrix, "_SAVED_EVERY", 4)
    read = imatrix._read
    seen = []

    def killed(model: Any, row: Any) -> None:
        seen.append(row)
        if len(seen) == 7:
            raise KeyboardInterrupt
        read(model, row)

    monkeypatch.setattr(imatrix, "_read", killed)
    with pytest.raises(KeyboardInterrupt):
        make_matrix(plain_model, data, tmp_path / "broken")
    make_matrix(plain_model, data, tmp_path / "broken")
    assert len(seen) == 7 + 12 - 4
    assert (tmp_path / "whole/imatrix.gguf").read_bytes() == (tmp_path / "broken/imatrix.gguf").read_bytes()


@pytest.mark.parametrize("left", [0, 10, -50])
def test_sums_that_a_crash_of_the_machine_cut_off_count_as_none(left: int, tmp_path: Path) -> None:
    sums = imatrix._Sums(2, rows=1)
    sums.add("0.mlp.up_proj", torch.ones(3, 4))
    sums.write(tmp_path / "sums.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "sums.npz").read_bytes()[:left])
    for name, rows in (("sums.npz", 1), ("cut.npz", 0)):
        again = imatrix._Sums(2)
        again.read(tmp_path / name)
        assert (again.rows, len(again.counts)) == (rows, rows)


def test_only_so_many_tokens_are_read(plain_model: Path, tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", 50)
    assert make_matrix(plain_model, data, tmp_path / "out", tokens=100)["tokens"] in (99, 100)


@pytest.mark.parametrize("kind", [Ggml.Q4_K, Ggml.Q3_K, Ggml.Q2_K, Ggml.Q4_0, Ggml.IQ4_XS, Ggml.IQ2_XS, Ggml.IQ3_XXS])
def test_columns_that_matter_are_rounded_more_carefully(kind: Ggml) -> None:
    rows = RANDOM.standard_normal((16, 512)).astype(np.float32)
    weights = np.where(np.arange(512) % 8 == 0, 100.0, 1.0).astype(np.float32)
    flat = np.ones(512, np.float32)

    def error(importance: np.ndarray) -> float:
        back = gguf.quants.dequantize(encode_rows(kind, rows, importance), kind)
        return float((weights * (back - rows) ** 2).sum())

    assert error(weights) < error(flat)


def test_the_types_that_need_a_matrix_are_known_beforehand() -> None:
    shape = QuantShape(layers=32, heads=32, kv_heads=8, tied=False)
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = [f"blk.{layer}.{part}.weight" for layer in range(32) for part in parts]
    needing = {
        name
        for name in FILE_TYPES
        for tensor in tensors
        if requires_imatrix(tensor, tensor_type(tensor, name, shape, 4096, 2), name)
    }
    assert needing == set(NEEDS_IMPORTANCE)
    assert set(get_args(GgufType)) == set(FILE_TYPES)


def test_types_below_three_bits_are_refused_without_a_matrix(make_model: Make, export: Export) -> None:
    model = make_model(hidden_size=256, intermediate_size=256)
    with pytest.raises(UserError, match="importance matrix"):
        export(model, "IQ2_XS", compare=False)


def test_a_matrix_of_another_model_is_refused(make_model: Make, export: Export, tmp_path: Path) -> None:
    write_imatrix(tmp_path / "imatrix.gguf", MATRIX)
    with pytest.raises(UserError, match="columns"):
        export(make_model(), "Q4_0", compare=False, importance=tmp_path / "imatrix.gguf")


def test_the_lowest_types_are_written_with_a_matrix_and_say_so(
    make_model: Make, export: Export, tmp_path: Path
) -> None:
    model = make_model(hidden_size=256, intermediate_size=256)
    make_matrix(model, data_folder(tmp_path / "data", 6), tmp_path / "matrix")
    out, metrics = export(model, "IQ2_XS", "IQ3_XXS", importance=tmp_path / "matrix")
    fields = gguf.GGUFReader(out / "model-IQ2_XS.gguf").fields
    assert fields["quantize.imatrix.entries_count"].contents() == 14
    assert metrics["IQ2_XS"]["bits_per_weight"] < metrics["IQ3_XXS"]["bits_per_weight"] < 5
