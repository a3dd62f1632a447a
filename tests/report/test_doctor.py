"""The doctor's text."""

from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.disturbance import Spreads
from ntp.judge.warnings import MeasurementWarning
from ntp.records.environment import Environment, Machine, Process, Software
from ntp.report.doctor import doctor

NOTHING_KNOWN = Environment(machine=Machine(), software=Software(), process=Process())


SHARED = MeasurementWarning(kind="virtual-machine", message="CPUs are shared", advice="believe ratios")


def first_lines(*arguments, **options):
    """What comes before the advice and the table, as one line."""
    return " ".join(doctor(NOTHING_KNOWN, *arguments, **options).split("\n\n")[0].split())


def test_nothing_wrong_is_said_first():
    assert first_lines(()) == "Nothing was seen that disturbs timings."
    assert first_lines((), spreads=Spreads(0.0214, 0.03)) == (
        "Step times vary by about 2.1% here. Nothing was seen that disturbs timings."
    )


def test_how_much_timings_vary_and_why_is_the_answer():
    assert first_lines((SHARED,)) == "The likeliest cause: CPUs are shared."
    assert first_lines((SHARED,), spreads=Spreads(0.02, 0.02)) == (
        "Step times vary by about 2.0% here. The likeliest cause: CPUs are shared."
    )
    louder = first_lines((SHARED,), spreads=Spreads(0.02, 0.09))
    assert "The loudest cause is a runtime left at its defaults: step times then vary by 9.0%." in louder
    assert louder.endswith("What is left: CPUs are shared.")
    assert "2.0% slower than the typical one; 9.0% at the defaults" in doctor(
        NOTHING_KNOWN, (), spreads=Spreads(0.02, 0.09)
    )


def test_advice_comes_before_the_table():
    environment = NOTHING_KNOWN.model_copy(update={"machine": Machine(cpu_model="Example CPU", smt=False)})
    warning = MeasurementWarning(kind="throttled", message="held back", advice="raise the quota")
    lines = doctor(environment, (warning, warning)).splitlines()
    assert lines[2:5] == ["2 things to know, and what to do:", "- throttled: held back", "  > raise the quota"]
    assert any(line.split("  ")[0] == "CPU" and line.endswith("Example CPU") for line in lines)


def test_what_is_not_known_has_no_row():
    assert "governor" not in doctor(NOTHING_KNOWN, ())


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "P")), max_size=60), max_size=40))
def test_lines_fit_the_terminal(words):
    process = Process(variables=tuple((f"OMP_{i}", word) for i, word in enumerate(words)))
    environment = NOTHING_KNOWN.model_copy(update={"process": process})
    assert max(map(len, doctor(environment, ()).splitlines())) <= 100
