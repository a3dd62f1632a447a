"""How contestants are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case
from ntp.contestants import contestant
from ntp.errors import OptionError

OPTIONS = {"batch_size": 8, "seq_len": 64, "threads": 2}


@pytest.mark.parametrize(
    ("text", "case_id", "more"),
    [
        ("threads=1", "simple-b8-s64-t1", ("", "", "")),
        ("allocator=jemalloc", "simple-b8-s64-t2-jemalloc", ("", "", "")),
        ("wait-policy=passive, threads=4", "simple-b8-s64-t4-passive", ("", "", "")),
        ("step=deduplicated+fused,commit=HEAD", "simple-b8-s64-t2-deduplicated-fused", ("HEAD", "", "")),
        ("commit=v1.2", "simple-b8-s64-t2", ("v1.2", "", "")),
        ("python=old/bin/python", "simple-b8-s64-t2", ("", "old/bin/python", "")),
        ("torch==2.14.1+cpu,batch_size=2", "simple-b2-s64-t2", ("", "", "2.14.1+cpu")),
        ("step=eager", "simple-b8-s64-t2", ("", "", "")),
    ],
)
def test_a_contestant_has_what_it_names_and_the_options_besides(text, case_id, more):
    one = contestant(text, OPTIONS)
    assert (one.name, one.case.id) == (text, case_id)
    assert one[2:] == more


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a contestant has no settings"),
        (" , ", "a contestant has no settings"),
        ("threads", "'threads' in contestant 'threads' is no setting"),
        ("threads=", "is no setting"),
        ("thread=2", "'thread=2' in contestant 'thread=2' is no setting: write NAME=VALUE"),
        ("part=forward", "is no setting"),
        ("torch=2.9", "is no setting"),
        ("torch==", "is no setting"),
        ("threads=1,threads=2", "has two values of threads: leave out one"),
        ("threads=0", "threads: "),
        ("allocator=none", "allocator: "),
        ("step=slow", "no step is named 'slow'"),
        ("python=a,torch==2.9", "names a python and a torch"),
    ],
)
def test_what_is_no_contestant_is_one_line(text, says):
    with pytest.raises(OptionError, match=r"^[^\n]*$") as refused:
        contestant(text, OPTIONS)
    assert says in str(refused.value)


@given(st.text())
def test_any_text_is_a_contestant_or_refused(text):
    try:
        one = contestant(text, OPTIONS)
    except OptionError:
        return
    assert Case.parse(one.case.id) == one.case
