"""Fused models: the formulas of each method on numbers that can be checked by hand, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from fused_models import fuse_into
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.surgery.fuse import METHODS, FuseModels
from hanlin.core.errors import UserError
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.models.surgery import fuse, fuse_tensor
from hanlin.models.surgery.fuse import interpolate
from random_models import logits

WEIGHTS = "model.safetensors"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
DELTA_METHODS = [name for name, facts in METHODS.items() if facts.needs_base and name != "model_stock"]


def tensors(*folders: Path, name: str = Q_PROJ) -> list[torch.Tensor]:
    return [load_file(folder / WEIGHTS)[name].double() for folder in folders]


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=1e-6)


def test_linear_is_the_weighted_average(family: dict[str, Path], tmp_path: Path) -> None:
    models = [{"model": "a", "weight": 1.0}, {"model": "b", "weight": 3.0}]
    metrics = fuse_into(tmp_path / "out", family, method="linear", models=models)
    for name in load_file(family["a"] / WEIGHTS):
        a, b, fused = tensors(family["a"], family["b"], tmp_path / "out", name=name)
        assert_equal(fused, a / 4 + 3 * b / 4)
    assert metrics["tensors"] == len(load_file(family["a"] / WEIGHTS)) and metrics["checked_tensors"] >= 10


def test_norms_in_float32_beside_bfloat16_stay_float32(family: dict[str, Path], tmp_path: Path) -> None:
    folders = {key: shutil.copytree(family[key], tmp_path / key) for key in ("a", "b")}
    for folder in folders.values():
        weights = load_file(folder / WEIGHTS)
        mixed = {name: weight if "norm" in name else weight.bfloat16() for name, weight in weights.items()}
        save_file(mixed, folder / WEIGHTS, metadata={"format": "pt"})
    fuse_into(tmp_path / "out", folders, method="linear", models=["a", "b"])
    fused = load_file(tmp_path / "out" / WEIGHTS)
    assert {name for name, weight in fused.items() if weight.dtype == torch.float32} == {
        n for n in fused if "norm" in n
    }


def test_slerp_keeps_the_length_between_models_of_equal_length(family: dict[str, Path], tmp_path: Path) -> None:
    fuse_into(tmp_path / "out", family, method="slerp", models=["a", {"model": "base", "weight": 3.0}])
    a, b, fused = (value.flatten() for value in tensors(family["a"], family["base"], tmp_path / "out"))
    angle = torch.acos(a @ b / a.norm() / b.norm())
    assert_equal(fused, (torch.sin(angle / 4) * a + torch.sin(3 * angle / 4) * b) / torch.sin(angle))


def test_task_arithmetic_adds_the_changes(family: dict[str, Path], tmp_path: Path) -> None:
    models = [{"model": "a", "weight": 0.5}, {"model": "b", "weight": -1.0}]
    fuse_into(tmp_path / "out", family, method="task_arithmetic", models=models, base="base", scale=2.0)
    base, a, b, fused = tensors(family["base"], family["a"], family["b"], tmp_path / "out")
    assert_equal(fused, base + 2 * (0.5 * (a - base) - (b - base)))


def test_ties_trims_elects_a_sign_and_averages_those_that_agree(family: dict[str, Path], tmp_path: Path) -> None:
    fuse_into(tmp_path / "out", family, method="ties", models=["a", "b", "c"], base="base", density=0.2)
    base, *models, fused = tensors(*(family[name] for name in ("base", "a", "b", "c")), tmp_path / "out")
    changes = []
    for model in models:
        change = (model.float() - base.float()).double()
        limit = change.abs().flatten().sort().values[-int(0.2 * change.numel())]
        changes.append(torch.where(change.abs() >= limit, change, 0.0))
    stacked = torch.stack(changes)
    sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    agrees = stacked.sign() == sign
    assert_equal(fused, base + (stacked * agrees).sum(0) / agrees.sum(0).clamp(min=1))


def test_breadcrumbs_drops_the_largest_and_the_smallest(family: dict[str, Path], tmp_path: Path) -> None:
    row: dict[str, Any] = {"models": ["a"], "base": "base", "density": 0.5, "gamma": 0.1}
    fuse_into(tmp_path / "out", family, method="breadcrumbs", **row)
    base, a, fused = tensors(family["base"], family["a"], tmp_path / "out")
    order = (a.float() - base.float()).abs().flatten().sort().values
    kept = (fused != base).flatten()
    magnitudes = (a.float() - base.float()).abs().flatten()
    count = order.numel()
    first = count - int(0.5 * count) - int(0.1 * count)
    assert torch.equal(kept, (magnitudes >= order[first]) & (magnitudes <= order[first + int(0.5 * count) - 1]))


def test_dare_keeps_a_share_at_random_and_the_expected_change(family: dict[str, Path], tmp_path: Path) -> None:
    row: dict[str, Any] = {"models": ["a"], "base": "base", "density": 0.25}
    fuse_into(tmp_path / "out", family, method="dare_linear", **row)
    name = "model.embed_tokens.weight"
    base, a, fused = tensors(family["base"], family["a"], tmp_path / "out", name=name)
    kept = fused != base
    assert abs(kept.double().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / kept.numel())
    assert_equal(fused[kept], (base + 4 * (a - base))[kept])


def test_della_keeps_large_changes_more_often(family: dict[str, Path], tmp_path: Path) -> None:
    row: dict[str, Any] = {"models": ["a"], "base": "base", "density": 0.5, "epsilon": 0.4}
    fuse_into(tmp_path / "out", family, method="della_linear", **row)
    base, a, fused = tensors(family["base"], family["a"], tmp_path / "out", name="model.embed_tokens.weight")
    ranks = (a - base).float().abs().argsort(1).argsort(1).double()
    probabilities = 0.1 + 0.8 * ranks / (ranks.shape[1] - 1)
    kept = fused != base
    for low in (0.0, 0.25, 0.5, 0.75):
        part = (ranks >= low * ranks.shape[1]) & (ranks < (low + 0.25) * ranks.shape[1])
        assert abs(kept[part].double().mean() - probabilities[part].mean()) < 0.03
    assert_equal(fused[kept], (base + (a - base) / probabilities)[kept])


def test_model_stock_moves_the_average_by_the_angle(family: dict[str, Path], tmp_path: Path) -> None:
    fuse_into(tmp_path / "out", family, method="model_stock", models=["a", "b"], base="base")
    base, a, b, fused = tensors(family["base"], family["a"], family["b"], tmp_path / "out")
    cosine = ((a - base) * (b - base)).sum() / (a - base).norm() / (b - base).norm()
    t = 2 * cosine / (1 + cosine)
    assert_equal(fused, t * (a + b) / 2 + (1 - t) * base)


@pytest.mark.parametrize("method", DELTA_METHODS)
def test_a_base_and_nothing_that_differs_from_it_give_the_base(
    family: dict[str, Path], tmp_path: Path, method: str
) -> None:
    density: dict[str, Any] = {} if METHODS[method].pruning == "none" else {"density": 0.5}  # type: ignore[index]
    fuse_into(tmp_path / "out", family, method=method, models=["base"], base="base", **density)
    assert torch.equal(*tensors(family["base"], tmp_path / "out"))


def test_masks_depend_on_the_seed_alone(family: dict[str, Path], tmp_path: Path) -> None:
    row: dict[str, Any] = {"method": "dare_ties", "models": ["a", "b"], "base": "base", "density": 0.5}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        fuse_into(tmp_path / name, family, seed=seed, **row)
    one, again, other = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("one", "again", "other"))
    assert one == again and one != other


@pytest.mark.parametrize("method", ["slerp", "della", "breadcrumbs_ties"])
def test_the_size_of_the_pieces_changes_nothing(
    family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    row: dict[str, Any] = {"method": method, "models": ["a", "b"], "base": "base", "density": 0.3}
    if method == "slerp":
        del row["density"], row["base"]
    fuse_into(tmp_path / "one", family, **row)
    monkeypatch.setattr(fuse_tensor, "PIECE_ENTRIES", 10_000)
    fuse_into(tmp_path / "other", family, **row)
    one, other = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "other" / WEIGHTS)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-7 if method == "slerp" else 0)


def test_of_equal_magnitudes_exactly_as_many_as_the_density_says_are_kept(
    family: dict[str, Path], tmp_path: Path
) -> None:
    rows = load_file(family["base"] / WEIGHTS)
    shutil.copytree(family["base"], tmp_path / "even")
    save_file({name: torch.zeros_like(value) for name, value in rows.items()}, tmp_path / "even" / WEIGHTS)
    shutil.copytree(family["base"], tmp_path / "step")
    steps = {name: torch.ones_like(value) * (1 - 2 * (value > 0).float()) for name, value in rows.items()}
    save_file(steps, tmp_path / "step" / WEIGHTS)
    paths = {"even": tmp_path / "even", "step": tmp_path / "step"}
    fuse_into(tmp_path / "out", paths, method="ties", models=["step"], base="even", density=0.3)
    (fused,) = tensors(tmp_path / "out")
    assert int((fused != 0).sum()) == int(0.3 * fused.numel())


def test_weights_vary_from_block_to_block(family: dict[str, Path], tmp_path: Path) -> None:
    models = [{"model": "a", "weight": [1, 0]}, {"model": "b", "weight": [0, 1]}]
    fuse_into(tmp_path / "out", family, method="linear", models=models)
    fused, a, b = (load_file(folder / WEIGHTS) for folder in (tmp_path / "out", family["a"], family["b"]))
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"):
        assert torch.equal(fused[name], a[name])
    assert torch.equal(fused["model.layers.1.mlp.up_proj.weight"], b["model.layers.1.mlp.up_proj.weight"])


def test_a_gradient_is_linear_between_its_numbers() -> None:
    assert [interpolate((0, 1, 0), position / 4) for position in range(5)] == [0, 0.5, 1, 0.5, 0]
    assert interpolate(0.3, 0.7) == 0.3


def test_rules_give_other_weights_by_pattern_and_block(family: dict[str, Path], tmp_path: Path) -> None:
    rules = [{"tensors": "*.mlp.*", "layers": [1, 1], "weight": 0.0}, {"tensors": "*q_proj*", "weight": 0.5}]
    fuse_into(tmp_path / "out", family, method="task_arithmetic", models=[{"model": "a", "rules": rules}], base="base")
    fused, a, base = (load_file(folder / WEIGHTS) for folder in (tmp_path / "out", family["a"], family["base"]))
    assert torch.equal(fused["model.layers.1.mlp.up_proj.weight"], base["model.layers.1.mlp.up_proj.weight"])
    assert_equal(fused["model.layers.0.mlp.up_proj.weight"], a["model.layers.0.mlp.up_proj.weight"])
    assert_equal(fused[Q_PROJ], (a[Q_PROJ] + base[Q_PROJ]) / 2)


def test_the_fused_folder_loads_and_serves(family: dict[str, Path], tmp_path: Path) -> None:
    metrics = fuse_into(tmp_path / "out", family, method="linear", models=["a", "b"], dtype="bfloat16")
    assert check_model_folder(tmp_path / "out").dtype == metrics["dtype"] == "bfloat16"
    assert torch.isfinite(logits(load_model(tmp_path / "out"))).all()
    assert ChatTemplate.load(tmp_path / "out").source == ChatTemplate.load(family["a"]).to_portable().source


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"method": "ties", "models": ["a"], "density": 0.5}, "ties needs base"),
        ({"method": "ties", "models": ["a"], "base": "base"}, "ties needs density"),
        ({"method": "linear", "models": ["a", "b"], "base": "base"}, "linear does not use base"),
        ({"method": "linear", "models": ["a", "b"], "density": 0.5}, "linear does not use density"),
        ({"method": "linear", "models": ["a"]}, "two models or more"),
        ({"method": "linear", "models": ["a", {"model": "b", "weight": [0, 1e30]}]}, "between -100 and 100"),
        ({"method": "task_arithmetic", "models": ["a"], "base": "base", "scale": -101}, "between -100 and 100"),
        ({"method": "slerp", "models": ["a", "b", "c"]}, "slerp takes two models"),
        ({"method": "model_stock", "models": ["a", {"model": "b", "weight": 2.0}], "base": "base"}, "not use weight"),
        ({"method": "ties", "models": ["a"], "base": "base", "density": 0.5, "gamma": 0.1}, "not use gamma"),
        ({"method": "ties", "models": ["a"], "base": "base", "density": 0.5, "rescale": "probability"}, "at random"),
        ({"method": "della", "models": ["a"], "base": "base", "density": 0.1}, "density - epsilon"),
        ({"method": "linear", "models": ["a", {"model": "b", "weight": []}]}, "is empty"),
        (
            {"method": "ties", "models": [{"model": "a", "weight": 0}], "base": "base", "density": 0.5},
            "no model counts",
        ),
        ({"method": "task_arithmetic", "models": ["a"], "base": "base", "scale": 0}, "the fused model is the base"),
        ({"method": "linear", "models": ["a", {"model": "b", "rules": [{"tensors": "*"}]}]}, "a rule needs"),
    ],
)
def test_settings_that_do_not_fit_the_method_are_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FuseModels.model_validate(row)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"layers": [0, 2], "weight": 0.5}, "no block 2; the models have 2"),
        ({"tensors": "*.experts.*", "weight": 0.5}, "fits no tensor"),
    ],
)
def test_rules_that_fit_nothing_are_refused(
    family: dict[str, Path], tmp_path: Path, rule: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        fuse_into(tmp_path / "out", family, method="linear", models=["a", {"model": "b", "rules": [rule]}])


def test_weights_that_add_up_to_nothing_are_refused_and_nothing_is_left(
    family: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="add up to 0"):
        fuse_into(tmp_path / "out", family, method="linear", models=["a", {"model": "b", "weight": -1.0}])
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("is_copy", [False, True])
def test_one_model_is_not_fused_twice(family: dict[str, Path], tmp_path: Path, is_copy: bool) -> None:
    again = Path(shutil.copytree(family["a"], tmp_path / "again")) if is_copy else family["a"]
    with pytest.raises(UserError, match=f"{again.name} and a are the same model"):
        fuse_into(tmp_path / "out", family | {"again": again}, method="linear", models=["a", "b", "again"])
    assert not any((tmp_path / "out").iterdir())


def test_models_that_change_nothing_are_named(
    family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [{"model": "a", "weight": [0, 0]}, "b", {"model": "c", "weight": 0, "rules": [{"weight": 1}]}]
    fuse_into(tmp_path / "weight", family, method="linear", models=models)
    told = capsys.readouterr().err
    assert told.count("changes nothing") == 1 and "a has the weight 0 and changes nothing" in told
    fuse_into(tmp_path / "base", family, method="task_arithmetic", models=["a", "base"], base="base")
    told = capsys.readouterr().err
    assert told.count("changes nothing") == 1 and "base has the weights of the base and changes nothing" in told


def test_numbers_that_are_not_finite_are_named_and_nothing_is_left(family: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(family["a"], tmp_path / "broken")
    rows = load_file(tmp_path / "broken" / WEIGHTS)
    rows[Q_PROJ][3, 5] = math.nan
    save_file(rows, tmp_path / "broken" / WEIGHTS)
    with pytest.raises(UserError, match=r"'.*q_proj\.weight' holds NaN or infinite values"):
        fuse_into(tmp_path / "out", {**family, "x": tmp_path / "broken"}, method="linear", models=["x", "a"])
    assert not any((tmp_path / "out").iterdir())


def test_a_dtype_that_cannot_hold_the_result_is_refused(family: dict[str, Path], tmp_path: Path) -> None:
    large = Path(shutil.copytree(family["a"], tmp_path / "large"))
    tensors = load_file(large / "model.safetensors")
    tensors["model.norm.weight"] += 1e6
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    models = {**family, "large": large}
    with pytest.raises(UserError, match="holds values too large for float16"):
        fuse_into(tmp_path / "out", models, method="task_arithmetic", models=["large"], base="base", dtype="float16")


def test_models_of_other_shapes_are_refused(family: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(family["a"], tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text(encoding="utf-8"))
    rows = {name: value for name, value in load_file(tmp_path / "short" / WEIGHTS).items() if "layers.1" not in name}
    (tmp_path / "short" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}), encoding="utf-8")
    save_file(rows, tmp_path / "short" / WEIGHTS)
    with pytest.raises(UserError, match=r"layers\.1.*has shape none in short"):
        fuse_into(tmp_path / "out", {**family, "x": tmp_path / "short"}, method="linear", models=["a", "x"])


@pytest.mark.parametrize(("key", "value"), [("rms_norm_eps", 1e-3), ("rope_theta", 777.0), ("hidden_act", "gelu")])
def test_configurations_that_give_weights_another_meaning_are_refused(
    family: dict[str, Path], tmp_path: Path, key: str, value: object
) -> None:
    shutil.copytree(family["a"], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text(encoding="utf-8"))
    config.pop("rope_parameters", None)
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(UserError, match=f"{key} is {value} in other"):
        fuse_into(tmp_path / "out", {**family, "x": tmp_path / "other"}, method="linear", models=["a", "x"])


def test_lengths_from_which_positions_are_scaled_must_be_equal(family: dict[str, Path], tmp_path: Path) -> None:
    """Dynamic scaling starts at `max_position_embeddings`, which means nothing for the others' weights."""
    models = {}
    for name, length in (("a", 256), ("b", 128)):
        models[name] = Path(shutil.copytree(family[name], tmp_path / name))
        config = json.loads((models[name] / "config.json").read_text(encoding="utf-8"))
        config |= {"max_position_embeddings": length}
        (models[name] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    fuse_into(tmp_path / "plain", models, models=["a", "b"])
    for folder in models.values():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
        (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}), encoding="utf-8")
    with pytest.raises(UserError, match=r"rope_scaling is .*128.* in b, but .*256.* in a"):
        fuse_into(tmp_path / "out", models, models=["a", "b"])


