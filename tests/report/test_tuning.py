"""A search as text."""

import math

import pytest

from ntp.case import Case
from ntp.judge.statistics import Interval
from ntp.judge.tuning import Contribution, Ranking, Winner, with_values
from ntp.machine.runtime import environment_variables
from ntp.records.endings import Ending
from ntp.records.tuning import Lever, Race, Tuning
from ntp.report import document
from ntp.report.tuning import report

DEFAULT = Case.of({"threads": 2})
FASTEST = with_values(DEFAULT, {"loss": "deduplicated", "matmul": "onednn", "optimizer": "fused", "allocator": "glibc"})


def a_tuning(*races, **other):
    values = {
        "started": "2025-01-02T03:04:05+00:00", "wall_time_s": 180, "command": ("ntp", "tune"), "default": DEFAULT.id,
        "levers": (Lever(field="loss", values=("full",)),), "budget_s": 180, "seed": 0, "races": races,
    }  # fmt: skip
    return Tuning(**(values | other))


def a_race(outcome, **other):
    values = {"purpose": "search", "case_id": FASTEST.id, "against": DEFAULT.id, "outcome": outcome}
    return Race(**(values | other))


WINNER = Winner(
    case=FASTEST,
    ratio=Interval(0.2, 0.19, 0.21),
    contributions=(
        Contribution("loss", "deduplicated", "full", Interval(3.1, 3.0, 3.2)),
        Contribution("allocator", "glibc", "glibc-tuned", None, "1.80 times as long in the warm-up"),
        Contribution("affinity", "free", "pinned", Interval(0.996, 0.944, 1.052)),
    ),
    standings=(Ranking(FASTEST.id, 0.2), Ranking(DEFAULT.id, 1.0)),
)


def report_of(tuning, winner, cpus=None):
    return report(tuning, winner, environment_variables(winner.case.runtime), cpus)


def terminal(tuning, winner):
    return document.terminal(report_of(tuning, winner))


def recipe(winner, cpus):
    _, listing, _ = report_of(a_tuning(), winner, cpus).sections
    return listing.text


def test_the_answer_comes_first():
    text = terminal(a_tuning(a_race("raced"), a_race("pruned")), WINNER).replace("\n", " ")
    assert "Fastest: simple-b32-s128-t2-onednn-deduplicated-fused-glibc, 5.00 (4.76 to 5.26) times as fast as" in text
    assert "(2 candidates in 180 s)" in text
    assert "given up in the warm-up as much slower than the best so far: 1 candidate" in text
    assert "+210.0% time (+200.0% to +220.0%)" in text
    assert text.count("not confirmed") == 1
    assert "-0.4% time (-5.6% to +5.2%): not confirmed" in text
    assert "1.80 times as long in the warm-up" in text


def test_what_could_not_be_run_is_told_with_the_reason():
    races = [a_race("refused", message=f"{FASTEST.id}: not context-free"), a_race("failed", message="died of SIGSEGV")]
    text = " ".join(terminal(a_tuning(*races), WINNER).split())
    assert f"refused: {FASTEST.id}: not context-free" in text
    assert f"failed: {FASTEST.id}: died of SIGSEGV" in text


def test_a_long_reason_is_no_cell_of_the_table():
    only = Contribution("matmul", "onednn", "default", None, "was killed " * 20)
    text = terminal(
        a_tuning(a_race("failed", purpose="without", message="out of memory")), WINNER._replace(contributions=(only,))
    )
    assert "could not be run" in text
    assert f"failed: {FASTEST.id}: out of memory" in " ".join(text.split())


def test_what_casts_doubt_on_the_winner_is_told(make_guarded):
    (pair,) = make_guarded(pairs=1).pairs
    of_winner, of_default = Ending(loss=math.nan), Ending(loss=math.inf)
    pair = pair.model_copy(update={"endings": (("base", of_default), ("head", of_winner))})
    text = " ".join(terminal(a_tuning(a_race("raced", pairs=(pair,))), WINNER).split())
    assert f"{FASTEST.id}: loss-not-finite: the loss is nan; " in text
    assert "inf" not in text


def test_a_default_that_nothing_beats():
    text = terminal(a_tuning(), Winner(DEFAULT, None, (), (Ranking(DEFAULT.id, 1.0),)))
    assert text.startswith(f"Nothing tried is faster than {DEFAULT.id} (0 candidates in 180 s).")


def test_a_winner_that_was_not_compared_with_the_default():
    assert "no time to compare it" in terminal(a_tuning(), WINNER._replace(ratio=None))


def test_a_memory_limit_is_told_with_what_was_needed():
    text = terminal(a_tuning(a_race("raced", peak_rss_bytes=2**29), memory_limit_bytes=2**31), WINNER)
    assert "at most 2.00 GiB of memory was allowed; the largest case needed 512 MiB" in text


class TestTheRecipe:
    def test_the_command_names_what_differs_from_the_defaults(self):
        command = recipe(WINNER, None).split("\n\n")[0].replace("\\\n", "")
        assert " ".join(command.split()) == (
            "pytest --benchmark-only bench/bench_train_step.py --ntp-threads 2 --ntp-batch-sizes 32 --ntp-seq-lens 128 "
            "--ntp-steps onednn+deduplicated+fused --ntp-precisions fp32 --ntp-allocator glibc"
        )

    def test_the_environment_and_the_lines_of_a_script(self):
        text = recipe(WINNER, (0, 1))
        assert "export OMP_NUM_THREADS=2" in text
        assert "export ONEDNN_MAX_CPU_ISA=AVX512_CORE" in text
        assert "taskset -c 0,1 python train.py" in text
        assert 'torch.set_float32_matmul_precision("medium")' in text
        assert "fused=True" in text
        assert "inputs.unique(return_inverse=True)" in text

    @pytest.mark.parametrize(
        ("values", "lines"),
        [
            ({"precision": "bf16"}, ['with torch.autocast("cpu", torch.bfloat16):']),
            ({"loss": "chunked"}, ["F.linear_cross_entropy("]),
            ({"compile": "step"}, ["@torch.compile", "torch.compile(optimizer.step)()"]),
            ({"denormals": "flushed"}, ["torch.set_flush_denormal(True)"]),
            ({"allocator": "glibc", "affinity": "free"}, ["\npython train.py"]),
        ],
    )
    def test_every_lever_has_its_line(self, values, lines):
        text = recipe(WINNER._replace(case=with_values(DEFAULT, values)), None)
        for line in lines:
            assert line in text

    def test_the_lines_are_python_and_compute_the_loss(self):
        torch = pytest.importorskip("torch")
        nn, F = torch.nn, torch.nn.functional  # noqa: N806
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
        inputs, targets = torch.randint(0, 7, (2, 3, 5))
        expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        for loss in ("full", "deduplicated"):
            lines = recipe(WINNER._replace(case=with_values(DEFAULT, {"loss": loss})), None).split("\n\n")
            names = {"torch": torch, "nn": nn, "F": F, "model": model, "inputs": inputs, "targets": targets}
            exec(
                "\n".join(part for part in lines if part.startswith(("def loss_of", "loss ="))).split("loss.back")[0],
                names,
            )
            torch.testing.assert_close(names["loss"], expected)
