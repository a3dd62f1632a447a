"""The training loop. It yields records, and its caller shows them.

Shapes: B batch size, T sequence length, V vocabulary size.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from ntp.case import Frozen, StepConfig, Workload
from ntp.core import checkpoint as checkpoints
from ntp.core.checkpoint import Checkpoint, RunConfig
from ntp.core.language_model import evaluating, model_errors
from ntp.core.model import parameter_count
from ntp.core.step import Training
from ntp.interrupts import HeldBack

SHOWN_POSITIONS = 8


class StepRecord(Frozen):
    """The record of one step.

    ``loss`` is that step's own, in nats. The times are means over the steps since the last logged one, without the time
    that the caller spent on their records.
    """

    step: int
    loss: float = Field(allow_inf_nan=True)  # a loss that diverges is shown
    step_time_ms: float
    tokens_per_s: float
    logged: bool


class Summary(Frozen):
    """The result of a run.

    ``steps`` counts from the beginning of the run. Times and rates cover the steps that this process took; they are
    ``None`` if it took none. The ids are the first ones in row 0 of the run's first batch; ``predicted_ids`` are the
    model's most probable next tokens there.
    """

    steps: int
    total_time_s: float
    step_time_ms: float | None
    tokens_per_s: float | None
    input_shape: tuple[int, ...]
    input_dtype: str
    logits_shape: tuple[int, ...]
    logits_dtype: str
    parameters: int
    input_ids: list[int]
    target_ids: list[int]
    predicted_ids: list[int]


class TrainingRun:
    """A run of a workload, from the beginning or from its checkpoint.

    Attributes:
        step: the number of steps taken, including those before a resume.
        resumed_at: the step of the checkpoint from which the run continues; ``None`` for a new run.
        saved_at: the step of the latest checkpoint; ``None`` without one.

    Raises:
        ModelError, DataError: the workload cannot be run.
        CheckpointError: ``directory`` cannot be written, or its checkpoint is damaged or belongs to another run.
    """

    def __init__(
        self,
        workload: Workload,
        config: StepConfig,
        directory: Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.workload = workload
        self.step = 0
        self.resumed_at: int | None = None
        self.saved_at: int | None = None
        self._config = RunConfig(workload=workload, step=config)
        self._directory = directory
        self._clock = clock
        self._busy_s = 0.0
        self._steps_here = 0
        saved = self._saved()
        self.training = Training.start(workload, config)
        self._first_batch = self._peek()
        if saved:
            saved.restore(self.training)
            self.step = self.resumed_at = self.saved_at = saved.step

    def run(
        self, steps: int = 100, log_every: int = 10, checkpoint_every: int = 100
    ) -> Generator[StepRecord, None, None]:
        """Train until ``steps`` steps have been taken in total, and yield a record of each.

        With a directory, a checkpoint is written every ``checkpoint_every`` steps and at the end. Ctrl-C, SIGTERM and
        SIGHUP take effect when the current step has ended and is saved; a second one, seconds later, does not wait.

        Raises:
            ModelError: the model failed, out of memory included.
            CheckpointError: a checkpoint could not be written.
            KeyboardInterrupt: Ctrl-C, after the checkpoint was written.
        """
        since_logged: list[float] = []
        # An exception in the middle of a step would leave half of the parameters updated.
        with HeldBack(self._clock) as signals:
            while self.step < steps and not signals.asked:
                loss, step_time_s = self._timed_step()
                since_logged.append(step_time_s)
                last = self.step == steps or signals.asked
                if self.step % checkpoint_every == 0 and not last:
                    self._save()
                logged = last or self.step % log_every == 0
                try:
                    yield self._record(loss, since_logged, logged)
                except GeneratorExit:  # the caller cannot show more records, but the training is kept
                    self._save()
                    raise
                if logged:
                    since_logged = []
            signals.unbreakable = True
            if self._steps_here:
                self._save()

    def summary(self) -> Summary:
        """Return the totals, the shapes, and a greedy prediction for the first batch. Changes nothing."""
        inputs, targets = self._first_batch[:, :-1], self._first_batch[:, 1:]  # (B, T), (B, T)
        with evaluating(self.training.model), model_errors("predicting the first batch failed"):
            logits = self.training.language_model.logits(inputs)  # (B, T, V)
        shown = slice(SHOWN_POSITIONS)
        steps, seconds = self._steps_here, self._busy_s
        return Summary(
            steps=self.step,
            total_time_s=seconds,
            step_time_ms=seconds * 1e3 / steps if steps else None,
            tokens_per_s=_rate(steps * self.workload.tokens, seconds) if steps else None,
            input_shape=tuple(inputs.shape),
            input_dtype=_name(inputs),
            logits_shape=tuple(logits.shape),
            logits_dtype=_name(logits),
            parameters=parameter_count(self.training.model),
            input_ids=inputs[0, shown].tolist(),
            target_ids=targets[0, shown].tolist(),
            predicted_ids=logits[0, shown, : self.workload.vocab_size].argmax(dim=-1).tolist(),
        )

    def _saved(self) -> Checkpoint | None:
        if self._directory is None:
            return None
        checkpoints.prepare(self._directory)
        if not checkpoints.exists(self._directory):
            return None
        saved = checkpoints.load(self._directory)
        checkpoints.check_same_run(saved.config, self._config, self._directory)
        return saved

    def _peek(self) -> Tensor:
        """Return the first batch, ``(B, T+1)``, without consuming it."""
        state = self.training.generator.get_state()
        with model_errors(f"a batch of {self.workload.batch_size} x {self.workload.seq_len + 1} tokens cannot be made"):
            batch = next(self.training.batches)
        self.training.generator.set_state(state)
        return batch

    def _timed_step(self) -> tuple[float, float]:
        start = self._clock()
        with model_errors(f"step {self.step + 1} failed"):
            loss = self.training.step().item()
        step_time_s = self._clock() - start
        self.step += 1
        self._steps_here += 1
        self._busy_s += step_time_s
        return loss, step_time_s

    def _record(self, loss: float, times_s: list[float], logged: bool) -> StepRecord:
        mean_s = sum(times_s) / len(times_s)
        return StepRecord(
            step=self.step,
            loss=loss,
            step_time_ms=mean_s * 1e3,
            tokens_per_s=_rate(self.workload.tokens, mean_s),
            logged=logged,
        )

    def _save(self) -> None:
        if self._directory is not None:
            checkpoints.save(self._directory, Checkpoint.of(self.training, self._config, self.step))
            self.saved_at = self.step


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Set the number of torch's intra-op threads inside the block; ``None`` keeps torch's default."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
