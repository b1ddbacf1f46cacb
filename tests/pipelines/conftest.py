"""The pipeline of a small RAR model."""

import pytest

from randar_hf.pipelines import RARPipeline


@pytest.fixture
def rar(make_rar):
    return make_rar()


@pytest.fixture
def rar_pipe(rar, vqvae, class_names):
    pipe = RARPipeline(transformer=rar, vqvae=vqvae, id2label=class_names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(params=["pipe", "rar_pipe"])
def any_pipe(request):
    return request.getfixturevalue(request.param)
