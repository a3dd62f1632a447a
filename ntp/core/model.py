"""The model: the built-in one, or the user's.

Shapes: B batch size, T sequence length, V vocabulary size, E embedding size, H hidden size.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ntp.case import Workload
from ntp.core.language_model import LanguageModel, model_errors, understood
from ntp.errors import ModelError

BUILT_IN = {"simple": "ntp.core.model:SimpleNextTokenModel"}
"""Short names for specs. They are loaded like any other spec."""

FACTORY_SIZES = ("vocab_size", "embed_dim", "hidden_dim", "seq_len")
"""The parameters that a factory may have."""


class SimpleNextTokenModel(nn.Module):
    """Predicts each next token from the current one alone: embedding, a two-layer MLP, a linear output head.

    ``(B, T)`` int64 ids -> ``(B, T, V)`` logits. The names of the submodules, the order in which they are built and
    their default initialisation determine the loss curve of a seed: changing any of them changes the numbers.
    """

    def __init__(self, vocab_size: int = 1000, embed_dim: int = 256, hidden_dim: int = 1024) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.mlp = nn.Sequential(nn.Linear(embed_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, embed_dim))
        self.output_head = nn.Linear(embed_dim, vocab_size, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)  # (B, T, E)
        x = self.mlp(x)  # (B, T, E) -> (B, T, H) -> (B, T, E)
        logits: Tensor = self.output_head(x)  # (B, T, V)
        return logits


def parameter_count(model: nn.Module) -> int:
    """Count the trainable numbers of a model; shared parameters count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_model(workload: Workload) -> LanguageModel:
    """Build and check the model that ``workload.model`` names.

    The factory receives those of ``vocab_size, embed_dim, hidden_dim, seq_len`` that it has as parameters; ``**kwargs``
    alone receives none. A forward pass on ``(2, T)`` ids then checks the contract, without changing the training mode
    or the random number generator.

    Raises:
        ModelError: the spec is not found or not callable, the user's code failed, or the model breaks the contract.
    """
    spec = BUILT_IN.get(workload.model, workload.model)
    where, _, name = spec.rpartition(":")
    directory = Path(where).resolve().parent if where.endswith(".py") else Path.cwd()
    with _importable(directory), _gradients_left_alone(workload.model):
        return understood(_build(_find_factory(spec, where, name), workload), workload)


@contextmanager
def _gradients_left_alone(model: str) -> Iterator[None]:
    """Refuse a model whose code switches gradients off globally: torch reports it much later, without the culprit."""
    before = torch.is_grad_enabled()
    yield
    if torch.is_grad_enabled() != before:
        torch.set_grad_enabled(before)
        raise ModelError(
            f"model {model!r}: its code calls torch.set_grad_enabled({not before}) for the whole process: "
            "use torch.no_grad() around what needs no gradient"
        )


def see_folder(entry: str) -> None:
    """Make the modules in a folder importable: after the standard library, before installed packages.

    At the front of the path, a user's ``statistics.py`` would hide the library's module.
    """
    if entry not in sys.path:
        installed = (
            place for place, folder in enumerate(sys.path) if folder.endswith(("site-packages", "dist-packages"))
        )
        sys.path.insert(next(installed, len(sys.path)), entry)


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Make the modules in a folder importable inside the block, as ``python script.py`` does."""
    entry = str(directory)
    if entry in sys.path:
        yield
        return
    see_folder(entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _find_factory(spec: str, where: str, name: str) -> Callable[..., object]:
    module = _import_file(Path(where), spec) if where.endswith(".py") else _import_module(where, spec)
    try:
        factory = getattr(module, name)
    except AttributeError:
        shadowed = where.partition(".")[0] in {*sys.stdlib_module_names, "ntp"}
        remedy = f"that name is taken by another module, name the file: {where}.py:{name}" if shadowed else (
            "name a factory that it defines"
        )  # fmt: skip
        raise ModelError(f"model {spec!r} not found: {where} has no {name!r}; {remedy}") from None
    if not callable(factory):
        raise ModelError(
            f"model {spec!r} is not callable, it is a {type(factory).__name__}: "
            "name a function or class that builds the model"
        )
    return factory  # type: ignore[no-any-return]


def _import_module(name: str, spec: str) -> ModuleType:
    with model_errors(f"model {spec!r}: importing {name} failed"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
                raise  # the module exists, but something that it imports does not
            raise ModelError(
                f"model {spec!r} not found: no module {exc.name!r} here or installed; "
                "write 'simple', 'package.module:factory' or 'path/to/file.py:factory'"
            ) from None


def _import_file(path: Path, spec: str) -> ModuleType:
    if not os.path.isfile(path):  # false for a path that is too long
        raise ModelError(f"model {spec!r} not found: there is no file {str(path)!r} in {os.getcwd()}; check the path")
    file_spec = importlib.util.spec_from_file_location(f"ntp_model_file_{path.stem}", path.resolve())
    assert file_spec is not None
    assert file_spec.loader is not None
    module = importlib.util.module_from_spec(file_spec)
    sys.modules[file_spec.name] = module  # dataclasses and pickle look their module up there
    with model_errors(f"model {spec!r}: importing {path} failed"):
        file_spec.loader.exec_module(module)
    return module


def _build(factory: Callable[..., object], workload: Workload) -> nn.Module:
    with model_errors(f"model {workload.model!r}: the factory failed"):
        parameters = inspect.signature(factory).parameters.values()
        named = {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
        model = factory(**{size: getattr(workload, size) for size in FACTORY_SIZES if size in named})
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {workload.model!r}: the factory returned {type(model).__name__}, not a torch.nn.Module"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"model {workload.model!r} has nothing to train: no parameter requires a gradient")
    return model
