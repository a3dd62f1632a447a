"""The plain training step in JAX, jitted: ntp's model, weights, batches and AdamW, in a worker of ntp's own kind.

``python evidence/fastest pairs`` runs it as any other worker. It needs JAX: ``pip install -e '.[peers]'``.

Shapes: B batch size, T sequence length.
"""

import os
import sys
import time
from typing import Any

from ntp.case import Case
from ntp.worker.protocol import Loaded
from ntp.worker.worker import CaseHolder, die_with, serve, take_cpus

BETA_1, BETA_2, EPSILON, WEIGHT_DECAY, LEARNING_RATE = 0.9, 0.999, 1e-8, 1e-2, 1e-3
"""torch's defaults for AdamW."""


def make_step() -> Any:
    """Make the jitted step: from parameters, moments, step number and ``(B, T+1)`` ids to new ones and the loss."""
    import jax
    import jax.numpy as jnp

    def loss_of(parameters: dict[str, Any], tokens: Any) -> Any:
        p = parameters
        x = p["embedding.weight"][tokens[:, :-1]]  # (B, T, E)
        x = jax.nn.relu(x @ p["mlp.0.weight"].T + p["mlp.0.bias"])
        x = x @ p["mlp.2.weight"].T + p["mlp.2.bias"]
        log_probabilities = jax.nn.log_softmax(x @ p["output_head.weight"].T)  # (B, T, V)
        return -jnp.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1).mean()

    def step(parameters: Any, first: Any, second: Any, number: Any, tokens: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, tokens)
        first = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, second, gradients)

        def updated(parameter: Any, m: Any, v: Any) -> Any:
            m, v = m / (1 - BETA_1**number), v / (1 - BETA_2**number)
            return parameter * (1 - LEARNING_RATE * WEIGHT_DECAY) - LEARNING_RATE * m / (jnp.sqrt(v) + EPSILON)

        return jax.tree.map(updated, parameters, first, second), first, second, loss

    return jax.jit(step, donate_argnums=(0, 1, 2))


class JaxHolder(CaseHolder):
    def load(self, case: dict[str, Any], cpus: list[int] | None) -> Loaded:
        """Build model and data with torch, hand the weights over, and compile at the first step."""
        take_cpus(cpus)  # before JAX counts them, to size its pool of threads
        import jax
        import jax.numpy as jnp

        wanted = Case.model_validate(case)
        loaded = super().load(case, cpus)
        training = self._training
        parameters = {name: jnp.array(weight.detach().numpy()) for name, weight in training.model.named_parameters()}
        step = make_step()
        state: list[Any] = [parameters, *(jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))]
        number = 0
        self.losses: list[Any] = []

        def run_step() -> int:
            nonlocal number
            start_ns = time.perf_counter_ns()
            number += 1
            *state[:], loss = step(*state, number, next(training.batches).numpy().astype("int32"))
            jax.block_until_ready((state, loss))
            elapsed_ns = time.perf_counter_ns() - start_ns
            self.losses.append(loss)
            return elapsed_ns

        assert wanted.workload.model == "simple"
        self._run_step = run_step
        self._compiles = True  # the steps before the warm-up are those that compile
        return loaded


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(JaxHolder(), sys.stdin, answers)
