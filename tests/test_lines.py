"""Whatever a model, a path or a worker says becomes short lines that can be printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.errors import NtpError
from ntp.lines import (
    LINE_CHARACTERS,
    MESSAGE_CHARACTERS,
    TAIL_LINES,
    in_encoding,
    last_lines,
    one_line,
    printable,
    shorten,
)

any_text = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is, \xe9\xb1", "as it is, \xe9\xb1"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("out\udcff", r"out\udcff"),
        ("\ud800 alone", r"\ud800 alone"),
        (" two\n lines\t", "two lines"),
    ],
)
def test_what_cannot_be_printed_is_shown_escaped(text, shown):
    assert one_line(text) == shown


@given(any_text)
def test_any_text_becomes_one_line_that_any_terminal_can_have(text):
    line = one_line(text)
    assert line.isprintable()
    assert line.encode().decode() == line
    assert one_line(line) == line


@given(any_text)
def test_printable_text_stays_as_it_is(text):
    assert (printable(text) == text) == text.isprintable()


@given(st.text(max_size=50), st.integers(0, 40))
def test_shortening_keeps_both_ends(name, width):
    short = shorten(name, width)
    assert len(short) == min(len(name), width)
    if len(name) > width > 5:
        assert name.startswith(short.split("...")[0])
        assert short[-1] == name[-1]


@given(st.lists(st.binary(max_size=20) | st.just(b"x" * 10_000), max_size=30))
def test_of_what_a_process_wrote_a_few_printable_lines_are_kept(lines):
    kept = last_lines(b"\n".join(lines).decode(errors="backslashreplace")).split("\n")
    assert len(kept) <= TAIL_LINES
    assert all(line.isprintable() and len(line) <= LINE_CHARACTERS for line in kept)


def test_a_message_keeps_what_was_wrong_and_what_to_do():
    message = str(NtpError(f"the model says {'no ' * 10**6}: build it with vocab_size"))
    assert len(message) == MESSAGE_CHARACTERS
    assert message.startswith("the model says no")
    assert message.endswith("no : build it with vocab_size")


def test_an_ascii_stream_has_the_same_columns():
    line = "case  123 µs  ±1.2%  9"
    plain = in_encoding(line, "ascii")
    assert plain == "case  123 us +-1.2%  9"
    assert len(plain) == len(line)
    assert in_encoding(line, "utf-8") == in_encoding(line, None) == line
    assert in_encoding("é", "ascii") == r"\xe9"
