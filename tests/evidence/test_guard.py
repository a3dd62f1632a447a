"""The evidence for what ``ntp guard`` promises: arithmetic by hand, the loop against the guard's, the report again."""

import copy
import dataclasses
import inspect
import json
import math
import random
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "evidence/guard"))

import draws  # noqa: E402
import error_tables  # noqa: E402
import measuring  # noqa: E402
import noise_tables  # noqa: E402
import other_tools  # noqa: E402
import page  # noqa: E402
import pictures  # noqa: E402
import recordings  # noqa: E402
import slower  # noqa: E402
import spread  # noqa: E402
import suites  # noqa: E402
from recordings import CASES, FOLDER  # noqa: E402
from wording import NOT_RECORDED  # noqa: E402

from ntp.case import Case  # noqa: E402
from ntp.cli import app as cli  # noqa: E402
from ntp.core import step  # noqa: E402
from ntp.judge.guard import log_ratios, verdict_on  # noqa: E402
from ntp.judge.verdict import CasePairs, judge  # noqa: E402
from ntp.records.endings import Ending  # noqa: E402
from ntp.records.guard import GuardedCase, GuardRecord, Pair, Plan, Side  # noqa: E402
from ntp.records.run import WarmUp  # noqa: E402
from ntp.worker.pairs import rounds_of  # noqa: E402


def a_pair(cell, base, head):
    """From the turns of each side, in nanoseconds."""
    blocks = [
        {"side": side, "step_time_ns": turn}
        for both in zip(base, head, strict=True)
        for side, turn in zip(("base", "head"), both, strict=True)
    ]
    return Pair.model_validate({"case_id": cell, "seed": 0, "blocks": blocks})


def noisy_pair(cell, draw, slowdown, sd):
    """Eight turns of two steps of 10 ms a side, the head slower by a log-ratio that has that standard deviation."""
    ratio = math.exp(draw.gauss(slowdown, sd))
    base, head = (
        [[round(1e7 * factor * draw.gauss(1, sd)) for _ in range(2)] for _ in range(8)] for factor in (1, ratio)
    )
    return a_pair(cell, base, head)


def document(slowdown=0.0, pairs=12, sd=0.002, seed=1, plan=None):
    """A guard's record of the four cells, as JSON has it."""
    draw = random.Random(seed)
    cells = tuple(
        GuardedCase(
            case_id=cell, pairs=tuple(noisy_pair(cell, draw, slowdown, sd) for _ in range(pairs)), wall_time_s=pairs * 5
        )
        for cell in CASES
    )
    record = GuardRecord(
        started="2026-01-02T03:04:05+00:00",
        wall_time_s=pairs * 5 * len(CASES),
        command=(),
        base=Side(ref="HEAD", commit="0" * 40),
        head=Side(ref="HEAD", commit="1" * 40),
        plan=plan or suites.usual_plan(),
        budget_s=300,
        seed=0,
        cases=cells,
    )
    return record.model_dump(mode="json")


