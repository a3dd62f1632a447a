"""The table of the observers' passes."""

from typing import get_args

import pytest

from ntp.observe.passes import PASSES
from ntp.records.observations import Observations


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_gives_the_record_that_the_observations_have_under_its_name(name):
    assert PASSES[name].record in get_args(Observations.model_fields[name].annotation)
    assert callable(PASSES[name].load())


def test_the_pass_whose_events_leave_holes_in_the_heap_is_the_last():
    assert list(PASSES)[-1] == "operators"
