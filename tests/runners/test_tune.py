"""The course of a search: workers and a clock that need no time, on a machine whose every case has a known speed."""

import itertools
import math
import random

import pytest
from fakes import FakeWorker

from ntp.case import Case
from ntp.errors import OptionError, WorkerFailed
from ntp.judge.tuning import incumbent, levers_of, standings, winner, with_values
from ntp.records.endings import Ending
from ntp.records.environment import Machine
from ntp.records.tuning import Lever
from ntp.runners.bench import Bench
from ntp.runners.levers import levers
from ntp.runners.proposals import Proposals, one_by_one
from ntp.runners.tune import COMPILING_S, DROP_ABOVE, FINAL_PAIRS, tune
from ntp.worker.channel import Refused

DEFAULT = Case.of({"threads": 2})
LEVERS = (
    Lever(field="loss", values=("full", "deduplicated")),
    Lever(field="matmul", values=("default", "onednn")),
    Lever(field="optimizer", values=("default", "foreach", "fused")),
    Lever(field="threads", values=("1", "2")),
    Lever(field="allocator", values=("glibc-tuned", "glibc")),
)
SHORT_S = 180.0
"""A budget for every lever by itself, and for little else."""

FACTORS = {"deduplicated": 0.25, "onednn": 0.8, "foreach": 0.97, "fused": 0.9, "1": 1.8, "glibc": 1.1}
"""By what each value multiplies the time of a step."""


class FakeBench:
    """A machine: how long a step of each case takes, what goes wrong, and the clock."""

    def __init__(self):
        self.time_s = 0.0
        self.noise = 0.002
        self.step_s = 0.1
        self.pair_cost_s = 2.0
        self.fails = {}
        """The error of a case, by a part of its id."""
        self.losses = {}
        """The loss of a case, by a part of its id; 6.9 of the others."""
        self.rss = {}
        self.asked = []
        self.chance = random.Random(1)

    def seconds_of(self, case):
        values = [*case.step.model_dump().values(), *case.runtime.model_dump().values()]
        seconds = self.step_s
        for value in map(str, values):
            seconds *= FACTORS.get(value, 1)
        return seconds

    def start(self, case, _directory):
        return Worker(self, case)

    def tune(self, budget_s=300.0, levers=LEVERS, **settings):
        bench = Bench(self.start, lambda: self.time_s)
        return list(tune(DEFAULT, levers, budget_s=budget_s, bench=bench, **settings))


class Worker(FakeWorker):
    def __init__(self, bench, case):
        self.bench, self.case = bench, case
        self.process = bench.chance.gauss(0, bench.noise)
        self.peak_rss_bytes = next((size for part, size in bench.rss.items() if part in case.id), 100)
        self.ending = Ending(loss=next((loss for part, loss in bench.losses.items() if part in case.id), 6.9))

    def __enter__(self):
        self.bench.time_s += self.bench.pair_cost_s / 2
        return self

    def said(self, what):
        failing = (error for part, error in self.bench.fails.items() if what == "load" and part in self.case.id)
        if error := next(failing, None):
            raise error

    def times_ns(self, steps):
        step_s = self.bench.seconds_of(self.case) * (1 + self.process)
        self.bench.time_s += steps * step_s
        return (round(step_s * 1e9),) * steps


@pytest.fixture(autouse=True, scope="module")
def machine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntp.runners.bench.read_machine", lambda: Machine(cpu_model="Example CPU"))
        yield


@pytest.fixture(scope="module")
def whole_search(machine):
    """A search in which nothing fails, for all that a test can see of it afterwards."""
    return FakeBench().tune()[-1]


@pytest.fixture
def bench():
    return FakeBench()


def test_a_candidate_that_does_not_train_never_wins(bench):
    bench.losses["deduplicated"] = math.nan
    tuning = bench.tune(SHORT_S)[-1]
    lost = [race for race in tuning.races if "deduplicated" in race.case_id]
    assert lost
    assert {race.outcome for race in lost} == {"failed"}
    assert lost[0].message == f"its loss is nan, and that of {DEFAULT.id} is 6.9"
    assert winner(tuning).case.step.loss == "full"


def test_where_nothing_trains_there_is_a_fastest_all_the_same(bench):
    bench.losses["simple"] = math.inf
    fastest, _ = best_of_all(bench)
    assert winner(bench.tune(SHORT_S)[-1]).case == fastest


def best_of_all(bench):
    cases = [
        with_values(DEFAULT, dict(zip([lever.field for lever in LEVERS], values, strict=True)))
        for values in itertools.product(*(lever.values for lever in LEVERS))
    ]
    return min(cases, key=bench.seconds_of), len(cases)


