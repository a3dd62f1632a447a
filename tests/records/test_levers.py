"""The recipes of levers."""

from typing import get_args

import pytest

from ntp.case import Runtime, StepConfig
from ntp.records.levers import RECIPES, recipes_of


def values_of(group):
    return {(field, value) for field, info in group.model_fields.items() for value in get_args(info.annotation)}


def test_a_recipe_is_of_a_value_that_exists():
    assert RECIPES.keys() <= values_of(StepConfig) | values_of(Runtime)


@pytest.mark.parametrize("group", [StepConfig, Runtime])
def test_what_differs_from_the_defaults_has_a_recipe(group):
    usual = {(field, info.default) for field, info in group.model_fields.items()}
    # The machine tells what these come to: a library's name, CPUs. Nothing need be done for glibc as it comes.
    elsewhere = {"allocator", "affinity"}
    missing = {value for value in values_of(group) - usual - RECIPES.keys() if value[0] not in elsewhere}
    assert missing <= {("wait_policy", "unset")}


def test_the_recipes_of_a_step_are_those_of_its_values():
    step = StepConfig(matmul="onednn", optimizer="fused")
    assert recipes_of(step) == [RECIPES[key] for key in RECIPES if key in set(step.model_dump().items())]