def a_pool(name="quiet", **other):
    return recordings.pool_of(name, document(**other))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder that holds a recording of each kind."""
    folder = tmp_path_factory.mktemp("guard")
    plan = suites.usual_plan()
    recordings.write(recordings.path_of("identical", "quiet", folder), json.dumps(document()))
    recordings.write(recordings.path_of("identical", "neighbour", folder), json.dumps(document(sd=0.01)))
    for seed, name in enumerate(slower.SLOWDOWNS):
        slowdown = math.log1p(slower.SLOWDOWNS[name].share or 0)
        recordings.write(recordings.path_of("slower", name, folder), json.dumps(document(slowdown, 6, seed=seed)))
    runs = [{"status": 0, "wall_time_s": 120.0, "stderr": "", "record": {"verdict": {}, **document(plan=plan)}}] * 2
    runs.append({"status": 5, "wall_time_s": 1.0, "stderr": "ntp: error: no memory", "record": None})
    recordings.write(recordings.path_of("runs", "quiet", folder), json.dumps(runs))
    draw = random.Random(2)
    arms = [
        {"arm": arm, "case": cell, "pair": noisy_pair(cell, draw, 0, 0.01).model_dump(mode="json")}
        for _ in range(3)
        for cell in CASES[:2]
        for arm in draw.sample(recordings.ARMS, len(recordings.ARMS))
    ]
    recordings.write(folder / "ablation.json.gz", json.dumps({"pairs": arms}))
    return folder


class TestRecordings:
    def test_a_file_is_read_as_it_was_written_and_written_the_same_way_twice(self, tmp_path):
        path = tmp_path / "new" / "x.json.gz"
        recordings.write(path, '{"a": [1, "ü"]}')
        before = path.read_bytes()
        recordings.write(path, '{"a": [1, "ü"]}')
        assert recordings.read(path) == {"a": [1, "ü"]}
        assert path.read_bytes() == before
        assert [each.name for each in path.parent.iterdir()] == ["x.json.gz"]

    def test_what_is_not_there_is_not_recorded(self, tmp_path):
        assert recordings.load(tmp_path / "nowhere") == ({}, {}, {}, {})

    def test_one_that_was_interrupted_at_once_tells_nothing(self, tmp_path):
        begun = document(pairs=2)
        begun["cases"][3]["pairs"] = []
        recordings.write(recordings.path_of("identical", "quiet", tmp_path), json.dumps(begun))
        assert recordings.load(tmp_path).pools == {}

    def test_all_that_is_there_is_found(self, full):
        recorded = recordings.load(full)
        assert list(recorded.pools)[:2] == ["quiet", "neighbour"]
        assert set(recorded.slower) == set(slower.SLOWDOWNS)
        busy = [name for name in recorded.slower if name.startswith("busy")]
        assert busy == ["busy-1", "busy-2", "busy-3", "busy-5", "busy-10"]
        assert [run["status"] for run in recorded.runs["quiet"]] == [0, 0, 5]
        assert list(recorded.ablation) == list(recordings.ARMS)
        assert {cell: len(pairs) for cell, pairs in recorded.ablation["new interpreters"].items()} == dict.fromkeys(
            CASES[:2], 3
        )

    def test_a_pool(self):
        pool = a_pool(pairs=4)
        assert pool.rounds == 4
        assert pool.pair_s == dict.fromkeys(CASES, 5.0)
        assert [(elapsed_s, cell, i) for elapsed_s, cell, i in recordings.in_order(pool)][:6] == [
            (5, CASES[0], 0),
            (10, CASES[1], 0),
            (15, CASES[2], 0),
            (20, CASES[3], 0),
            (25, CASES[0], 1),
            (30, CASES[1], 1),
        ]

    def test_counts_that_differ_are_named_once(self):
        changed = document(pairs=2)
        counts = {"parameters": 1, "flops": 2, "operators": [], "allocated_bytes": 3, "peak_tensor_bytes": 4}
        for cell in changed["cases"]:
            cell["base"], cell["head"] = counts, {**counts, "operators": [["aten::clone", 1]]}
        assert list(map(str, recordings.pool_of("clone", changed).changes)) == ["+1 aten::clone a step"]


class TestSlowdowns:
    @pytest.mark.parametrize("name", slower.SLOWDOWNS)
    def test_each_is_a_change_of_the_step_as_it_is_now(self, name):
        source = (ROOT / slower.EDITED).read_text()
        edited = slower.edited(source, slower.SLOWDOWNS[name])
        compile(edited, slower.EDITED, "exec")
        assert edited != source

    def test_a_step_that_is_another_is_refused(self):
        with pytest.raises(ValueError, match="0 times what should be replaced once"):
            slower.edited("pass\n", slower.SLOWDOWNS["clone"])

    def test_a_busy_step_is_slower_by_its_share(self, monkeypatch):
        now_ns = 0

        def clock_ns():
            nonlocal now_ns
            now_ns += 1
            return now_ns

        def train_step(*_):
            nonlocal now_ns
            now_ns += 100_000
            return "loss"

        source = slower.edited((ROOT / slower.EDITED).read_text(), slower.SLOWDOWNS["busy-10"])
        module = {"__name__": "ntp.step_that_is_busy"}
        monkeypatch.setitem(sys.modules, module["__name__"], SimpleNamespace(**module))
        exec(compile(source, slower.EDITED, "exec"), module)
        module |= {"time": SimpleNamespace(perf_counter_ns=clock_ns), "train_step": train_step}
        training = module["Training"](None, None, None, iter([None]), None)
        assert training.step() == "loss"
        assert now_ns == pytest.approx(110_000, abs=10)

    def test_a_commit_in_a_clone_touches_the_step_alone(self):
        if not (ROOT / ".git").exists():
            pytest.skip("no repository to clone")
        with slower.clone(ROOT) as folder:
            base = slower.git(folder, "rev-parse", "HEAD")
            (folder / slower.EDITED).write_text(inspect.getsource(step))  # as the working tree has it
            author = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
            slower.git(folder, *author, "commit", "--allow-empty", "--quiet", "--all", "--message", "now")
            now = slower.git(folder, "rev-parse", "HEAD")
            slower.commit(folder, "item", now)
            slower.commit(folder, "busy-2", now)
            assert slower.git(folder, "diff", "--name-only", now, "busy-2") == slower.EDITED
            assert "loss.item()" not in slower.git(folder, "diff", now, "busy-2")
            assert slower.git(folder, "merge-base", base, "item") == base
        assert not folder.exists()


class TestMeasuring:
    def test_a_neighbour_is_there_while_it_is_wanted(self):
        before = set(psutil.Process().children())
        with measuring.neighbour(wanted=False):
            assert set(psutil.Process().children()) == before
        with measuring.neighbour():
            assert len(set(psutil.Process().children()) - before) == 1
        assert set(psutil.Process().children()) == before

    def test_cells_are_recorded_in_turn_and_an_interruption_keeps_them(self, tmp_path, monkeypatch):
        whole = GuardRecord.model_validate(document(pairs=3))
        path = tmp_path / "identical-quiet.json.gz"
        asked, told = [], []

        def guard(plan, _sides, *, next_case, **_):
            cells = {cell.case_id: cell for cell in whole.cases}
            taken = dict.fromkeys(cells, 0)
            record = None
            while record is None or (case_id := next_case(record)):
                if record is not None:
                    asked.append(case_id)
                    taken[case_id] += 1
                if len(asked) == 10:
                    raise KeyboardInterrupt
                now = tuple(
                    cell.model_copy(update={"pairs": cell.pairs[: taken[cell.case_id]]}) for cell in whole.cases
                )
                record = whole.model_copy(update={"cases": now, "plan": plan})
                yield record

        monkeypatch.setattr(measuring, "guard", guard)
        with pytest.raises(KeyboardInterrupt):
            measuring.record_pairs(path, 3, "HEAD", "HEAD", ROOT, 0, told.append)
        assert asked == [*CASES, *CASES, *CASES[:2]]
        assert told[-1] == "identical-quiet.json.gz: 8 of 12 pairs in 60 s"
        assert [len(cell["pairs"]) for cell in recordings.read(path)["cases"]] == [3, 2, 2, 2]

    def test_a_cell_that_fails_does_not_hold_up_the_others(self, tmp_path, monkeypatch):
        whole = GuardRecord.model_validate(document(pairs=2))
        cells = (whole.cases[0].model_copy(update={"pairs": (), "failure": "gone"}), *whole.cases[1:])
        seen = []

        def guard(*_, next_case, **__):
            record = whole.model_copy(update={"cases": cells})
            seen.append(next_case(record))
            yield record

        monkeypatch.setattr(measuring, "guard", guard)
        measuring.record_pairs(tmp_path / "x.json.gz", 2, "HEAD", "HEAD", ROOT, 0, lambda _: None)
        assert seen == [None]

    def test_runs_are_kept_one_by_one(self, tmp_path, monkeypatch):
        @contextmanager
        def clone(_):
            yield tmp_path / "repository"

        def run(command, cwd, **_):
            assert cwd == tmp_path / "repository"
            status = 5 if command[-3] == "8" else 0
            if not status:
                Path(command[-1]).write_text(json.dumps({"verdict": {"verdict": "pass"}, "command": command}))
            return SimpleNamespace(returncode=status, stderr="ntp: error: gone")

        monkeypatch.setattr(slower, "clone", clone)
        monkeypatch.setattr(measuring.subprocess, "run", run)
        path = tmp_path / "runs-quiet.json.gz"
        measuring.record_runs(path, 2, 7, ROOT, lambda _: None)
        first, second = recordings.read(path)
        assert first["status"] == 0
        assert first["record"]["command"] == ["ntp", "guard", "--base", "HEAD", "--order-seed", "7"]
        assert (second["status"], second["record"], second["stderr"]) == (5, None, "ntp: error: gone")

    def test_every_arm_measures_a_pair(self):
        started = []

        class Worker:
            def __init__(self, case, folder):
                started.append(case.runtime)
                self.log = started

            def __enter__(self):
                return self

            def __exit__(self, *_):
                started.append("stopped")

            def load(self):
                pass

            def warm_up(self, _window):
                return WarmUp(step_time_ns=(10**9,) * 4, wall_time_ns=4 * 10**9, steady=True)

            def run(self, steps, expected_s=0.0):
                return SimpleNamespace(step_time_ns=(10**9,) * steps, ending=Ending())

        case = Case.parse(CASES[0])
        turns, steps = rounds_of(1.0)
        for arm in recordings.ARMS[:-1]:
            started.clear()
            pair = measuring.measure_arm(arm, case, Worker, ROOT, 3)
            assert [len(each) for turn in pair.rounds for each in turn] == [steps] * 2 * turns
            sides = [block.side for block in pair.blocks]
            one_after_the_other = sides in (["base"] * turns + ["head"] * turns, ["head"] * turns + ["base"] * turns)
            assert one_after_the_other == (arm == "one after the other") == (started[1] == "stopped")
            usual = case.runtime.model_dump()
            changed = {f"{field}={value}" for field, value in started[0].model_dump().items() if value != usual[field]}
            assert changed == ({arm} if arm in measuring.RUNTIMES else set())
        assert set(measuring.RUNTIMES) < set(recordings.ARMS)


class TestSuites:
    def test_it_takes_what_the_guard_takes_where_it_is_not_told_otherwise(self):
        defaults = inspect.signature(cli.guard).parameters
        assert defaults["threshold"].default == suites.THRESHOLD
        assert defaults["budget"].default == suites.BUDGET_S

    def test_it_sees_of_a_pair_what_the_guard_sees(self):
        pool, plan = a_pool(pairs=2), suites.usual_plan()
        seen = suites.guarded_log_ratios(pool, plan)
        assert seen[CASES[1]][1] == log_ratios(pool.pairs[CASES[1]][1], plan.metrics)

    def test_it_is_the_loop_that_the_guard_runs(self):
        pool, plan = a_pool(sd=0.01, pairs=30), suites.usual_plan()
        ratios = suites.resampled(suites.guarded_log_ratios(pool, plan), plan, "quiet", 0)
        taken = dict.fromkeys(CASES, 0)
        while sum(taken.values()) < 45:
            known = [CasePairs(case_id=cell, pairs=ratios[cell][: taken[cell]]) for cell in CASES]
            wanted = judge(plan, known).next_case
            assert suites._next_cell(plan, ratios, taken)[0] == wanted
            if wanted is None:
                break
            taken[wanted] += 1

    def test_it_ends_as_the_guard_does_on_the_same_pairs(self):
        record = GuardRecord.model_validate(document(sd=0.002, pairs=suites.usual_plan().max_pairs))
        pool, plan = recordings.pool_of("quiet", record.model_dump(mode="json")), suites.usual_plan()
        outcome = suites.run(plan, suites.guarded_log_ratios(pool, plan), pool.pair_s)
        assert outcome.verdict == "pass"
        known = {cell: len(pool.pairs[cell][: outcome.pairs]) for cell in CASES}
        assert outcome.pairs == 4 * plan.min_pairs < sum(known.values())
        cut = tuple(cell.model_copy(update={"pairs": cell.pairs[: plan.min_pairs]}) for cell in record.cases)
        judged = verdict_on(record.model_copy(update={"cases": cut}))
        assert (judged.verdict, judged.next_case) == ("pass", None)
        assert outcome.ratios == tuple(cell.times.findings[0].ratio for cell in judged.cases)

    @pytest.mark.parametrize("budget_s", [30.0, 112.5, 200.0])
    def test_no_pair_that_would_not_fit_into_the_budget(self, budget_s):
        plan = suites.usual_plan()
        ratios = {cell: [(0.05 * (-1) ** i, 0.0) for i in range(plan.max_pairs)] for cell in CASES}
        outcome = suites.run(plan, ratios, dict.fromkeys(CASES, 5.0), budget_s)
        assert outcome.verdict == "inconclusive"
        assert outcome.elapsed_s == 4 * suites.COUNTING_S + 5 * outcome.pairs <= budget_s
        assert budget_s - outcome.elapsed_s < 5

    def test_a_slowdown_is_found_and_identical_code_is_not_alarmed(self):
        assert set(suites.drawn(a_pool(), 20)["verdicts"]) == {"p"}
        ends = suites.drawn(a_pool("busy-3", slowdown=math.log1p(0.03)), 20)
        assert set(ends["verdicts"]) == {"r"}
        assert {len(each) for each in ends["holds_mean"].values()} == {20}
        assert set("".join(ends["holds_one"].values())) == {"0"}

    def test_of_normal_pairs_the_intervals_hold_as_many_as_promised_if_each_pair_is_new(self):
        held = "".join(suites.drawn_normal(a_pool(), 50, again=False).values())
        assert len(held) == 50 * len(CASES)
        assert stats.binomtest(held.count("1"), len(held), 0.95).pvalue > 1e-4
        few = "".join(suites.drawn_normal(a_pool(pairs=3), 50, again=True).values())
        assert few.count("1") < held.count("1")

    def test_in_order_starts_at_each_pair_and_goes_round(self):
        plan = suites.usual_plan().model_copy(update={"max_pairs": 5})
        ratios = {cell: [(float(i),) for i in range(4)] for cell in CASES}
        assert suites.consecutive(ratios, plan, 2)[CASES[3]] == [(2,), (3,), (0,), (1,), (2,)]

    def test_longer_pairs_have_the_turns_of_several_and_take_the_time_of_their_steps(self, monkeypatch):
        pool = a_pool(pairs=3)
        both = suites.joined(pool.pairs[CASES[0]][:2])
        assert both.rounds == pool.pairs[CASES[0]][0].rounds + pool.pairs[CASES[0]][1].rounds
        asked = []

        def run(_plan, ratios, pair_s):
            asked.append(pair_s)
            assert {len(each) for each in ratios.values()} == {suites.usual_plan().max_pairs}
            return suites.Outcome("pass", 1, 1.0, ())

        monkeypatch.setattr(suites, "run", run)
        assert suites.drawn_longer(pool, 3, 2) == "pp"
        steps_s = sum(sum(block.step_time_ns) for pair in pool.pairs[CASES[0]] for block in pair.blocks) / 1e9 / 3
        assert asked[0][CASES[0]] == pytest.approx(pool.pair_s[CASES[0]] + 2 * steps_s)

    def test_fewer_suites_are_the_first_of_more(self, full):
        recorded = recordings.load(full)
        pools = {name: recorded.pools[name] for name in ("quiet", "busy-2", "clone")}
        recorded = recorded._replace(pools=pools)
        assert draws.first(draws.draw(recorded, 6), 2) == draws.draw(recorded, 2)


def times(*values):
    return np.array(values, dtype=float)


class TestOtherTools:
    """By hand: of two groups that do not overlap, n values each, a Mann-Whitney p is 2 over (2n choose n)."""

    def test_a_threshold(self):
        alarm = other_tools.more_than(np.mean, 0.05)
        assert not alarm(times(90, 110), times(100, 109.9))
        assert alarm(times(90, 110), times(100, 110.1))
        assert not other_tools.more_than(np.min, 0.05)(times(100, 100), times(104, 900))

    def test_asv_wants_seven_steps_a_side_and_a_factor(self):
        six, seven = np.arange(6) + 100.0, np.arange(7) + 100.0
        assert not other_tools.asv(six, six * 1.2)  # p = 2 / 924 = 0.0022
        assert other_tools.asv(seven, seven * 1.2)  # p = 2 / 3432 = 0.0006
        assert not other_tools.asv(seven, seven * 1.09)
        assert not other_tools.asv(seven, seven[::-1] * 1.0)

    def test_pyperf_by_a_t_of_two_samples(self):
        assert not other_tools.pyperf(times(1, 2, 3), times(2, 3, 4))  # t = 1.22 < 2.776
        assert other_tools.pyperf(times(1, 2, 3), times(4, 5, 6))  # t = 3.67
        t = stats.ttest_ind(times(1, 2, 3.5, 9), times(6, 8, 9, 9)).pvalue
        assert other_tools.pyperf(times(1, 2, 3.5, 9), times(6, 8, 9, 9)) == (t < 0.05)

    def test_google_benchmark_wants_four_steps_a_side(self):
        assert not other_tools.google_benchmark(times(1, 2, 3), times(4, 5, 6))  # p = 2 / 20
        assert other_tools.google_benchmark(times(1, 2, 3, 4), times(5, 6, 7, 8))  # p = 2 / 70

    def test_criterion_has_a_noise_threshold(self):
        base = 100 + np.arange(30) / 100
        assert not other_tools.criterion(base, base * 1.009)
        assert other_tools.criterion(base, base * 1.011)
        wide = 100 + 10 * np.arange(-15, 15.0)
        assert not other_tools.criterion(wide, wide * 1.03)

    @pytest.mark.parametrize("tool", other_tools.TOOLS, ids=lambda tool: tool.name)
    def test_none_is_alarmed_by_what_is_faster_and_all_by_what_is_three_times_as_slow(self, tool):
        base = 100 + np.arange(12) / 10
        assert not tool.alarm(base, base / 3)
        assert not tool.alarm(base, base)
        assert tool.alarm(base, base * 3)

    def test_one_cell_alarms_the_suite(self):
        base = [[1000 + i] for i in range(8)]
        cells = {cell: (a_pair(cell, base, base),) * 3 for cell in CASES}
        cells[CASES[2]] = (
            cells[CASES[2]][0],
            a_pair(CASES[2], base, [[1060 + i] for i in range(8)]),
            cells[CASES[2]][2],
        )
        pool = dataclasses.replace(a_pool(pairs=2), pairs=cells)
        beside = other_tools.drawn(pool, 0, 9)["pytest-benchmark: mean more than 5% greater"]
        before = other_tools.drawn(pool, 1, 9)["pytest-benchmark: mean more than 5% greater"]
        assert (beside, before) == ("010", "10")


class TestSpread:
    def test_levels_of_what_has_one_level_alone(self):
        e = math.e
        steps = [a_pair("x", [[1000, round(1000 * e)]] * 8, [[round(1000 * e), 1000]] * 8)] * 2
        found = spread.levels(steps)
        assert found.step == pytest.approx(math.sqrt(0.5), rel=1e-3)
        assert found[1:] == pytest.approx((0, 0, 0, 0, 0), abs=1e-3)
        pairs = [a_pair("x", [[size] * 2] * 8, [[size] * 2] * 8) for size in (1000, round(1000 * e))]
        assert spread.levels(pairs) == pytest.approx((0, 0, 0, 0, math.sqrt(0.5), 0), abs=1e-3)
        shared = [a_pair("x", [[1000], [round(1000 * e)]] * 4, [[1000], [round(1000 * e)]] * 4)] * 2
        assert spread.levels(shared)[1:3] == pytest.approx((0, math.sqrt(2 / 7)), abs=1e-3)
        assert math.isnan(spread.levels(shared).step)

    def test_levels_that_are_mixed(self):
        draw = random.Random(5)
        sds = {"step": 0.05, "turn": 0.03, "shared": 0.04, "process": 0.02, "pair": 0.06}

        def side(process, turns):
            own = [process + turn + draw.gauss(0, sds["turn"]) for turn in turns]
            return [[round(1e8 * math.exp(each + draw.gauss(0, sds["step"]))) for _ in range(3)] for each in own]

        pairs = []
        for _ in range(400):
            pair, turns = draw.gauss(0, sds["pair"]), [draw.gauss(0, sds["shared"]) for _ in range(10)]
            pairs.append(a_pair("x", *(side(pair + draw.gauss(0, sds["process"]), turns) for _ in range(2))))
        found = spread.levels(pairs)
        assert found[:5] == pytest.approx(tuple(sds.values()), rel=0.15)
        # Of a process: its own share, and a tenth of the variance of turns, a thirtieth of that of steps. Two of them.
        assert found.log_ratio == pytest.approx(math.sqrt(2 * (0.02**2 + 0.03**2 / 10 + 0.05**2 / 30)), rel=0.15)

    def test_centres_of_turns(self):
        assert spread.hodges_lehmann(times(1, 2, 4)) == 2.25  # of 1, 1.5, 2, 2.5, 3, 4
        base, head = [[1000]] * 8, [[1000]] * 7 + [[1500]]
        for name in ("rounds", "rounds, trimmed mean", "rounds, Hodges-Lehmann"):
            assert spread.SUMMARIES[name](a_pair("x", base, head)) == pytest.approx(0)
        assert spread.SUMMARIES["mean"](a_pair("x", base, head)) == pytest.approx(math.log(8.5 / 8))

    def test_a_standard_deviation_in_its_interval(self):
        values = [1.0, 2.0, 4.0, 7.0]
        sd = np.std(values, ddof=1)
        low, high = (sd * math.sqrt(3 / stats.chi2.ppf(p, 3)) for p in (0.975, 0.025))
        assert spread.deviation(values) == pytest.approx((sd, low, high))

    def test_the_mean_of_the_cells(self):
        one = [1.0, 2.0, 4.0]
        interval = stats.ttest_1samp(one, 0).confidence_interval()
        assert spread.mean_of_cells([one]) == pytest.approx((7 / 3, interval.low, interval.high))
        both = spread.mean_of_cells([one, [value + 10 for value in one]])
        assert both.value == pytest.approx(7 / 3 + 5)
        assert both.high - both.value == pytest.approx((interval.high - 7 / 3) / math.sqrt(2))

    def test_pairs_for_a_pass(self):
        plan = Plan(cases=("x",))
        assert spread.pairs_for_a_pass(0.001, plan, 0.01) == plan.min_pairs
        assert spread.pairs_for_a_pass(0.1, plan, 0.01) is None
        assert spread.pairs_for_a_pass(0.008, plan, 0.01) < spread.pairs_for_a_pass(0.012, plan, 0.01)

    @pytest.mark.parametrize(("hits", "trials"), [(0, 1000), (3, 20), (20, 20), (1, 1)])
    def test_clopper_pearson(self, hits, trials):
        exact = stats.binomtest(hits, trials).proportion_ci(method="exact")
        assert spread.clopper_pearson(hits, trials) == pytest.approx((hits / trials, exact.low, exact.high))


@pytest.fixture(scope="module")
def recorded(full):
    return recordings.load(full)


@pytest.fixture(scope="module")
def drawn(recorded):
    return draws.draw(recorded, 20)


def rows(text):
    """The cells of each row of a table, by what stands in its first."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {line[0]: line[1:] for line in lines}


