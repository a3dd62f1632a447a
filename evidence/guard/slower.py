"""Real changes of the training step that slow it down, or look as if they did: edits of ``ntp/core/step.py``.

None of them scales a measured number. Those called busy spin for a share of the CPU time of the step just taken, so
that every case slows down by the same share; those that wait sleep for as long.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

EDITED = "ntp/core/step.py"

_FORWARD = "predicted = method.path.predict(inputs, targets)  # the (B, T, V) logits, or what this path has instead"
_STEP = """
        with phase("data"):
            tokens = next(self.batches)  # (B, T+1)
        return train_step(self.method, self.optimizer, tokens, phase)
"""
_BUSY_STEP = """
        start_ns = time.thread_time_ns()
        with phase("data"):
            tokens = next(self.batches)  # (B, T+1)
        loss = train_step(self.method, self.optimizer, tokens, phase)
        end_ns = time.thread_time_ns()
        while time.thread_time_ns() < end_ns + {share} * (end_ns - start_ns):
            pass
        return loss
"""
_WAITING_STEP = _BUSY_STEP.replace(
    """while time.thread_time_ns() < end_ns + {share} * (end_ns - start_ns):
            pass
""",
    "time.sleep({share} * (end_ns - start_ns) / 1e9)\n",
)
_DROPOUT = "predicted = nn.functional.dropout(predicted, 0.1)"
_IMPORT = "import torch\n"


_WITH_BATCH = """
        with phase("data"):
            tokens = next(self.batches)  # (B, T+1)
"""


def _with_more(line: str) -> tuple[str, str]:
    """Return a text of the step, and the same with another line of Python before it."""
    return _WITH_BATCH, f"\n        {line}{_WITH_BATCH}"


class Slowdown(NamedTuple):
    what: str
    edits: tuple[tuple[str, str], ...]
    """The texts that it replaces, and by what."""
    share: float | None = None
    """The share by which it slows the step, where that is known beforehand."""


def _after(line: str, more: str, depth: int = 2) -> tuple[str, str]:
    """Return a line of ``train_step``, which stands this deep in a phase, and the same with another after it."""
    return line, f"{line}\n{'    ' * depth}{more}"


COUNTED = {
    "loop": Slowdown("loops 1,000 times", (_with_more("for _ in range(1_000): pass"),)),
    "strings": Slowdown("makes a list of 1,000 strings", (_with_more("_ = [str(i) for i in range(1_000)]"),)),
    "zero_grad": Slowdown("clears the gradients twice", (_after("optimizer.zero_grad()", "optimizer.zero_grad()"),)),
    "item": Slowdown("reads the loss in every step", (_after("method.update(optimizer)", "loss.item()"),)),
}
"""Changes whose instructions are counted."""


def _longer(percent: float, what: str, step: str) -> Slowdown:
    edits = ((_IMPORT, f"import time\n\n{_IMPORT}"), (_STEP, step.format(share=percent / 100)))
    return Slowdown(f"{what} for {percent:g}% of the step", edits, percent / 100)


SLOWDOWNS = {
    **{name: COUNTED[name] for name in ("zero_grad", "item")},
    "clone": Slowdown("copies the logits", (_after(_FORWARD, "predicted = predicted.clone()", 4),)),
    "dropout": Slowdown("drops out 10% of the logits", (_after(_FORWARD, _DROPOUT, 4),)),
    **{f"busy-{percent:g}": _longer(percent, "spins", _BUSY_STEP) for percent in (1, 1.5, 2, 3, 5, 10)},
    **{f"waits-{percent}": _longer(percent, "sleeps", _WAITING_STEP) for percent in (2, 5)},
}


def edited(source: str, slowdown: Slowdown) -> str:
    """Return the source with the change made.

    Raises:
        ValueError: a text to replace is not there exactly once, because the step has changed since.
    """
    for old, new in slowdown.edits:
        if source.count(old) != 1:
            raise ValueError(f"{EDITED} holds {source.count(old)} times what should be replaced once: {old.strip()!r}")
        source = source.replace(old, new)
    return source


@contextmanager
def clone(directory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ntp-evidence-") as temporary:
        folder = Path(temporary) / "repository"
        top = git(directory, "rev-parse", "--show-toplevel")
        git(directory, "clone", "--quiet", top, str(folder))
        yield folder


def commit(folder: Path, name: str, base: str) -> None:
    change = SLOWDOWNS.get(name) or COUNTED[name]
    git(folder, "checkout", "--quiet", "-B", name, base)
    path = folder / EDITED
    path.write_text(edited(path.read_text(encoding="utf-8"), change), encoding="utf-8")
    author = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    git(folder, *author, "commit", "--quiet", "--all", "--message", change.what)


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-C", directory, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
