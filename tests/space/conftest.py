"""Apps on small models, started in this process, and clients of them."""

import shutil

import pytest
import torch
from gradio_client import Client
from PIL import Image

from randar_hf import demo_checkpoint
from randar_hf.pipelines import RandARPipeline, RARPipeline
from randar_hf.space import build_app, launch_app


@pytest.fixture
def rar_pipe(make_rar, vqvae):
    """A RAR model without class names."""
    return RARPipeline(transformer=make_rar(), vqvae=vqvae)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folder of what visitors upload and fetch."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shipped():
    """The shipped model."""
    return RandARPipeline.from_pretrained(demo_checkpoint())


@pytest.fixture(scope="module")
def app_pipe(make_model, make_vqvae):
    """The model of the app: 4 x 4 tokens, 16 x 16 pixels and more classes than are judged at a glance."""
    names = {index: f"thing {index}, other name" for index in range(12)}
    return RandARPipeline(transformer=make_model(num_classes=12), vqvae=make_vqvae(), id2label=names)


@pytest.fixture(scope="module")
def app(app_pipe, cache):
    """The app with its own examples."""
    app_pipe.set_progress_bar_config(disable=True)
    app = build_app(app_pipe)
    launch_app(app, prevent_thread_lock=True, quiet=True)
    yield app
    app.close()


@pytest.fixture(scope="module")
def client(app):
    return Client(app.local_url, verbose=False)


@pytest.fixture
def launched(cache):
    """A function that starts an app on a pipeline, with two plain examples; it is closed afterwards."""
    apps = []

    def launch(pipe):
        apps.append(build_app(pipe, examples=[Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]))
        launch_app(apps[-1], prevent_thread_lock=True, quiet=True)
        return apps[-1]

    yield launch
    for app in apps:
        app.close()


@pytest.fixture
def images_of():
    """A function that gives the images of a pipeline's own call with these seeds."""

    def generate(pipe, class_labels, seeds, **settings):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(class_labels, generator=generators, **settings).images

    return generate
