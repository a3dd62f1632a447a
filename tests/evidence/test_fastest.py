"""The report on the fastest steps: its arithmetic by hand, what is recorded and when, and that it is made again."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "evidence/fastest"))

import findings  # noqa: E402
import races  # noqa: E402
import racing  # noqa: E402
import searching  # noqa: E402
from comparisons import COMPARISONS, COMPILED, LEVERS, SPACES  # noqa: E402

from ntp.case import Case  # noqa: E402
from ntp.errors import WorkerFailed  # noqa: E402
from ntp.judge.tuning import with_values  # noqa: E402
from ntp.records.guard import Pair  # noqa: E402
from ntp.records.tuning import Lever, Race, Tuning  # noqa: E402

WHEN = {"started": "2026-01-02T03:04:05+00:00", "wall_time_s": 60.0, "command": ("python", "evidence/fastest")}


@pytest.fixture
def machine(make_measurement):
    return make_measurement().environment.machine


def a_pair(base_ms, head_ms, case_id="simple-b32-s128-t2"):
    """Two turns a side, all alike."""
    blocks = [
        {"side": side, "step_time_ns": [round(ms * 1e6)]}
        for _ in range(2)
        for side, ms in (("base", base_ms), ("head", head_ms))
    ]
    return Pair.model_validate({"case_id": case_id, "seed": 0, "blocks": blocks})


def a_side(**fields):
    return races.Side(**{"peak_rss_bytes": 2**20, "minor_page_faults_per_step": 1.0, **fields})


def a_recording(machine, *raced):
    return races.Recording(**WHEN, commit="0123456789abcdef", machine=machine, races=raced)


def raced(name, times, *, comparison=None, head=None, **fields):
    comparison = comparison or COMPARISONS[name]
    sides = {"base": a_side(peak_tensor_bytes=2**22, flops=10**9), "head": head or a_side(peak_tensor_bytes=2**20)}
    return races.Raced(
        name=name,
        base=comparison.base.id,
        head=comparison.head.id,
        peer=comparison.peer,
        pairs=tuple(a_pair(*each) for each in times),
        sides=(sides,) * len(times),
        **fields,
    )


def recorded(pairs=None, compiling=None, searches=None, peaks=None):
    return races.Recorded(pairs, compiling, searches or {}, peaks)


def rows_of(text, first):
    """The cells of the rows that start so."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:1] == "|" and first in line
    ]


class TestTheReport:
    def test_the_ratio_is_the_bases_time_over_the_heads(self, machine):
        pairs = a_recording(machine, raced("exact", [(100, 25), (100, 25)]), raced("bf16", [(100, 20), (120, 20)]))
        page = findings.markdown(recorded(pairs))
        assert rows_of(page, "the best exact fp32 step against the plain loop")[0][3:] == [
            "4.00 (4.00 to 4.00)",
            "10",
            "2",
        ]
        assert "**The fastest exact step is 4.00 (4.00 to 4.00) times as fast as the plain loop; with bf16" in page
        bf16 = rows_of(page, "the best step with bf16 products")[0][3]
        value, low, high = map(float, re.findall(r"[\d.]+", bf16))
        assert low < 5 < value < 6 < high

    def test_what_failed_says_why(self, machine):
        failed = raced("jax", [], failure="base: ModuleNotFoundError: No module named 'jax'")
        page = findings.markdown(recorded(a_recording(machine, failed)))
        assert "ModuleNotFoundError" in rows_of(page, "JAX's jitted step")[0][3]

    def test_nothing_recorded(self):
        page = findings.markdown(recorded())
        assert page.startswith("# How fast a training step can be\n\n**Not recorded.**")
        assert findings.files(recorded()).keys() == {"README.md"}

    def test_the_share_of_the_peak(self, machine, make_peaks):
        peaks = make_peaks(2)
        peak = peaks.at(2).peak_flops_per_s("fp32")
        head = a_side(flops=round(peak * 0.010))  # ten milliseconds at the peak
        pairs = a_recording(machine, raced("exact", [(100, 20)], head=head))
        row = rows_of(findings._limits(recorded(pairs, peaks=peaks)), "onednn")[0]
        assert row[4:] == ["50%", "10.0"]

    @pytest.mark.parametrize(("times", "pays"), [((100, 50), "17 steps"), ((50, 100), "never")])
    def test_what_compiling_costs_and_when_it_pays(self, machine, times, pays):
        comparison = COMPILED[0]
        compiled = a_side(compiling_step_ns=(900_000_000, round(times[1] * 1e6), round(times[1] * 1e6)))
        race = raced(comparison.what, [times, times], comparison=comparison, head=compiled)
        row = rows_of(findings._compiling(a_recording(machine, race, race)), comparison.what)[0]
        # 900 ms less a step of its own: 850 ms, at a gain of 50 ms a step.
        assert row[1] == ("850 ms" if times[1] == 50 else "800 ms")
        assert row[3] == pays

    def test_the_search_beside_all_cases(self, machine):
        page = findings.markdown(recorded(searches={"simple": a_search(machine)}))
        assert "3 cases could be measured, with 6 pairs; the fastest is `simple-b8-s64-t2-deduplicated`" in page
        assert "The search used 2 pairs (33%) and found `simple-b8-s64-t2-fused`, number 2 of them" in page
        assert "it takes +10.0% of its time (+10.0% to +10.0%)" in page
        assert rows_of(page, "`simple-b8-s64-t2-deduplicated`")[0][1] == "2.00x"


