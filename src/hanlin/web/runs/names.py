"""What the page calls states, curves and figures, how it shows times, and what reports of others may do."""

from __future__ import annotations

from datetime import UTC, datetime

from hanlin.core.i18n import mark, tr

REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""A report is a page of its own, written by a stage or by somebody else: it is shown as if from another origin, where
its scripts reach neither this page nor the network."""

STATE_NAMES: dict[str, str] = {
    "done": mark("done"),
    "running": mark("running"),
    "interrupted": mark("interrupted"),
    "run": mark("to be run"),
    "stale": mark("out of date"),
    "edited": mark("edited by hand"),
    "failed": mark("failed"),
    "unfinished": mark("not finished"),
}
STATE_SIGNS: dict[str, str] = {
    "done": "✓",
    "running": "▶",
    "interrupted": "‖",
    "run": "○",
    "stale": "↻",
    "edited": "✎",
    "failed": "✗",
    "unfinished": "…",
}
"""A sign for each state, since colors alone are not seen by everybody."""

CURVE_NAMES: dict[str, str] = {
    "loss": mark("loss"),
    "validation_loss": mark("validation loss"),
    "preference_loss": mark("preference loss"),
    "probe_loss": mark("forgetting: loss on probes"),
    "probe_accuracy": mark("forgetting: correct answers to probes"),
    "learning_rate": mark("learning rate"),
    "grad_norm": mark("gradient norm"),
    "tokens_per_second": mark("tokens per second"),
    "memory_gb": mark("peak memory, GB"),
    "accuracy": mark("accuracy"),
    "margin": mark("margin"),
    "chosen_reward": mark("reward of the chosen answer"),
    "rejected_reward": mark("reward of the rejected answer"),
    "reference_point": mark("reference point"),
    "router_loss": mark("loss of the router"),
    "busiest_expert": mark("busiest expert, times its even share"),
    "pairs": mark("pairs per step"),
    "answers": mark("answers per step"),
}
FIGURE_NAMES: dict[str, str] = {
    **CURVE_NAMES,
    "step": mark("step"),
    "left": mark("time left"),
}


def show_clock(seconds: float | None) -> str:
    """Seconds as a clock shows them: `1:05`, `2:03:04`, `3 d 04:05`."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return tr("{days} d {hours:02d}:{minutes:02d}", days=days, hours=hours, minutes=minutes)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_time(seconds: float) -> str:
    """A moment in the machine's own time: `2026-11-29 18:05`."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
