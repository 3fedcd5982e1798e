"""What is said of a model folder that cannot be loaded: one sentence each, with what to do about it.

Does not own the checks (`model_files`).
"""

from __future__ import annotations

from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.i18n import say


def few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def copy_again() -> str:
    return say("copy or download it again", "请重新拷贝或下载")


def truncated(path: Path, expected: int, found: int) -> UserError:
    what = say(
        f"the file is cut off: {expected:,} bytes expected, {found:,} found",
        f"文件不完整：应有 {expected:,} 字节，实有 {found:,} 字节",
    )
    return UserError(what, path, copy_again())


def no_safetensors(path: Path) -> UserError:
    return UserError(say("this is not a safetensors file", "不是 safetensors 文件"), path, copy_again())


def _pickles(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))


def no_weights(folder: Path, name: str, index: str) -> UserError:
    """Says why a folder has no weights that can be read: pickled ones, shards without their index, or none at all."""
    pickles = [file for file in _pickles(folder) if file not in ("training_args.bin", "optimizer.bin")]
    if pickles:
        what = say(
            f"the weights are pickled ({few(pickles)}); a pickle can run any code, so it is not opened",
            f"权重是 pickle 格式（{few(pickles)}）；pickle 可执行任意代码，故不打开",
        )
        hint = say(
            'convert it where you trust it: python -c "from transformers import AutoModelForCausalLM as M; '
            "M.from_pretrained('IN').save_pretrained('OUT')\"",
            '请在可信环境中转换：python -c "from transformers import AutoModelForCausalLM as M; '
            "M.from_pretrained('IN').save_pretrained('OUT')\"",
        )
        return UserError(what, folder, hint)
    if sorted(folder.glob("model-*-of-*.safetensors")):
        return UserError(say(f"the weights' index {index} is not here", f"缺少权重索引 {index}"), folder, copy_again())
    return UserError(say(f"there are no weights ({name}) here", f"这里没有权重（{name}）"), folder, copy_again())


def why_no_config(folder: Path, is_adapter: bool) -> str:
    if is_adapter:
        return say("this is an adapter: `merge` it first", "这是适配器：请先用 merge 合并")
    if any(folder.glob("*.gguf")):
        return say("this is a GGUF file; name the model it was made from", "这是 GGUF 文件；请指定转换前的模型")
    if (folder / "params.json").is_file():
        return say(
            "this is Meta's own form; take the Hugging Face form of the model",
            "这是 Meta 的原始格式；请使用 Hugging Face 格式",
        )
    return say("name a folder with config.json and *.safetensors", "请指定含 config.json 与 *.safetensors 的目录")
