"""Images in a notebook while they are decoded."""

import numpy as np
import pytest
import torch

from randar_hf.pipelines import RandARExtrapolationPipeline, live_preview


@pytest.fixture
def shown(monkeypatch):
    """The previews of a notebook, in turn, as pixels; the first is displayed, the others replace it."""
    previews = []

    class Handle:
        update = staticmethod(lambda sheet: previews.append(np.asarray(sheet)))

    def display(sheet, display_id):
        assert display_id and not previews
        previews.append(np.asarray(sheet))
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    return previews


def test_some_steps_are_shown_and_nothing_changes(pipe, shown):
    settings = {"num_inference_steps": 8, "guidance_scale": 2.0, "output_type": "np"}
    images = pipe([0, 1], generator=torch.Generator().manual_seed(0), **settings).images
    callback = live_preview(every=3)
    again = pipe([0, 1], generator=torch.Generator().manual_seed(0), callback_on_step_end=callback, **settings).images
    assert np.array_equal(images, again)
    assert len(shown) == 4  # steps 0, 3, 6 and the last one
    assert np.array_equal(shown[-1], np.concatenate((255 * images).round().astype(np.uint8), axis=1))
    unknown = [((sheet == 127) | (sheet == 128)).all(axis=2).mean() for sheet in shown]
    assert unknown == sorted(unknown, reverse=True) and unknown[0] > 0.5 and unknown[-1] < 0.01


def test_larger_images_are_shown_in_their_size(pipe, shown):
    larger = RandARExtrapolationPipeline(**pipe.components)
    larger.set_progress_bar_config(disable=True)
    (image,) = larger(0, callback_on_step_end=live_preview(every=100, height=32, width=32), height=32, width=32).images
    assert shown[-1].shape[:2] == (32, 32) == image.size


def test_every_is_checked():
    with pytest.raises(ValueError, match="`every` must be an int of at least 1, got 0"):
        live_preview(every=0)
