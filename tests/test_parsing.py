"""How the text of options is read, and that the command line and pytest refuse the same in the same words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.cli.app import main
from ntp.errors import OptionError
from ntp.parsing import integers, names, seconds, share, size_bytes
from ntp.sweep_options import SweepOptions

WORDS = st.from_regex(r"[^\s,][^,]*[^\s,]|[^\s,]", fullmatch=True)
SPACES = st.sampled_from(["", " ", "  "])


@given(st.lists(WORDS, min_size=1), SPACES)
def test_names_come_in_order_without_repeats(words, space):
    assert names(f"{space},{space}".join(words)) == tuple(dict.fromkeys(words))


@given(st.lists(st.integers(1, 10**18 - 1), min_size=1), SPACES)
def test_integers_come_in_order_without_repeats(numbers, space):
    assert integers(f"{space},{space}".join(map(str, numbers))) == tuple(dict.fromkeys(numbers))


@pytest.mark.parametrize(
    ("read", "unit", "scale", "high"),
    [
        *[(seconds, unit, scale, 604_800) for unit, scale in (("", 1), ("s", 1), ("m", 60), ("min", 60), ("h", 3600))],
        *[(size_bytes, f"{prefix}{ending}", 2 ** (10 * power), 2**63) for power, prefix in enumerate(["", *"KMGT"])
          for ending in ("", "B", "iB")],
        *[(share, unit, scale, 1) for unit, scale in (("", 1), ("%", 0.01))],
    ],
)  # fmt: skip
@given(number=st.decimals(0, 10**6, places=3).map(lambda number: f"{number:f}"), space=SPACES)
def test_a_number_and_a_unit_are_their_product_within_the_bounds(read, unit, scale, high, number, space):
    value = float(number) * scale
    if (1 if read is size_bytes else 1e-9) <= value < high:
        assert read(f"{number}{space}{unit}") == pytest.approx(value, abs=1)
        assert read is size_bytes or read(f"{number}{space}{unit}") == pytest.approx(value)
    elif value == 0 or value > high:
        with pytest.raises(ValueError, match="expected"):
            read(f"{number}{space}{unit}")


@pytest.mark.parametrize("read", [names, integers, seconds, size_bytes, share])
@given(text=st.text() | st.from_regex(r"[0-9.,]{0,500}[a-zA-Z%]*", fullmatch=True))
def test_any_other_text_is_refused_with_what_was_expected(read, text):
    try:
        assert read(text)
    except ValueError as error:
        with pytest.raises(ValueError, match="expected "):
            raise error from None


DOORS = {
    ("--budget", "timeout"): ["", "0", "-1s", "soon", "nan", "1e9", "20000min"],
    ("--allow", "steps"): ["", ",", "a,,b", "a,", " , "],
}


@pytest.mark.parametrize(
    ("option", "field", "text"), [(*names, text) for names, texts in DOORS.items() for text in texts]
)
def test_the_command_line_and_pytest_refuse_the_same_in_the_same_words(monkeypatch, capsys, option, field, text):
    monkeypatch.setattr("ntp.runners.guard.guard", lambda *_, **__: pytest.fail("it measures"))
    assert main(["guard", "--base", "HEAD", option, text]) == 2
    err = capsys.readouterr().err
    said = re.fullmatch(rf"ntp: error: Invalid value for '{option}': (.*); see ntp --help\n", err)
    with pytest.raises(OptionError) as refused:
        SweepOptions.of({field: text})
    assert f"{field}: {said[1]}" == str(refused.value)


@pytest.mark.parametrize(("text", "value_s"), [("5min", 300), ("300s", 300), ("300", 300), ("0.5h", 1800)])
def test_pytest_takes_durations_with_units(text, value_s):
    assert SweepOptions.of({"sample_time": text}).sample_time == value_s
