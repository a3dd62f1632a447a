"""The options of a sweep, against the fields that they fill."""

import pytest

from ntp.case import GROUPS, Runtime, Workload
from ntp.errors import OptionError
from ntp.pytest_plugin import OPTIONS
from ntp.sweep_options import SweepOptions, help_of


def test_every_field_has_an_option_that_pytest_knows_without_loading_it():
    varied = {"threads", "batch_size", "seq_len", "part"}
    fields = {*Workload.model_fields, *Runtime.model_fields} - varied
    assert set(OPTIONS) == fields | set(SweepOptions.model_fields)
    assert len(set(OPTIONS)) == len(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_help_that_argparse_can_show(option):
    shown = help_of(option)
    assert len(shown["help"] % {}) > 20
    assert ("metavar" in shown) == (option != "no_profile")
    default = next(
        group.model_fields[option].default for group in (SweepOptions, *GROUPS.values()) if option in group.model_fields
    )
    if isinstance(default, str):
        assert shown["help"].endswith(f"Default: {default}")


def test_what_is_given_is_read_and_the_rest_has_its_default():
    options = SweepOptions.of({"threads": "2,1,2", "steps": "eager, onednn", "timeout": "1.5", "model": "simple"})
    assert options.threads == (2, 1)
    assert options.steps == ("eager", "onednn")
    assert options.timeout == 1.5
    assert options == SweepOptions(threads="2,1", steps="eager,onednn", timeout="1.5")
    assert SweepOptions.of({}) == SweepOptions()


def test_a_value_that_is_no_list_is_refused():
    with pytest.raises(OptionError, match=r"seq-lens: expected positive integers.*'8,,'"):
        SweepOptions.of({"seq_lens": "8,,"})