class TestThePage:
    def test_with_nothing_recorded_it_says_so(self, tmp_path):
        recorded = recordings.load(tmp_path)
        text = page.markdown(recorded, draws.draw(recorded, 20), pictures.charts(recorded, {}))
        assert text.count(NOT_RECORDED) > 20
        assert "svg" not in text

    def test_the_same_gives_the_same(self, recorded, drawn):
        assert page.markdown(recorded, drawn) == page.markdown(recorded, json.loads(json.dumps(drawn)))
        assert NOT_RECORDED in page.markdown(recorded, drawn)  # the runs beside a neighbour

    def test_the_headline(self, recorded, drawn):
        assert error_tables.headline(recorded, drawn) == (
            "**Of 20 guards of identical code, 0 raised a false alarm (at most 16.8%), 100% passed and 0% were left "
            "undecided. The median took 20 pairs and 112 s. A step was found to be 2% slower in 100%, 3% slower in "
            "100% and 5% slower in 100%.**"
        )

    def test_false_alarms(self, recorded, drawn):
        table = rows(error_tables.false_alarms(recorded, drawn))
        quiet = table["nothing else running: resampled"]
        assert quiet[:3] == ["20", "0.0% (0.0% to 16.8%)", "100.0% (83.2% to 100.0%)"]
        assert quiet[-2:] == ["20, 20", "112 s, 112 s"]
        assert table["nothing else running: in the order recorded"][:2] == ["12", "0.0%"]
        real = table["nothing else running: really run"]
        assert real[0] == "3, 1 failed"
        assert real[2:] == ["100.0% (15.8% to 100.0%)", *["0.0% (0.0% to 84.2%)"] * 2, "48, 48", "120 s, 120 s"]
        assert table["a busy process beside it: really run"][0] == NOT_RECORDED

    def test_power(self, recorded, drawn):
        table = rows(error_tables.power(recorded, drawn))
        assert list(table)[2:] == [f"`{name}`: {each.what}" for name, each in slower.SLOWDOWNS.items()]
        found = table["`busy-5`: spins for 5% of the step"]
        assert found[0] == "none"
        assert 4.5 < float(found[1].split("%")[0]) < 5.5
        assert found[3] == "100.0% (83.2% to 100.0%)"
        assert table["`item`: reads the loss in every step"][4] == "100.0% (83.2% to 100.0%)"  # passed

    def test_counts_that_rose_are_named(self, recorded):
        changed = copy.deepcopy(document(pairs=2))
        counts = {"parameters": 1, "flops": 2, "operators": [], "allocated_bytes": 3, "peak_tensor_bytes": 4}
        more = {**counts, "flops": 4, "peak_tensor_bytes": 5, "operators": [["aten::clone", 1], ["aten::copy_", 2]]}
        changed["cases"][0] |= {"base": counts, "head": more}
        assert error_tables._counted(recordings.pool_of("clone", changed)) == (
            r"+2 FLOP a step, +1 bytes peak tensor memory and 2 more"
        )

    def test_coverage(self, recorded, drawn):
        table = rows(error_tables.coverage(recorded, drawn))
        assert len(table) == 2 + 2 * 2 + 1 + len(slower.SLOWDOWNS) - 1  # the same label twice, of both conditions
        *held, pairs, as_few, ever_new = table["`busy-3`: the mean of all pairs"]
        mean = [float(cell.rstrip("%")) for cell in held]
        assert mean[0] == pytest.approx(sum(mean[1:]) / 4, abs=0.1)
        assert pairs == "6"
        for text, letters in zip((as_few, ever_new), drawn["normal"]["busy-3"].values(), strict=True):
            assert text == f"{''.join(letters.values()).count('1') / 40:.1%}"
        assert table["identical, nothing else running: exactly 1"][-3:] == ["", "", ""]

    def test_tools(self, recorded, drawn):
        table = rows(error_tables.tools(recorded, drawn))
        assert table["**`ntp guard`**"][-3:] == ["100.0% (83.2% to 100.0%)"] * 3
        assert table["github-action-benchmark"][-1] == "0.0% (0.0% to 45.9%)"
        assert table["TorchBench"][-1] == "100.0% (54.1% to 100.0%)"
        assert len(error_tables.sources().splitlines()) == len(other_tools.TOOLS)

    def test_noise_and_ablation(self, recorded):
        noise = rows(noise_tables.noise(recorded))
        assert noise[f"nothing else running: `{CASES[0]}`"][0] == "12"
        arms = rows(noise_tables.ablation(recorded))
        assert list(arms)[2:] == list(recordings.ARMS)
        assert len(arms["as it is"]) == 6

    def test_summaries(self, recorded, drawn):
        table = rows(noise_tables.summaries(recorded, drawn, "quiet"))
        assert list(table)[2:] == list(spread.SUMMARIES)
        assert table["rounds"][-3:] == ["0.0%", "100.0%", "100.0%"]

    def test_lengths(self, recorded, drawn):
        table = rows(noise_tables.lengths(recorded, drawn))
        assert list(table)[2:] == ["1 x", "2 x", "3 x"]
        assert table["1 x"][4] == table["1 x"][6] == "100.0% (39.8% to 100.0%)"  # four of twenty suites
        spreads = [float(table[f"{times} x"][0].rstrip("%")) for times in (1, 3)]
        assert spreads[1] < spreads[0]

    def test_every_file_is_named_with_its_pairs(self, recorded):
        table = rows(page.files(recorded._replace(ablation_facts={"commit": "c" * 40})))
        assert table["`identical-quiet.json.gz`"][0] == str(12 * len(CASES))
        assert table["`runs-quiet.json.gz`"][0] == str(2 * 12 * len(CASES))
        assert table["`runs-quiet.json.gz`"][2] == "241 s"
        assert table["`ablation.json.gz`"][0] == str(3 * 2 * len(recordings.ARMS))
        assert table["`ablation.json.gz`"][3] == f"`{'c' * 12}`"

    def test_runs_that_all_failed_have_no_row(self, recorded):
        failed = recorded._replace(runs={"quiet": [{"status": 5, "wall_time_s": 1.0, "stderr": "", "record": None}]})
        assert "`runs-quiet.json.gz`" not in rows(page.files(failed))

    def test_the_charts(self, recorded, drawn):
        charts = pictures.charts(recorded, drawn)
        assert set(charts) == {"identical-quiet.svg", "identical-neighbour.svg", "power.svg"}
        changes = {word.split(":")[0] for word in words_of(charts["power.svg"])}
        assert changes >= {*slower.SLOWDOWNS}
        assert all(case in words_of(charts["identical-quiet.svg"]) for case in CASES)
        dots = re.findall(r"mark-symbol role-mark.*?</g>", charts["identical-quiet.svg"], re.DOTALL)
        assert sum(group.count("<path") for group in dots) == 12 * len(CASES)
        text = page.markdown(recorded, drawn, charts)
        assert all(f"]({name})" in text for name in charts)


