"""Keywords that other pipelines have are answered with what to write here."""

import functools
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import ParamSpec, TypeVar


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: What to write for words of other pipelines that this one does not take.
ADVICE = {
    "prompt": "give `class_labels`, names or ids of classes",
    "negative_prompt": "guidance leads away from the model without a class; give `guidance_scale`",
    "height": "for another size use RandARExtrapolationPipeline",
    "width": "for another size use RandARExtrapolationPipeline",
    "image": "to start from an image use RandARInpaintPipeline or RandAROutpaintPipeline",
    "mask_image": "to paint a part of an image use RandARInpaintPipeline",
    "strength": "to paint a part of an image use RandARInpaintPipeline",
    "seed": "give `generator=torch.Generator().manual_seed(seed)`",
    "latents": "tokens are sampled from `generator`",
    "eta": "tokens are sampled from `generator`",
}


def explain_keywords(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a pipeline's `__call__` answer an unknown keyword with a `TypeError` that says what to write instead."""
    known = list(inspect.signature(call).parameters)[1:]

    @functools.wraps(call)
    def explained(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        for name in kwargs.keys() - known:
            near = get_close_matches(name, known, n=1)
            advice = ADVICE.get(name) or (f"did you mean `{near[0]}`?" if near else f"it takes {', '.join(known)}")
            raise TypeError(f"`{name}` is no argument of {type(args[0]).__name__}: {advice}.")
        return call(*args, **kwargs)

    return explained


__all__ = ["explain_keywords"]
