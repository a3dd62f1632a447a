"""What a training run says on a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntp.core.train import StepRecord, Summary


def step_line(record: "StepRecord") -> str:
    """One logged step."""
    speed = f"{record.tokens_per_s:8,.0f} tokens/s   {record.step_time_ms:.1f} ms/step"
    return f"step {record.step:3d}  loss {record.loss:.4f}   {speed}"


def summary_text(summary: "Summary") -> str:
    """The end of a run: time, shapes, and what the model predicts of its first batch."""
    lines = [
        f"input {summary.input_shape} {summary.input_dtype}, logits {summary.logits_shape} {summary.logits_dtype}, "
        f"parameters {summary.parameters:,}",
        "greedy prediction of the first batch, row 0:",
        f"  input      {_columns(summary.input_ids)}",
        f"  target     {_columns(summary.target_ids)}",
        f"  predicted  {_columns(summary.predicted_ids)}",
    ]
    if summary.step_time_ms is not None:
        speed = f"{summary.tokens_per_s:,.0f} tokens/s, {summary.step_time_ms:.1f} ms/step"
        lines.insert(0, f"{summary.steps} steps, {summary.total_time_s:.2f} s in all, {speed}")
    return "\n".join(lines)


def _columns(ids: Sequence[int]) -> str:
    return " ".join(f"{i:5d}" for i in ids)
