"""How products are computed: settings are restored, and machines without support are refused."""

import os

import pytest
import torch

from ntp.case import ONEDNN_ISA, StepConfig
from ntp.core import products
from ntp.core.products import FORCE_BF16, medium_precision, products_of, rounds_products
from ntp.errors import StepError


@pytest.fixture
def machine(monkeypatch):
    """``machine(bf16=..., rounds=...)`` sets whether the CPU has bf16, and oneDNN rounds fp32 products to it."""
    monkeypatch.delenv(FORCE_BF16, raising=False)

    def set_up(*, bf16: bool, rounds: bool) -> None:
        monkeypatch.setattr(products, "onednn_says", lambda _: bf16)
        monkeypatch.setattr(products, "rounds_products", lambda: rounds)

    return set_up


def test_the_setting_is_put_back_even_if_the_step_fails():
    before = torch.get_float32_matmul_precision()
    inside = []

    def fails():
        with medium_precision():
            inside.append(torch.get_float32_matmul_precision())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert inside == ["medium"]
    assert torch.get_float32_matmul_precision() == before


def test_plain_products_are_left_alone(machine):
    machine(bf16=False, rounds=False)
    with products_of(StepConfig())():
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("config", "rounds"),
    [(StepConfig(matmul="onednn"), False), (StepConfig(precision="bf16-matmul"), True)],
)
def test_what_the_machine_can_do_is_permitted(machine, config, rounds):
    machine(bf16=True, rounds=rounds)
    with products_of(config)():
        assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(
    ("config", "bf16", "rounds", "message"),
    [
        (StepConfig(precision="bf16"), False, False, "has no bf16 arithmetic; set NTP_FORCE_BF16=1"),
        (StepConfig(precision="bf16-matmul"), False, False, "has no bf16 arithmetic"),
        (StepConfig(precision="bf16-matmul"), True, False, "computes fp32 products in fp32; use matmul onednn"),
        (StepConfig(matmul="onednn"), False, False, "sends no fp32 product to oneDNN; use matmul default"),
        (StepConfig(matmul="onednn"), True, True, "rounds fp32 products to bf16 here; set ONEDNN_MAX_CPU_ISA="),
    ],
)
def test_what_it_cannot_do_is_refused(machine, config, bf16, rounds, message):
    machine(bf16=bf16, rounds=rounds)
    with pytest.raises(StepError, match=message):
        products_of(config)


@pytest.mark.parametrize("config", [StepConfig(precision="bf16"), StepConfig(precision="bf16-matmul")])
def test_bf16_can_be_forced(machine, monkeypatch, config):
    machine(bf16=False, rounds=False)
    monkeypatch.setenv(FORCE_BF16, "1")
    products_of(config)


@pytest.mark.parametrize("before", [None, "AVX2"])
def test_onednn_is_kept_from_rounding_unless_the_user_has_chosen(machine, monkeypatch, before):
    machine(bf16=True, rounds=False)
    name, value = ONEDNN_ISA
    monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv(name, before)
    values = []
    monkeypatch.setattr(products, "rounds_products", lambda: values.append(os.environ[name]))
    products_of(StepConfig(matmul="onednn"))
    assert values == [before or value]
    assert os.environ.get(name) == before


def test_rounding_is_seen(monkeypatch):
    def rounded(self, other):
        if self.dtype == torch.float64:
            return torch.mm(self, other)
        return torch.mm(self.bfloat16(), other.bfloat16()).float()

    assert rounds_products() in {True, False}  # as this CPU has it
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert rounds_products()
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch.mm(a.double(), b.double()).to(a.dtype))
    assert not rounds_products()
