"""AdamW with low-rank state: GaLore against its authors' code, APOLLO against its paper's equations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.train import Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.train import stages
from hanlin.train.compute.model import TrainModel
from hanlin.train.optim.build import build_optimizer
from hanlin.train.optim.low_rank import MAX_NORM_GROWTH, LowRankAdamW
from training_data import CPU, conversation, many

SFT = Sft(
    model="m", data=("d",), max_seq_length=128, batch_tokens=512, steps=3, learning_rate=3e-3, precision="float32"
)  # fmt: skip
SHAPES = [(12, 20), (20, 12)]


def make_optimizer(
    weight: torch.nn.Parameter, method: Any, rank: int | None, update_interval: int = 2, decay: float = 0.1
) -> LowRankAdamW:
    group = {"params": [weight], "rank": rank, "weight_decay": decay}
    return LowRankAdamW([group], method, lr=0.01, betas=(0.9, 0.95), update_interval=update_interval)


def gradients(shape: tuple[int, int], count: int = 6) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=source) * (1 + number) for number in range(count)]


def run_steps(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, found: list[torch.Tensor]) -> torch.Tensor:
    for gradient in found:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", SHAPES)
def test_galore_steps_as_its_authors_do(shape: tuple[int, int]) -> None:
    """Between two choices of directions: which way a singular vector points is arbitrary, and the moments stay."""
    galore = pytest.importorskip("galore_torch", reason="galore-torch is not installed")
    weight, reference = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    group = {"params": [reference], "rank": 4, "update_proj_gap": 100, "scale": 0.25, "proj_type": "std"}
    reference = galore.GaLoreAdamW([group], lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    found = gradients(shape)
    ours = run_steps(weight, make_optimizer(weight, "galore", 4, 100, 0.0), found)
    torch.testing.assert_close(ours, run_steps(reference, reference, found), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_galore_of_full_rank_is_a_quarter_of_adam_seen_from_its_own_directions(shape: tuple[int, int]) -> None:
    """With all directions but one, the first step is that of Adam on the gradient's coordinates there: signs."""
    weight = torch.nn.Parameter(torch.zeros(shape))
    (gradient,) = gradients(shape, 1)
    found = run_steps(weight, make_optimizer(weight, "galore", 11), [gradient])
    wide = gradient if shape[0] <= shape[1] else gradient.T
    left = torch.linalg.svd(wide, full_matrices=False)[0][:, :11]
    step = left @ torch.sign(left.T @ wide)
    wanted = -0.01 * 0.25 * (step if shape[0] <= shape[1] else step.T)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_apollo_scales_each_channel_of_the_gradient_as_adam_scales_its_projection(shape: tuple[int, int]) -> None:
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = make_optimizer(weight, "apollo", 4)
    (gradient,) = gradients(shape, 1)
    found = run_steps(weight, optimizer, [gradient])
    directions = optimizer.state[weight]["directions"]
    wide = gradient if shape[0] <= shape[1] else gradient.T
    projected = directions @ wide
    scales = torch.sign(projected).norm(dim=0) / projected.norm(dim=0)
    wanted = -0.01 * wide * scales
    torch.testing.assert_close(found if shape[0] <= shape[1] else found.T, wanted, atol=1e-6, rtol=1e-4)


def test_apollo_never_lets_a_step_grow_by_more_than_a_hundredth() -> None:
    weight = torch.nn.Parameter(torch.zeros(12, 20))
    optimizer = make_optimizer(weight, "apollo", 4, update_interval=100)
    lengths = []
    for gradient in gradients((12, 20), 8):
        before = weight.detach().clone()
        run_steps(weight, optimizer, [gradient])
        lengths.append(float((weight.detach() - before * (1 - 0.01 * 0.1)).norm()))
    assert all(after <= MAX_NORM_GROWTH * earlier * 1.0001 for earlier, after in pairwise(lengths))


def test_what_is_not_projected_steps_as_adamw() -> None:
    weight, reference = (torch.nn.Parameter(torch.ones(12, 20)) for _ in range(2))
    found = gradients((12, 20))
    plain = torch.optim.AdamW([reference], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    torch.testing.assert_close(
        run_steps(weight, make_optimizer(weight, "apollo", None), found), run_steps(reference, plain, found)
    )


@pytest.mark.parametrize("method", ["galore", "apollo"])
def test_state_of_the_blocks_is_low_rank_and_of_all_else_full(method: Any, make_model: Callable) -> None:
    model: TrainModel = make_model(SFT)
    trained = list(model.trainable_parameters())
    settings = SFT.model_copy(update={"optimizer": method, "galore_rank": 8, "weight_decay": 0.1})
    optimizer = build_optimizer(settings, trained, CPU)
    for _, weight in trained:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    for name, weight in trained:
        kept = optimizer.state[weight]["exp_avg"].numel()
        assert kept == (8 * max(weight.shape) if "_proj" in name else weight.numel()), name
        assert all(isinstance(value, torch.Tensor) for value in optimizer.state[weight].values())


@pytest.mark.parametrize("method", ["galore", "apollo"])
def test_a_run_learns(method: Any, tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    settings = SFT.model_copy(update={"optimizer": method, "galore_rank": 8, "galore_update_interval": 3, "steps": 12})
    metrics = stages.sft(settings, inputs(many(conversation, 12)), tmp_path, StageContext())
    assert metrics["loss"]["last"] < 0.9 * metrics["loss"]["first"]


@pytest.mark.parametrize("method", ["galore", "apollo"])
def test_its_state_goes_through_a_checkpoint(method: Any, tmp_path: Path) -> None:
    found = gradients((12, 20))
    whole, broken, again = (torch.nn.Parameter(torch.ones(12, 20)) for _ in range(3))
    wanted = run_steps(whole, make_optimizer(whole, method, 4, 3), found)
    first = make_optimizer(broken, method, 4, 3)
    run_steps(broken, first, found[:4])
    torch.save({"state": first.state_dict(), "weight": broken.detach()}, tmp_path / "kept.pt")
    kept = torch.load(tmp_path / "kept.pt", weights_only=True)
    second = make_optimizer(again, method, 4, 3)
    again.data.copy_(kept["weight"])
    second.load_state_dict(kept["state"])
    assert torch.equal(run_steps(again, second, found[4:]), wanted)


@pytest.mark.parametrize("more", [{"lora": LoraSettings()}, {"trainable_tokens": 3}])
def test_an_adapter_or_rows_alone_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="full matrices"):
        Sft(model="m", data=("d",), optimizer="galore", **more)
