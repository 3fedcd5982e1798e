"""Which optional packages a stage needs, checked before anything runs: data is not encoded for hours in vain."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.config.settings.base import Settings
from hanlin.config.settings.launch import Launch
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.pipeline.step import Step


@dataclass(frozen=True, slots=True)
class Requirement:
    """An optional package that a stage needs.

    Attributes:
        setting: The setting that needs it, or the file that cannot be read without it.
        module: What is imported.
        package: The name that people know.
        extra: The extra of Hanlin that installs it.
    """

    setting: str
    module: str
    package: str
    extra: str

    @property
    def installed(self) -> bool:
        """Whether the module can be found; it is not imported."""
        return importlib.util.find_spec(self.module) is not None

    def error(self, where: str) -> UserError:
        """What the user reads if it is missing."""
        what = tr("{package} is not installed, which {setting} needs", package=self.package, setting=self.setting)
        return UserError(what, where, tr("pip install 'hanlin[{extra}]'", extra=self.extra), "missing_package")


_TRACKERS = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "swanlab": "SwanLab"}
_FILE_READERS = {
    ".zst": ("zstandard", "zstandard", "zstd"),
    ".parquet": ("pyarrow", "pyarrow", "parquet"),
    ".arrow": ("pyarrow", "pyarrow", "parquet"),
    ".feather": ("pyarrow", "pyarrow", "parquet"),
}


def missing_packages(step: Step, launch: Launch) -> list[Requirement]:
    """The optional packages that a step needs and that are not installed here, each once."""
    wanted = dict.fromkeys([*_for_settings(step.stage.settings, launch, step.stage.kind.group), *_for_inputs(step)])
    return [requirement for requirement in wanted if not requirement.installed]


def check_packages(steps: Sequence[Step], launch: Launch) -> None:
    """Raise UserError if a package is missing that a step which is not done needs."""
    for step in steps:
        if step.state != "done":
            for requirement in missing_packages(step, launch):
                raise requirement.error(step.stage.where)


def _for_settings(settings: Settings, launch: Launch, in_group: bool) -> Iterator[Requirement]:
    values: Any = settings
    if getattr(values, "optimizer", "") == "adamw_8bit":
        yield Requirement("optimizer: adamw_8bit", "bitsandbytes", "bitsandbytes", "qlora")
    quantization = getattr(getattr(values, "lora", None), "quantization", None)
    if quantization is not None:
        yield Requirement(f"lora.quantization: {quantization}", "bitsandbytes", "bitsandbytes", "qlora")
    for tracker in getattr(values, "report_to", ()):
        yield Requirement(f"report_to: {tracker}", tracker, _TRACKERS[tracker], tracker)
    if in_group and launch.mode.startswith("zero"):
        yield Requirement(f"launch.mode: {launch.mode}", "deepspeed", "DeepSpeed", "deepspeed")
    if launch.ray is not None and hasattr(values, "sources"):
        yield Requirement("launch.ray", "ray", "Ray", "ray")
    method = getattr(values, "method", None)
    if method in ("nf4", "int8"):
        yield Requirement(f"method: {method}", "bitsandbytes", "bitsandbytes", "qlora")
    if method == "gptq":
        yield Requirement(f"method: {method}", "compressed_tensors", "compressed-tensors", "gptq")


def _for_inputs(step: Step) -> Iterator[Requirement]:
    for item in step.inputs:
        for path in item.paths:
            names = {file.name for file in path.iterdir()} if path.is_dir() and not item.entry.artifact else set()
            if "tokenizer.model" in names and "tokenizer.json" not in names:
                yield Requirement(f"{path.name}/tokenizer.model", "sentencepiece", "sentencepiece", "sentencepiece")
        if hasattr(step.stage.settings, "sources"):
            for entry in item.entry.files:
                for suffix, (module, package, extra) in _FILE_READERS.items():
                    if entry.path.endswith(suffix):
                        yield Requirement(entry.path, module, package, extra)