def a_race(case, default):
    """Two pairs, in which the case takes 8 ms and the default 10."""
    pairs = (a_pair(10, 8, case.id), a_pair(10, 8, case.id))
    return Race(purpose="search", case_id=case.id, against=default.id, outcome="raced", pairs=pairs)


def a_search(machine):
    default = SPACES["simple"]

    def all_pairs(step, ms):
        head = with_values(default, step)
        return races.Raced(name="", base=default.id, head=head.id, pairs=(a_pair(10, ms), a_pair(10, ms)))

    found = with_values(default, {"optimizer": "fused"})
    race = a_race(found, default)
    return races.Searched(
        **WHEN,
        commit="0123456789abcdef",
        machine=machine,
        default=default.id,
        levers=(),
        cases=(
            all_pairs({"loss": "deduplicated"}, 5),
            all_pairs({"optimizer": "fused"}, 8),
            all_pairs({"optimizer": "foreach"}, 11),
        ),
        tuning=Tuning(**WHEN, default=default.id, levers=(), budget_s=1, seed=0, races=(race,)),
        final=races.Raced(name="", base="", head="", pairs=(a_pair(10, 11), a_pair(10, 11))),
    )


class TestRecording:
    def test_comparisons_take_turns_and_each_pair_is_kept_at_once(self, tmp_path, monkeypatch):
        path, seen = tmp_path / "pairs.json.gz", []

        def race(raced, comparison, seed):
            before = races.read(path, races.Recording)
            seen.append((raced.name, seed, 0 if before is None else sum(len(each.pairs) for each in before.races)))
            if raced.name == "jax":
                return raced.model_copy(update={"failure": "no jax"})
            return raced.model_copy(update={"pairs": (*raced.pairs, a_pair(2, 1, comparison.head.id))})

        monkeypatch.setattr(racing, "_race", race)
        racing.record_pairs(path, ["exact", "jax", "bf16"], 2, 7, lambda _: None)
        # The one that failed is not tried again.
        assert seen == [("exact", 7, 0), ("jax", 7, 1), ("bf16", 7, 1), ("exact", 8, 2), ("bf16", 8, 3)]
        kept = races.read(path, races.Recording)
        assert [(each.name, len(each.pairs), each.failure) for each in kept.races] == [
            ("exact", 2, ""),
            ("jax", 0, "no jax"),
            ("bf16", 2, ""),
        ]

    def test_the_space_holds_all_that_can_be_combined_and_nothing_else(self):
        levers = (
            Lever(field="loss", values=("full", "chunked")),
            Lever(field="precision", values=("fp32", "bf16")),
            Lever(field="matmul", values=("default", "onednn")),
        )
        ids = {case.id.removeprefix("simple-b8-s64-t2") for case in searching.space(SPACES["simple"], levers)}
        assert ids == {"-onednn", "-bf16", "-chunked", "-onednn-chunked"}

    def test_a_search_goes_through_all_and_then_stops_at_its_share(self, tmp_path, monkeypatch):
        monkeypatch.setattr(searching, "machine_levers", lambda **_: LEVERS_OF_TWO)
        monkeypatch.setattr(searching, "_pair", fake_pair)
        monkeypatch.setattr(searching, "WorkerStarter", NoWorkers)
        monkeypatch.setattr(searching, "tune", fake_tune)
        path = tmp_path / "search-simple.json.gz"
        searching.record_search(path, "simple", 5, 3, 0, lambda _: None)
        kept = races.read(path, races.Searched)
        counts = {each.head.removeprefix("simple-b8-s64-t2"): len(each.pairs) for each in kept.cases}
        assert counts == {"-fused": 5, "-foreach": 5, "-onednn": 0, "-onednn-fused": 0, "-onednn-foreach": 0}
        assert all(each.failure == "no oneDNN" for each in kept.cases if "onednn" in each.head)
        assert kept.best == "simple-b8-s64-t2-fused"
        assert len(kept.tuning.races) == 1  # two pairs, a fifth of ten
        assert kept.final is None  # it found the best of all
        monkeypatch.setattr(searching, "_pair", None)
        searching.record_search(path, "simple", 5, 3, 0, lambda _: None)  # the cases are kept, the search is made anew
        assert races.read(path, races.Searched).cases == kept.cases


