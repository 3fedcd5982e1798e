"""Whether training can go on from an adapter with the settings of a run, told from its headers before data is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanlin.config.settings.model import PROJECTIONS, LoraSettings
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.folder.adapter import check_adapter_folder, check_base, read_token_ids
from hanlin.models.folder.checks import ModelFiles
from hanlin.models.folder.layout import ADAPTER_CONFIG


def check_init_adapter(folder: Path, lora: LoraSettings, base: ModelFiles, trains_rows: bool) -> None:
    """Check from its headers that an adapter can be trained further.

    Args:
        folder: The adapter folder.
        lora: The settings of the adapter that goes on from it.
        base: The model that is trained.
        trains_rows: Whether rows of the vocabulary are trained beside the adapter.

    Raises:
        UserError: It is no LoRA adapter, belongs to another model, or was made with other settings.
    """
    config = check_adapter_folder(folder).config
    check_base(folder, base)
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            raise UserError(tr("an adapter with {name} cannot be trained further", name=name), folder / ADAPTER_CONFIG)
    targets = _list_targets(config)
    expected = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "rslora": bool(config.get("use_rslora")),
        "dora": bool(config.get("use_dora")),
        "targets": targets,
        "modules_to_save": sorted({name.rpartition(".")[2] for name in config.get("modules_to_save") or ()}),
        **({"router": _adapts_router(config)} if config.get("target_parameters") else {}),
    }
    actual = lora.model_dump() | {name: sorted(getattr(lora, name)) for name in ("targets", "modules_to_save")}
    differing = {name: value for name, value in expected.items() if value is not None and value != actual[name]}
    if differing:
        values = ", ".join(
            f"{name}: [{', '.join(value)}]" if isinstance(value, list) else f"{name}: {json.dumps(value)}"
            for name, value in differing.items()
        )
        what = tr("the adapter was made with other settings than `lora` has")
        raise UserError(what, folder, tr("set `lora: {values}`", values=f"{{ {values} }}"))
    if read_token_ids(config) and not trains_rows:
        what = tr("the adapter also trains rows of the vocabulary")
        raise UserError(what, folder, tr("set trainable_tokens: untrained"))


def _list_targets(config: Mapping[str, Any]) -> list[str] | None:
    """The projections that an adapter changes, those of experts among them, sorted; None if it names others."""
    modules, parameters = config.get("target_modules"), config.get("target_parameters") or []
    if not isinstance(modules, list) or not set(modules) <= set(PROJECTIONS):
        return None
    gate_up = ["gate_proj", "up_proj"] if any(name.endswith("experts.gate_up_proj") for name in parameters) else []
    down = ["down_proj"] if any(name.endswith("experts.down_proj") for name in parameters) else []
    return sorted({*modules, *gate_up, *down})


def _adapts_router(config: Mapping[str, Any]) -> bool:
    return any(name.endswith("gate.weight") for name in config["target_parameters"])
