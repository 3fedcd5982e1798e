"""Fuse models with mergekit, as `test_mergekit.py` asks it to; run by the interpreter that HANLIN_MERGEKIT names.

Usage: python mergekit_fusion.py CASES.json, a list of {"config": mergekit's configuration, "out": folder}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def draw_fixed(probabilities: torch.Tensor) -> torch.Tensor:
    """A mask that depends on the probabilities alone, as the test gives it to Hanlin too."""
    size = probabilities.numel()
    draws = torch.rand(size, generator=torch.Generator().manual_seed(size)).view(probabilities.shape)
    return (draws < probabilities).to(probabilities.dtype)


def main() -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    torch.bernoulli = draw_fixed  # type: ignore[assignment]
    for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        config = MergeConfiguration.model_validate(case["config"])
        run_merge(config, case["out"], options=MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False))


if __name__ == "__main__":
    main()
