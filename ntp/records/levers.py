"""The levers: the fields of a step and a runtime that a search varies, and how to have the effect of each elsewhere."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from ntp.case import ONEDNN_ISA, Options

ORDER = ("loss", "matmul", "precision", "threads", "wait_policy", "optimizer", "allocator", "affinity", "huge_pages")
"""The levers in the order in which they are tried: those that change what the others are worth come first."""

COMPILE = "compile"
"""The lever that is tried last: a candidate costs a minute."""

Place = Literal["setup", "optimizer", "decorator", "loss", "context", "update"]
"""Where a line stands in a training script: ahead of all, as a further argument of the optimizer, above the function
that computes the loss, in it, around its call, or in place of the optimizer's step."""


class Recipe(NamedTuple):
    """What has the effect of a lever's value in a training script of one's own."""

    lines: Mapping[Place, str] = MappingProxyType({})
    variables: Mapping[str, str] = MappingProxyType({})
    """The environment before the interpreter starts. ntp's workers are started with those of a runtime, too."""


_GIB = 2**30
_MIB = 2**20
_MEDIUM = 'torch.set_float32_matmul_precision("medium")  # sends fp32 products to oneDNN'

RECIPES: dict[tuple[str, str], Recipe] = {
    ("wait_policy", "passive"): Recipe(
        variables={"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    ),
    ("wait_policy", "active"): Recipe(variables={"OMP_WAIT_POLICY": "ACTIVE"}),
    # Above glibc's thresholds a block is mapped and unmapped at every step, and each of its pages is faulted in and
    # zeroed again. With them raised, large tensors live in the heap, and a page is faulted in once.
    ("allocator", "glibc-tuned"): Recipe(
        variables={
            "MALLOC_MMAP_THRESHOLD_": str(64 * _GIB),
            "MALLOC_TRIM_THRESHOLD_": str(64 * _GIB),
            "MALLOC_TOP_PAD_": str(64 * _MIB),
        }
    ),
    ("huge_pages", "thp"): Recipe(variables={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    ("denormals", "flushed"): Recipe({"setup": "torch.set_flush_denormal(True)"}),
    ("matmul", "onednn"): Recipe({"setup": _MEDIUM}, dict([ONEDNN_ISA])),
    ("precision", "bf16-matmul"): Recipe({"setup": _MEDIUM}),
    ("precision", "bf16"): Recipe({"context": 'with torch.autocast("cpu", torch.bfloat16):'}),
    ("optimizer", "foreach"): Recipe({"optimizer": "foreach=True"}),
    ("optimizer", "fused"): Recipe({"optimizer": "fused=True"}),
    ("compile", "model"): Recipe({"decorator": "@torch.compile"}),
    ("compile", "step"): Recipe({"decorator": "@torch.compile", "update": "torch.compile(optimizer.step)()"}),
    ("loss", "full"): Recipe({"loss": "return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())"}),
    ("loss", "chunked"): Recipe(
        {
            "loss": """\
hidden = body(inputs)  # the model without its output head
options = nn.LinearCrossEntropyOptions()
return F.linear_cross_entropy(hidden.flatten(0, 1), head.weight, targets.flatten(), options=options)"""
        }
    ),
    ("loss", "deduplicated"): Recipe(
        {
            "loss": """\
ids, rows = inputs.unique(return_inverse=True)
log_probabilities = model(ids[:, None]).squeeze(1).float().log_softmax(-1)
return -log_probabilities[rows.flatten(), targets.flatten()].mean()"""
        }
    ),
}
"""The recipes of all values that need one, by field and value. Threads, CPUs and preloaded allocators are numbers and
files of the machine, and not here."""


def recipes_of(options: Options) -> list[Recipe]:
    """The recipes of a step or a runtime."""
    return [recipe for (field, value), recipe in RECIPES.items() if getattr(options, field, None) == value]
