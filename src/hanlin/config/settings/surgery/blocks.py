"""Settings of `expand_blocks`."""

from __future__ import annotations

from hanlin.config.settings.base import Settings, ref, setting


class ExpandBlocks(Settings):
    """Add decoder blocks that change nothing at first, to be trained alone (LLaMA-Pro)."""

    model: str = ref("model", description="the model to expand")
    new_blocks: int = setting(
        8,
        "number of blocks to add, each a copy of the block before it with zero in o_proj and down_proj, so that it "
        "changes nothing until it is trained (LLaMA-Pro, Wu et al. 2024, arXiv:2401.02415); they are spread evenly, "
        "the last one at the end, and trained alone with `train_blocks: new`",
        ge=1,
    )

    def positions(self, layers: int) -> list[int]:
        """The indices of the new blocks in the expanded model.

        The i-th of n new blocks follows the first `i · layers / n` old ones (rounded down). 6 old and 3 new blocks:

            old    0 1   2 3   4 5
            model  0 1 N 3 4 N 6 7 N     [2, 5, 8]
        """
        return [(index + 1) * layers // self.new_blocks + index for index in range(self.new_blocks)]