class TestTheCommands:
    def run(self, *arguments):
        command = [sys.executable, ROOT / "evidence/guard", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    def test_tables(self, full, tmp_path, recorded, drawn):
        folder = tmp_path / "guard"
        shutil.copytree(full, folder)
        done = self.run("tables", "--folder", folder, "--suites", 20)
        assert done.returncode == 0, done.stderr
        assert error_tables.headline(recorded, drawn) in done.stderr
        charts = pictures.charts(recorded, drawn)
        assert (folder / "README.md").read_text() == page.markdown(recorded, drawn, charts)
        assert {path.name for path in folder.glob("*.svg")} == set(charts)

    def test_no_recording_is_overwritten_unasked(self, full):
        done = self.run("slowdowns", "--only", "clone", "--folder", full)
        assert done.returncode == 2
        assert "--again" in done.stderr

    def test_a_slowdown_that_is_none(self, tmp_path):
        assert "no slowdown is called sleep" in self.run("slowdowns", "--only", "sleep", "--folder", tmp_path).stderr


def words_of(svg):
    """What a picture says. Where exactly it says so changes with the version of the library that draws."""
    return re.findall(r">([^<>]+)<", svg) + re.findall(r'aria-label="([^"]*)"', svg)


@cache
def committed(folder):
    return recordings.load(folder)


@pytest.mark.parametrize("folder", sorted(FOLDER.parent.glob("guard*")), ids=lambda folder: folder.name)
class TestWhatIsCommitted:
    """The reports are what the recordings make, as far as that can be told within seconds."""

    def test_the_page_and_its_charts(self, folder):
        recorded, drawn = committed(folder), recordings.read(folder / "drawn.json.gz")
        charts = pictures.charts(recorded, drawn)
        assert (folder / "README.md").read_text() == page.markdown(recorded, drawn, charts)
        assert {path.name for path in folder.glob("*.svg")} == set(charts)
        for name, text in charts.items():
            assert words_of((folder / name).read_text()) == words_of(text)

    def test_the_first_suites_come_out_again(self, folder):
        again = draws.draw(committed(folder), 1)
        assert draws.first(recordings.read(folder / "drawn.json.gz"), 1) == again