LEVERS_OF_TWO = (
    Lever(field="optimizer", values=("default", "foreach", "fused")),
    Lever(field="matmul", values=("default", "onednn")),
    Lever(field="wait_policy", values=("passive", "active")),  # none of those that are varied
)


def fake_pair(_start, raced, _seed, _steps_s):
    if "onednn" in raced.head:
        raise WorkerFailed("no oneDNN", "")
    return a_pair(10, 8 if "fused" in raced.head else 9, raced.head)


class NoWorkers:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def fake_tune(default, levers, **_options):
    assert [lever.field for lever in levers] == ["optimizer", "matmul"]
    best = with_values(default, {"optimizer": "fused"})
    race = a_race(best, default)
    tuning = Tuning(**WHEN, default=default.id, levers=tuple(levers), budget_s=1, seed=0)
    for number in range(1, 10):
        yield tuning.model_copy(update={"races": (race,) * number})


def test_a_side_is_observed_in_its_first_pair_alone_and_never_a_peer(monkeypatch):
    observed = []

    class FakeRacer:
        def __init__(self, case, **_options):
            self.case = case

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def used(self, observe):
            observed.append((self.case.step.loss, observe))
            return a_side()

    monkeypatch.setattr(racing, "Racer", FakeRacer)
    monkeypatch.setattr(racing, "measure_pair", lambda case_id, *_rest: a_pair(2, 1, case_id))
    race = races.Raced(name="jax", base=COMPARISONS["jax"].base.id, head=COMPARISONS["jax"].head.id, peer="jax")
    for _ in range(2):
        race = racing._race(race, COMPARISONS["jax"], 0)
    assert observed == [("full", False), ("deduplicated", True), ("full", False), ("deduplicated", False)]


@pytest.mark.parametrize("comparison", [*COMPARISONS.values(), *COMPILED], ids=lambda each: each.what)
def test_both_sides_train_on_one_workload(comparison):
    """But for the growth, whose point is that they do not."""
    alike = comparison.base.workload == comparison.head.workload
    assert alike or comparison is COMPARISONS["growth"]


def test_the_jax_peer_has_the_losses_of_the_golden_run():
    pytest.importorskip("jax")
    sys.path.insert(0, str(ROOT / "evidence/peers"))
    import jax_step

    holder = jax_step.JaxHolder()
    holder.load(Case().model_dump(), None)
    holder.run(20)
    assert [f"{float(holder.losses[step - 1]):.4f}" for step in (10, 20)] == ["6.9229", "6.9222"]


def test_the_levers_are_those_of_the_search():
    from ntp.runners.levers import levers

    assert set(LEVERS) <= {lever.field for lever in levers(2, ["glibc-tuned", "glibc"], exact=False)}


def words(svg):
    return re.findall(r">([^<>]+)<", svg)


def test_the_committed_report():
    kept = races.load()
    made = findings.files(kept)
    assert kept.pairs is not None
    for name, text in made.items():
        committed = (races.FOLDER / name).read_text()
        assert (words(committed) == words(text)) if name.endswith(".svg") else (committed == text), name


def test_the_recorded_command_is_what_was_typed(monkeypatch):
    monkeypatch.setattr(races, "sys", SimpleNamespace(argv=["evidence/fastest", "pairs", "6"]))
    assert races.recording_command() == ("python", "evidence/fastest", "pairs", "6")
