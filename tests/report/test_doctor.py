"""The doctor's text."""

from hypothesis import given
from hypothesis import strategies as st

from ntp.measure.environment import Environment, Machine, Process, Software
from ntp.measure.warnings import MeasurementWarning
from ntp.report.doctor import doctor

NOTHING_KNOWN = Environment(machine=Machine(), software=Software(), process=Process())


def test_nothing_wrong_is_said_first():
    assert doctor(NOTHING_KNOWN, ()).startswith("Nothing seen here that would disturb timings.\n")


def test_how_much_timings_vary_is_the_answer():
    text = doctor(NOTHING_KNOWN, (), spread=0.0214)
    assert text.startswith("Step times vary by 2.1% here (one step in twenty, over the median). Nothing seen")


def test_advice_comes_before_the_table():
    environment = NOTHING_KNOWN.model_copy(update={"machine": Machine(cpu_model="Example CPU", smt=False)})
    warning = MeasurementWarning(kind="throttled", message="held back", advice="raise the quota")
    lines = doctor(environment, (warning, warning)).splitlines()
    assert lines[:3] == ["2 things here will disturb timings:", "- throttled: held back", "  > raise the quota"]
    assert any(line.split("  ")[0] == "CPU" and line.endswith("Example CPU") for line in lines)


def test_what_is_not_known_has_no_row():
    assert "governor" not in doctor(NOTHING_KNOWN, ())


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "P")), max_size=60), max_size=40))
def test_lines_fit_the_terminal(words):
    process = Process(variables=tuple((f"OMP_{i}", word) for i, word in enumerate(words)))
    environment = NOTHING_KNOWN.model_copy(update={"process": process})
    assert max(map(len, doctor(environment, ()).splitlines())) <= 100
