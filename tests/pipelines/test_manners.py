"""What a new user types: components and arguments of the wrong kind are answered with what to write."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import randar_hf
from randar_hf.pipelines import (
    RandARExtrapolationPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
    RandARPipeline,
)


def test_components_of_the_wrong_kind(model, vqvae):
    for wrong in (None, model, "tokenizer"):
        with pytest.raises(ValueError, match="`vqvae` must be a diffusers.VQModel, the image tokenizer, got"):
            RandARPipeline(model, wrong)
    with pytest.raises(ValueError, match=r"`id2label` must map class ids to names, got list: `dict\(enumerate"):
        RandARPipeline(model, vqvae, ["a", "b"])
    for wrong in ({"a": 0}, {0: 1}, "names"):
        with pytest.raises(ValueError, match="`id2label` must map class ids to names, got"):
            RandARPipeline(model, vqvae, wrong)


def test_names_of_the_model_serve_a_pipeline_that_got_none(model, vqvae, class_names, tmp_path):
    assert RandARPipeline(model, vqvae).id2label == {}
    model.config.id2label = class_names
    pipe = RandARPipeline(model, vqvae)
    assert pipe.id2label == class_names and pipe.get_label_ids(["tench", "sea snake"]) == [0, 4]
    assert RandARPipeline(model, vqvae, {0: "fish"}).id2label == {0: "fish"}
    pipe.save_pretrained(tmp_path)
    assert RandARPipeline.from_pretrained(tmp_path).get_label_ids("sea snake") == [4]


def test_a_transformer_compiled_by_the_function_is_refused_with_what_compiles(make_model, vqvae):
    model = make_model(num_hidden_layers=1)
    pipe, compiled = RandARPipeline(model, vqvae), torch.compile(model, backend="eager")
    for assign in (lambda: setattr(pipe, "transformer", compiled), lambda: RandARPipeline(compiled, vqvae)):
        with pytest.raises(ValueError, match=r"`transformer` must not be what `torch.compile\(model\)` returns"):
            assign()
    graphs = []
    pipe.transformer.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    pipe(0, num_inference_steps=1)
    assert graphs


@pytest.mark.parametrize("seed", [0, 17])
def test_a_seed_for_a_generator(model, vqvae, seed):
    with pytest.raises(TypeError, match=rf"for a seed give `torch.Generator\(\).manual_seed\({seed}\)`"):
        RandARPipeline(model, vqvae)(0, generator=seed)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_for_an_image(model, vqvae, kind):
    pipe, mask = RandARInpaintPipeline(model, vqvae), torch.ones(16, 16)
    with pytest.raises(TypeError, match=r"`image` must be an image, got the path 'file.png': give `PIL.Image.open\("):
        pipe(0, kind("file.png"), mask)


@pytest.mark.parametrize(
    ("keywords", "advice"),
    [
        ({"prompt": "a fish"}, "`prompt` is no argument of RandARPipeline: give `class_labels`, names or ids"),
        ({"class_labels": 0, "negative_prompt": "blurry"}, "`negative_prompt` .* give `guidance_scale`"),
        ({"class_labels": 0, "height": 64}, "`height` .* use RandARExtrapolationPipeline"),
        ({"class_labels": 0, "seed": 3}, r"`seed` .* give `generator=torch.Generator\(\).manual_seed"),
        ({"class_labels": 0, "guidance": 3}, r"did you mean `guidance_scale`\?"),
        ({"class_labels": 0, "xyz": 3}, "it takes class_labels, num_images_per_prompt, "),
    ],
)
def test_words_of_other_pipelines(model, vqvae, keywords, advice):
    with pytest.raises(TypeError, match=advice):
        RandARPipeline(model, vqvae)(**keywords)


def test_every_pipeline_explains_its_keywords():
    for name in randar_hf.PIPELINES:
        kind = getattr(randar_hf.pipelines, name)
        with pytest.raises(TypeError, match=f"`prompt` is no argument of {name}: "):
            kind.__call__(kind.__new__(kind), prompt="a fish")


def test_pipelines_by_the_name_of_the_package():
    for name in randar_hf.PIPELINES:
        assert getattr(randar_hf, name) is getattr(randar_hf.pipelines, name)


@pytest.mark.parametrize("count", [10**9, 10**15])
def test_counts_are_checked_before_lists_are_made(model, vqvae, count, monkeypatch):
    monkeypatch.setattr("randar_hf.pipelines.base.repeat_each", lambda *args: pytest.fail("a list was made"))
    for kind, images in ((RandARPipeline, ()), (RandARInpaintPipeline, (torch.ones(3, 16, 16), torch.ones(16, 16)))):
        pattern = f"a batch of {count} images by `num_images_per_prompt` gives 16 tokens .* GiB are free"
        with pytest.raises(ValueError, match=pattern):
            kind(model, vqvae)(0, *images, num_images_per_prompt=count)


@pytest.mark.parametrize(
    "large", [Image.new("1", (9000, 8000)), torch.zeros(1, dtype=torch.uint8).expand(3, 8000, 9000)]
)
def test_images_too_large_to_be_floats_are_refused(model, vqvae, large):
    pattern = "`{}` must have at most 67108864 pixels, got 9000 x 8000: scale it down"
    pipe, mask, small = RandARInpaintPipeline(model, vqvae), torch.zeros(1).expand(8000, 9000), torch.ones(3, 16, 16)
    with pytest.raises(ValueError, match=pattern.format("image")):
        pipe(0, large, mask)
    with pytest.raises(ValueError, match=pattern.format("mask_image")):
        pipe(0, small, mask)
    for attention in ("full", "sliding_window"):
        with pytest.raises(ValueError, match="canvas of at most 67108864 pixels, got 16 x 40000000016"):
            RandAROutpaintPipeline(model, vqvae)(0, small, right=4 * 10**10, attention=attention)


def test_long_work_is_announced_before_it_begins(model, vqvae, monkeypatch, capsys):
    class Begun(Exception):
        pass

    def begin(*args, **kwargs):
        raise Begun

    monkeypatch.setattr(type(vqvae), "encode", begin)
    monkeypatch.setattr(type(model), "decode", begin)
    outpaint = RandAROutpaintPipeline(model, vqvae)
    larger = RandARExtrapolationPipeline(model, vqvae)
    image = Image.new("RGB", (256, 256))
    for call, told in (
        (
            lambda: outpaint([0, 1], image, right=4, num_inference_steps=8),
            "2 x 64 tokens to decode in 8 steps, after 4,096",
        ),
        (lambda: larger(0, height=272, width=272, hierarchical=False), "1 x 4,624 tokens to decode in "),
        (lambda: outpaint(0, image.crop((0, 0, 16, 16)), right=4), ""),
    ):
        for is_quiet in (False, True):
            for pipe in (outpaint, larger):
                pipe.set_progress_bar_config(disable=is_quiet)
            with pytest.raises(Begun):
                call()
            error = capsys.readouterr().err
            assert (told in error and "time left" in error) if told and not is_quiet else not error


@pytest.mark.parametrize("build", ["make_model", "make_rar"])
def test_a_mistyped_keyword_of_a_model(build, request):
    model, tokens = request.getfixturevalue(build)(), torch.zeros(1, 16, dtype=torch.long)
    for part in (model, model.base_model):
        with pytest.raises(TypeError, match="unexpected keyword argument 'class_label'"):
            part(tokens, class_label=torch.zeros(1, dtype=torch.long))
        outputs = part(tokens, output_hidden_states=True, output_attentions=None, inputs_embeds=None)
        assert len(outputs.hidden_states) == 3


def test_a_pipeline_of_the_components_of_another(model, vqvae, class_names):
    pipe = RandARPipeline(model, vqvae, class_names)
    for kind in (RandARPipeline, RandARInpaintPipeline):
        assert kind(**pipe.components).id2label == class_names
        assert kind.from_pipe(pipe).id2label == class_names
