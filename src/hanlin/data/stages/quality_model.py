"""The stage `quality_model`: learn from the user's own good and bad texts what a corpus stage is to drop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.quality import QualityModel as QualityModelSettings
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.data.text.quality_model import measure, split_validation, train_quality_model

_MIN_TEXTS = 20


def run(settings: QualityModelSettings, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `weights.npy` and `quality.json`; return the counts, and precision and recall on validation texts.

    Raises:
        UserError: There are too few good or bad texts, or they cannot be read.
    """
    texts = {name: _read(inputs, name, settings.max_texts) for name in ("good", "bad")}
    common = set(texts["good"]) & set(texts["bad"])
    train, validation = {}, {}
    for name, all_texts in texts.items():
        own = [text for text in all_texts if text not in common]
        if len(own) < _MIN_TEXTS:
            what = tr("too few texts: {found}, at least {needed} are needed", found=len(own), needed=_MIN_TEXTS)
            raise UserError(what, ", ".join(map(str, inputs.paths(name))))
        train[name], validation[name] = split_validation(own, settings.validation_fraction)
    model = train_quality_model(train["good"], train["bad"], settings.buckets, settings.epochs, context.seed)
    limits = list(measure(model, validation["good"], validation["bad"]))
    counts = {
        "good": len(train["good"]),
        "bad": len(train["bad"]),
        "validation_good": len(validation["good"]),
        "validation_bad": len(validation["bad"]),
        "in_both": len(common),
    }
    model.save(out, {**counts, "buckets": settings.buckets, "epochs": settings.epochs, "limits": limits})
    at_half = next(row for row in limits if row["min_score"] == 0.5)
    return {**counts, "precision": at_half["precision"], "recall": at_half["recall"]}


def _read(inputs: Inputs, name: str, limit: int) -> list[str]:
    texts = (text.strip() for text in read_texts(inputs.paths(name)))
    return list(dict.fromkeys(text for text, _ in zip((text for text in texts if text), range(limit), strict=False)))
