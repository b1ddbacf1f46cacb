"""Outpainting: pictures grow beyond their edges."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from diffusers import ImagePipelineOutput
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from randar_hf.checks import is_int
from randar_hf.generation import GenerationState
from randar_hf.vq import encode_images

from .base import RandARBasePipeline
from .pictures import Picture, read_images, to_output
from .sizes import check_size


ATTENTIONS = ("full", "sliding_window")


class RandAROutpaintPipeline(RandARBasePipeline):
    """
    Outpainting with RandAR (arXiv 2412.01827, Sec. 3.4.2): pictures are extended to any side.

    Args:
        transformer ([`RandARForCausalLM`]): predicts image tokens in any order.
        vqvae (`diffusers.VQModel`): turns tokens into images and images into tokens.
        id2label (`dict[int, str]`, *optional*): class names, so that labels can be given by name; names separated by
            commas are synonyms.
    """

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | torch.Tensor,
        image: Picture | list[Picture],
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        attention: str = "full",
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        guidance_power: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        order: str | torch.LongTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        spatial_guidance_scale: float = 1.0,
        spatial_dropout: float = 0.25,
        refine: int = 0,
        refine_share: float = 0.1,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
    ) -> ImagePipelineOutput | tuple:
        """
        Extend pictures beyond their edges, given a class.

        The pictures' own pixels come back exactly as they were. Settings that are `None` take the value stored with
        the transformer.

        Args:
            class_labels (`int`, `str`, `list` or `torch.Tensor`): class ids, names, or a mixture, one per result.
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): one picture for all labels, or
                one for each, all of one size, whose sides are multiples of the pixels of a token: PIL of any mode,
                read as RGB; arrays (H, W, 3) or (B, H, W, 3) and tensors (3, H, W) or (B, 3, H, W), floating point in
                [0, 1] or uint8 in 0..255.
            left, right, top, bottom (`int`): pixels to add at each side, multiples of the pixels of a token, not all
                of them 0.
            attention (`str`): `"full"`, all tokens of the canvas in one sequence, whose positions count from the upper
                left corner of the canvas and go beyond the trained ones; or, for comparison, `"sliding_window"`:
                windows of the trained grid in steps of half their size, each of which knows only what lies within.
            num_images_per_prompt (`int`): results for each label, next to one another.
            num_inference_steps (`int`, *optional*): decoding steps, from 1 to the number of tokens, of the canvas or
                of each window; at most as many are taken as there are tokens to paint.
            guidance_scale (`float`, *optional*): classifier-free guidance, at least 0; 1 turns it off.
            guidance_schedule (`str`, *optional*): `"linear"` (from 1 to the scale), `"constant"` or `"power_cosine"`.
            guidance_power (`float`, *optional*): exponent of `"power_cosine"`, at least 0.
            temperature (`float`, *optional*): above 0.
            top_k (`int`, *optional*): only the k likeliest tokens are drawn; 0 for all.
            top_p (`float`, *optional*): only the likeliest tokens of this share are drawn, in (0, 1].
            order (`str` or `torch.LongTensor`, *optional*): name of a decoding order, or a permutation of the raster
                places, of the canvas or of a window: of shape (N,) or one row per image; known places are left out.
            generator (`torch.Generator` or a list with one per image, *optional*): source of all randomness.
            spatial_guidance_scale (`float`): spatial contextual guidance (Sec. F), at least 0; 1 turns it off.
            spatial_dropout (`float`): share of the drawn tokens that its second sequence lacks, in [0, 1).
            refine (`int`): rounds in which the least likely new tokens are drawn again; 0 for none. Only with full
                attention.
            refine_share (`float`): share of the new tokens that a round draws again, in (0, 1].
            output_type (`str`): `"pil"`, `"np"` and `"pt"` in float32, or `"latent"` for tokens (B, N) of the canvas
                in raster order.
            return_dict (`bool`): return an `ImagePipelineOutput` or a plain tuple.
            callback_on_step_end (callable, *optional*): called as `callback(pipe, step, step, {"latents": tokens})`
                after each step of all windows; tokens are those of the canvas, (B, N), -1 where unknown. It returns a
                dict, whose `latents` replace the tokens. Setting `pipe._interrupt = True` stops; cells not decoded by
                then are grey.
            callback_on_step_end_tensor_inputs (`list[str]`): what the callback gets, of `["latents"]`.

        Returns:
            `ImagePipelineOutput` or `tuple`: pictures of the size of the canvas.

        Raises:
            ValueError: for any argument out of its range, before the tokenizer and the model run.
            TypeError: for an image of another type.
        """
        self.check_inputs(
            num_images_per_prompt,
            output_type,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            refine,
            refine_share,
        )
        check_attention(attention, refine)
        class_ids = self.get_label_ids(class_labels)
        images = read_images(image, len(class_ids))  # (3, H, W) each
        canvas = self._check_canvas(images, left, right, top, bottom)
        labels = [class_id for class_id in class_ids for _ in range(num_images_per_prompt)]
        settings = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_schedule": guidance_schedule,
            "guidance_power": guidance_power,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "order": order,
            "generator": generator,
            "spatial_guidance_scale": spatial_guidance_scale,
            "spatial_dropout": spatial_dropout,
        }
        if attention == "full":
            settings["grid_size"] = canvas.grid
            self.transformer.check_memory(
                len(labels), canvas.grid[0] * canvas.grid[1], argument="the size by `left`, `right`, `top`, `bottom`"
            )
            known = canvas.known().flatten().expand(len(labels), -1)  # (B, N)
            self.check_settings(labels, known, settings)
            latents = self._draw(
                labels,
                callback_on_step_end,
                callback_on_step_end_tensor_inputs,
                refine,
                refine_share,
                known_tokens=self._encode(images, canvas, len(labels)).flatten(1),
                known_mask=known,
                **settings,
            )
        else:
            windows = plan_windows(canvas.known(), self.transformer.config.grid)
            decodings = [self._decode_window(labels, window, settings) for window in windows]
            states = slide(windows, decodings, self._encode(images, canvas, len(labels)))
            latents = self._run(states, callback_on_step_end, callback_on_step_end_tensor_inputs)
        output = latents if output_type == "latent" else to_output(self._paint(latents, images, canvas), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=output) if return_dict else (output,)

    def _check_canvas(self, images: list[torch.Tensor], left: int, right: int, top: int, bottom: int) -> "Canvas":
        """The canvas that the extensions give; raises a `ValueError` for sides that are no multiples of a token's."""
        multiple = self.image_processor.config.vae_scale_factor
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            found = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
            raise ValueError(f"`image` must hold images of one size, got {found} pixels (height x width).")
        ((height, width),) = sizes
        if height % multiple or width % multiple:
            near = [max(round(side / multiple), 1) * multiple for side in (height, width)]
            raise ValueError(
                f"`image` must have sides that are multiples of the {multiple} pixels of a token, got {height} x "
                f"{width} pixels (height x width): resize it, for instance to {near[0]} x {near[1]}."
            )
        extensions = {"left": left, "right": right, "top": top, "bottom": bottom}
        for name, pixels in extensions.items():
            if not is_int(pixels) or pixels < 0:
                raise ValueError(f"`{name}` must be a number of pixels of at least 0, got {pixels!r}.")
        if not any(extensions.values()):
            raise ValueError("`left`, `right`, `top` and `bottom` must not all be 0, got no extension.")
        sides = {name: check_size(name, pixels, multiple) if pixels else 0 for name, pixels in extensions.items()}
        return Canvas(rows=height // multiple, columns=width // multiple, **sides)

    def _encode(self, images: list[torch.Tensor], canvas: "Canvas", batch_size: int) -> torch.LongTensor:
        """Tokens (B, h, w) of the canvas, -1 where there is no image."""
        tokens = encode_images(self.vqvae, 2 * torch.stack(images) - 1)  # (one or B', rows, columns)
        extended = torch.nn.functional.pad(tokens, (canvas.left, canvas.right, canvas.top, canvas.bottom), value=-1)
        return extended.repeat_interleave(batch_size // len(images), dim=0)

    def _decode_window(
        self, labels: list[int], window: "Window", settings: dict[str, Any]
    ) -> Iterator[GenerationState]:
        """The states of one window, whose known tokens are filled in when its turn comes."""
        known = window.known.flatten().expand(len(labels), -1)  # (B, M)
        return self.transformer.generation_steps(
            labels,
            known_tokens=torch.zeros_like(known, dtype=torch.long),
            known_mask=known,
            grid_size=tuple(window.known.shape),
            **settings,
        )

    def _paint(self, latents: torch.LongTensor, images: list[torch.Tensor], canvas: "Canvas") -> list[torch.Tensor]:
        """Pictures (3, H, W) of the tokens (B, N), with the images at their place."""
        painted = self.image_processor.denormalize(self.decode_latents(latents, *canvas.grid).float())  # (B, 3, H, W)
        originals = torch.stack(images).repeat_interleave(len(latents) // len(images), dim=0)
        multiple, (height, width) = self.image_processor.config.vae_scale_factor, originals.shape[2:]
        top, left = canvas.top * multiple, canvas.left * multiple
        painted[:, :, top : top + height, left : left + width] = originals.to(painted.device)
        return list(painted)


class Canvas(NamedTuple):
    """A picture of rows and columns and what is added at each side, counted in tokens."""

    rows: int
    columns: int
    left: int
    right: int
    top: int
    bottom: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the whole."""
        return self.top + self.rows + self.bottom, self.left + self.columns + self.right

    def known(self) -> torch.BoolTensor:
        """Where the picture lies, of the shape of the grid."""
        picture = torch.ones(self.rows, self.columns, dtype=torch.bool)
        return torch.nn.functional.pad(picture, (self.left, self.right, self.top, self.bottom))


class Window(NamedTuple):
    """A part of the canvas, and what it knows when its turn comes."""

    rows: slice
    columns: slice
    known: torch.BoolTensor  # (window's rows, window's columns)


def check_attention(attention: str, refine: int):
    """Raise a `ValueError` for an unknown kind, or one that refinement is not made for."""
    if attention not in ATTENTIONS:
        raise ValueError(f"`attention` must be one of {', '.join(ATTENTIONS)}, got {attention!r}.")
    if refine and attention != "full":
        raise ValueError(f"`refine` must be 0 unless `attention` is 'full', got {refine} and {attention!r}.")


def plan_windows(known: torch.BoolTensor, size: tuple[int, int]) -> list[Window]:
    """
    The windows that fill a canvas in turn: always the one that knows most, and of equals the first in the raster.

    Args:
        known (`torch.BoolTensor` of shape (h, w)): known cells of the canvas.
        size (`(int, int)`): rows and columns of a window; of a smaller canvas, its own.

    Returns:
        `list[Window]`: those that have something to fill.
    """
    known, starts = known.clone(), []
    size = tuple(min(pair) for pair in zip(size, known.shape, strict=True))
    for side, length in zip(known.shape, size, strict=True):
        starts.append([*range(0, side - length, max(length // 2, 1)), side - length])
    waiting = [(slice(i, i + size[0]), slice(j, j + size[1])) for i in starts[0] for j in starts[1]]
    windows = []
    while not known.all():
        waiting = [place for place in waiting if not known[place].all()]
        place = max(waiting, key=lambda place: int(known[place].sum()))
        windows.append(Window(*place, known[place].clone()))
        known[place] = True
    return windows


def slide(
    windows: list[Window], decodings: list[Iterator[GenerationState]], tokens: torch.LongTensor
) -> Iterator[GenerationState]:
    """
    The states of all windows, one after another, as those of the canvas.

    Args:
        windows (`list[Window]`): parts of the canvas.
        decodings: the states of each window, none taken yet.
        tokens (`torch.LongTensor` of shape (B, h, w)): what is known of the canvas, -1 elsewhere.

    Returns:
        iterator over [`~randar_hf.generation.GenerationState`] with the tokens (B, h * w) of the canvas.
    """
    firsts = [next(states) for states in decodings]
    num_steps = sum(first.num_steps for first in firsts)
    canvas = tokens.to(firsts[0].tokens.device)
    outer = GenerationState(-1, num_steps, canvas.flatten(1), firsts[0].guidance_scale)
    yield outer
    for window, inner, states in zip(windows, firsts, decodings, strict=True):
        while inner is not None:
            canvas = outer.tokens.unflatten(1, tokens.shape[1:]).clone()  # (B, h, w)
            part = canvas[:, window.rows, window.columns]
            inner.tokens, inner.guidance_scale = part.flatten(1), outer.guidance_scale
            inner = next(states, None)
            if inner is not None:
                part.copy_(inner.tokens.view_as(part))
                outer = GenerationState(outer.step + 1, num_steps, canvas.flatten(1), outer.guidance_scale)
                yield outer