def test_a_scaling_may_leave_out_what_another_configuration_says(family: dict[str, Path], tmp_path: Path) -> None:
    """As one written by hand does beside one that transformers wrote."""
    models = {}
    short = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4}
    whole = {**short, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 256}
    for name, rope in (("a", short), ("b", whole)):
        models[name] = Path(shutil.copytree(family[name], tmp_path / name))
        config = json.loads((models[name] / "config.json").read_text(encoding="utf-8"))
        (models[name] / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}), encoding="utf-8")
    fuse_into(tmp_path / "out", models, models=["a", "b"])


def test_another_tokenizer_is_refused(family: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(family["a"], tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    entries = data["model"]["vocab"]
    (first, low), (second, high) = list(entries.items())[5:7]
    entries[first], entries[second] = high, low
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="the tokenizers of other and a differ"):
        fuse_into(tmp_path / "out", {**family, "x": tmp_path / "other"}, method="linear", models=["a", "x"])


@pytest.mark.parametrize("changed", ["merges", "normalizer"])
def test_a_tokenizer_of_the_same_entries_that_divides_text_otherwise_is_refused(
    family: dict[str, Path], tmp_path: Path, changed: str
) -> None:
    shutil.copytree(family["a"], tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    if changed == "merges":
        data["model"]["merges"] = data["model"]["merges"][20:]
    else:
        data["normalizer"] = {"type": "NFKC"}
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=r"the tokenizers of other and a divide .* into other tokens"):
        fuse_into(tmp_path / "out", {**family, "x": tmp_path / "other"}, method="linear", models=["a", "x"])


def test_a_saved_tensor_that_differs_is_found_and_the_model_removed(
    family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fuse.read_rows
    monkeypatch.setattr(fuse, "read_rows", lambda entry: real(entry) + 1e-3)
    with pytest.raises(RuntimeError, match="was saved as"):
        fuse_into(tmp_path / "out", family, method="linear", models=["a", "b"])
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_what_was_read_for_a_tensor_is_forgotten_with_its_last_piece(
    family: dict[str, Path], method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held: list[int] = []
    plan = fuse.plan_tensors

    def plan_and_watch(*arguments: Any) -> Any:
        planned = plan(*arguments)
        for tensor in planned.values():
            pieces = tensor.pieces

            def watch(pieces: Any = pieces) -> Any:
                held.append(sum(len(one._only) for one in planned.values()))
                yield from pieces()

            tensor.pieces = watch  # type: ignore[method-assign]
        return planned

    monkeypatch.setattr(fuse, "plan_tensors", plan_and_watch)
    more: dict[str, Any] = {"base": "base", "density": 0.5} if method == "ties" else {}
    fuse_into(tmp_path / "out", family, method=method, models=["a", "b"], **more)
    assert len(held) > 10 and not any(held)