def test_the_fastest_is_found_in_few_races(bench, whole_search):
    tuning = whole_search
    fastest, cases = best_of_all(bench)
    search = [race for race in tuning.races if race.purpose == "search"]
    assert (
        winner(tuning).case
        == fastest
        == with_values(DEFAULT, {"loss": "deduplicated", "matmul": "onednn", "optimizer": "fused"})
    )
    first = next(i for i, race in enumerate(search) if race.case_id == fastest.id)
    assert first < 0.2 * cases
    ratio = winner(tuning).ratio
    assert ratio.low <= 0.25 * 0.8 * 0.9 * 1.01
    assert ratio.high >= 0.25 * 0.8 * 0.9 * 0.99


def test_the_end_tells_what_each_lever_is_worth(whole_search):
    contributions = winner(whole_search).contributions
    assert [contribution.field for contribution in contributions] == ["loss", "matmul", "optimizer"]
    for contribution, factor in zip(contributions, (0.25, 0.8, 0.9), strict=True):
        assert contribution.ratio.value == pytest.approx(1 / factor, rel=0.02)
        assert contribution.instead in {"full", "default"}


def test_the_budget_is_kept_and_leaves_time_for_the_end(bench):
    budget_s = 90.0
    tuning = bench.tune(budget_s=budget_s)[-1]
    assert bench.time_s <= budget_s + 10
    final = [race for race in tuning.races if race.purpose == "final"]
    assert len(final) == 1
    assert len(final[0].pairs) == FINAL_PAIRS


def test_much_slower_candidates_are_given_up_in_the_warm_up(whole_search):
    tuning = whole_search
    pruned = [race for race in tuning.races if race.outcome == "pruned"]
    assert pruned
    assert all(race.pace > DROP_ABOVE and not race.pairs for race in pruned)
    assert any("-t1" in race.case_id for race in pruned)


@pytest.mark.parametrize("error", [WorkerFailed("died of SIGSEGV"), Refused("not context-free")])
def test_what_cannot_be_run_is_noted_and_the_search_goes_on(bench, error):
    bench.fails = {"deduplicated": error}
    tuning = bench.tune(SHORT_S)[-1]
    notes = [race for race in tuning.races if "deduplicated" in race.case_id]
    assert {race.outcome for race in notes} == {"refused" if isinstance(error, Refused) else "failed"}
    assert all(str(error) in race.message for race in notes)
    assert winner(tuning).case == with_values(DEFAULT, {"matmul": "onednn", "optimizer": "fused"})


def test_a_default_that_cannot_be_run_ends_it(bench):
    bench.fails = {"simple": WorkerFailed("no such model")}
    with pytest.raises(WorkerFailed, match="no such model"):
        bench.tune()


def test_what_needs_too_much_memory_is_dropped_with_its_number(bench):
    bench.rss = {"onednn": 3000}
    tuning = bench.tune(SHORT_S, memory_limit_bytes=2000)[-1]
    too_large = [race for race in tuning.races if race.outcome == "too large"]
    assert too_large
    assert all("used 3,000 bytes of memory, 2,000 are allowed" in race.message for race in too_large)
    assert "onednn" not in winner(tuning).case.id


def test_it_goes_on_where_it_stopped(bench):
    part = bench.tune(budget_s=60.0)[-1]
    races = len(part.races)
    whole = bench.tune(budget_s=200.0 + bench.time_s, earlier=part)[-1]
    assert whole.races[:races] == part.races
    searched = [race.case_id for race in whole.races if race.purpose == "search"]
    assert len(set(searched)) == len(searched)
    assert winner(whole).case == best_of_all(bench)[0]
    assert whole.wall_time_s >= part.wall_time_s


def test_another_search_is_not_gone_on_with(bench):
    part = bench.tune(budget_s=60.0)[-1]
    with pytest.raises(OptionError, match="holds a search of another workload"):
        bench.tune(earlier=part, levers=LEVERS[:2])


def test_the_same_seed_tries_the_same(bench):
    again = FakeBench()
    assert [race.case_id for race in bench.tune(60.0)[-1].races] == [
        race.case_id for race in again.tune(60.0)[-1].races
    ]


def test_where_nothing_is_faster_the_default_wins(bench):
    tuning = bench.tune(levers=(Lever(field="threads", values=("1", "2")),))[-1]
    assert incumbent(tuning) == DEFAULT.id
    assert winner(tuning).ratio is None
    assert [race.purpose for race in tuning.races] == ["search"]
    assert standings(tuning)[0].case_id == DEFAULT.id


