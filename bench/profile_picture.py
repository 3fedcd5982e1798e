"""Draws where the time of a training run goes: torch.profiler's operations, summed under a few labels, as SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::linear")
HEAD = ("_CrossEntropySum", "_TokenLogprobs")
COLORS = {
    "head: products · 输出头矩阵乘": "#1f77b4",
    "head: softmax and the rest · 输出头其余": "#aec7e8",
    "blocks: products · 解码层矩阵乘": "#2ca02c",
    "blocks: adapters · 适配器矩阵乘": "#98df8a",
    "attention · 注意力": "#ff7f0e",
    "blocks: norms, activations, sums · 归一化与激活等": "#ffbb78",
    "optimizer · 优化器": "#9467bd",
    "loading, encoding, rest · 读取、编码与其余": "#c7c7c7",
}
WIDTH, BAR, LEFT = 820, 26, 330


def profile(work: Callable[[dict[str, Any]], dict[str, Any]], options: dict[str, Any], picture: Path) -> dict[str, Any]:
    """Run `work(options)` under the profiler, write the picture, and add the summed seconds to its result."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        report = work(options)
    seconds: Counter[str] = Counter()
    for event in profiler.events() or ():
        spent = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
        seconds[_classify(event.name, event.input_shapes, options.get("rank", 16), _is_in_head(event))] += spent / 1e6
    picture.write_text(_draw(seconds), encoding="utf-8", newline="\n")
    return {**report, "profile": {name: round(value, 3) for name, value in seconds.most_common()}}


def _is_in_head(event: Any) -> bool:
    """Whether an operation is part of the head's loss: one of its autograd functions is around it."""
    while event is not None:
        if event.name.removesuffix("Backward") in HEAD:
            return True
        event = event.cpu_parent
    return False


def _classify(name: str, shapes: Any, rank: int, is_in_head: bool) -> str:
    """The label under which an operation's time is summed, by its name and the sizes of its inputs."""
    names = iter(COLORS)
    head_products, head_rest, products, adapters, attention, elementwise, optimizer, rest = names
    sizes = [size for shape in shapes or () for size in (shape if isinstance(shape, (list, tuple)) else ())]
    sizes = [size for size in sizes if isinstance(size, int)]
    if "adam" in name.lower() or "foreach" in name:
        return optimizer
    if "attention" in name or name in ("aten::bmm", "aten::baddbmm"):
        return attention
    if name in PRODUCTS:
        if is_in_head:
            return head_products
        return adapters if rank in sizes else products
    if is_in_head:
        return head_rest
    if name.startswith("aten::") and any(size > 256 for size in sizes):
        return elementwise
    return rest


def _draw(seconds: Counter[str]) -> str:
    total = sum(seconds.values())
    names = [name for name in COLORS if seconds[name] > 0]
    max_seconds = max(seconds.values())
    height = 46 + BAR * len(names)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="24" font-size="15">Where {total:.1f} seconds of processor time go · 处理器时间去向</text>',
    ]
    for index, name in enumerate(names):
        y = 40 + BAR * index
        length = (WIDTH - LEFT - 130) * seconds[name] / max_seconds
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{name}</text>',
            f'<rect x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{BAR - 8}" fill="{COLORS[name]}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{y + 15}">{seconds[name]:.2f} s, {seconds[name] / total:.0%}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
