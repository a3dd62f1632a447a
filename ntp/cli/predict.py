"""``ntp predict``: what a trained model makes of a prompt."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ntp.case import MAX_NUMBER
from ntp.cli.console import write
from ntp.cli.options import JsonOption


def predict(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="Directory written by ntp train --checkpoint.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Spec of your own model. Its code is run, which a checkpoint alone may not ask for.",
            show_default="simple",
        ),
    ] = None,
    prompt_ids: Annotated[str | None, typer.Option(metavar="IDS", help="Prompt as token ids, as in 1,2,3.")] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Prompt as text, for a model trained on bytes.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Number of tokens to predict.")] = 16,
    temperature: Annotated[
        float,
        typer.Option(metavar="X", help="0 takes the most probable token; 1 samples from the model's distribution."),
    ] = 0.0,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", help="Sample from the K most probable tokens only.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_NUMBER, metavar="N", help="Random seed for sampling.")] = 42,
    as_json: JsonOption = False,
) -> None:
    """Predict the tokens that follow a prompt, with a model that ntp train saved.

    Prints only the new tokens: as ids, or as text if the prompt was text.

    For example:

      ntp predict --checkpoint runs/first --prompt-ids 1,2,3

      ntp predict --checkpoint runs/book --prompt "Call me " --temperature 0.8

      ntp predict --checkpoint runs/gpt2 --model examples/gpt2.py:tiny --prompt-ids 1
    """
    from ntp.core.predict import as_text, generate, load_trained, parse_prompt

    ids = parse_prompt(prompt, prompt_ids)
    trained, workload = load_trained(checkpoint, model)
    new_ids = list(generate(trained, workload, ids, max_new_tokens, temperature, top_k, seed))
    text = None if prompt is None else as_text(new_ids)
    if as_json:
        write(json.dumps({"prompt_ids": ids, "new_ids": new_ids, "text": text}))
    else:
        write(",".join(map(str, new_ids)) if text is None else text)