def test_compiling_is_tried_last_and_only_if_there_is_time(bench):
    compile_ = Lever(field="compile", values=("off", "model"))
    short = bench.tune(budget_s=COMPILING_S, levers=(compile_, LEVERS[0]))[-1]
    assert not any("compile" in race.case_id for race in short.races)
    bench = FakeBench()
    races = bench.tune(levers=(compile_, LEVERS[0]))[-1].races
    search = [race.case_id for race in races if race.purpose == "search"]
    assert "compile:model" in search[1]
    assert "compile" not in search[0]


class TestLevers:
    def test_all_that_a_machine_has(self):
        values = {lever.field: lever.values for lever in levers(6, ("glibc-tuned", "glibc"), exact=False)}
        assert values["threads"] == ("1", "2", "4", "6")
        assert values["allocator"] == ("glibc-tuned", "glibc")
        assert values["precision"] == ("fp32", "bf16", "bf16-matmul")
        assert next(iter(values)) == "loss"
        assert values["wait_policy"] == ("unset", "passive", "active")
        assert list(values).index("threads") < list(values).index("wait_policy"), "its worth depends on the threads"
        assert list(values)[-1] == "compile"

    def test_what_has_one_value_is_no_lever(self):
        fields = {lever.field for lever in levers(6, ("glibc",), exact=True, threads=4)}
        assert not fields & {"precision", "threads", "allocator"}

    @pytest.mark.parametrize(("max_threads", "threads"), [(1, None), (6, 1)])
    def test_a_single_thread_waits_for_no_other(self, max_threads, threads):
        assert "wait_policy" not in {lever.field for lever in levers(max_threads, (), exact=False, threads=threads)}


class TestProposals:
    def test_one_lever_at_a_time_and_what_does_not_go_with_it_gives_way(self):
        best = with_values(DEFAULT, {"matmul": "onednn"})
        values = {"precision": ("fp32", "bf16", "bf16-matmul"), "loss": ("full", "chunked"), "threads": ("1", "2")}
        levers = [Lever(field=field, values=texts) for field, texts in values.items()]
        differences = [set(levers_of(case, best)) for case in one_by_one(best, DEFAULT, levers)]
        assert differences == [{"precision", "matmul"}] * 2 + [{"loss"}, {"threads"}]
        both = [Lever(field="loss", values=("chunked",)), Lever(field="matmul", values=("onednn",))]
        best = with_values(DEFAULT, {"precision": "bf16", "optimizer": "fused"})
        assert [set(levers_of(case, best)) for case in one_by_one(best, DEFAULT, both)] == [
            {"precision", "loss"},
            {"precision", "matmul"},
        ]

    def test_a_wait_policy_is_tried_on_several_threads_alone(self):
        policies = [value for value in ("passive", "active", "unset") if value != DEFAULT.runtime.wait_policy]
        two = with_values(DEFAULT, {"threads": "2"})
        lever = Lever(field="wait_policy", values=("passive", "active", "unset"))
        tried = list(one_by_one(two, two, [lever]))
        assert tried == [with_values(two, {"wait_policy": policy}) for policy in policies]
        one = with_values(two, {"threads": "1"})
        assert list(one_by_one(one, one, [lever])) == []
        assert list(one_by_one(one, two, [lever])) == tried, "the number of threads gives way"
        assert list(one_by_one(tried[0], two, [Lever(field="threads", values=("1",))])) == [one], "the policy gives way"

    def test_nor_is_it_sampled_for_one(self):
        sampled = [Lever(field="wait_policy", values=("passive", "active", "unset")), LEVERS[0]]
        one, tried = with_values(DEFAULT, {"threads": "1"}), set()
        proposals = Proposals(one, sampled, seed=0)
        while case := proposals.next(tried):
            tried.add(case)
        assert len(tried) == len(LEVERS[0].values)
        assert {case.runtime.wait_policy for case in tried} == {one.runtime.wait_policy}

    def test_none_is_proposed_twice_and_at_last_none_at_all(self):
        proposals, tried = Proposals(DEFAULT, LEVERS[:2], seed=0), {DEFAULT}
        while case := proposals.next(tried):
            assert case not in tried
            tried.add(case)
            proposals.tell(case, None if "onednn" in case.id else 1.0)
        assert 1 < len(tried) <= 4

    def test_it_learns(self):
        bench, proposals, tried = FakeBench(), Proposals(DEFAULT, LEVERS, seed=0), {DEFAULT}
        proposals.tell(DEFAULT, 1.0)
        ratios = []
        for _ in range(24):
            case = proposals.next(tried)
            assert case is not None
            tried.add(case)
            ratios.append(bench.seconds_of(case) / bench.seconds_of(DEFAULT))
            proposals.tell(case, ratios[-1])
        assert min(ratios) <= 0.25 * 0.8 * 0.97
