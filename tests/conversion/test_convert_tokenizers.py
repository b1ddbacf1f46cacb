"""Sizes and refusals of the tokenizers, and files that belong to another converter; parity cases show exactness."""

import numpy as np
import pytest
import torch
from diffusers import VQModel

from randar_hf import conversion, vq
from randar_hf.pipelines import RandARPipeline


CONVERTERS = ["convert_llamagen", "convert_llamagen_vq", "convert_maskgit_vq", "convert_randar", "convert_rar"]
CASES = {"convert_llamagen_vq": "llamagen_vq", "convert_maskgit_vq": "maskgit_vq"}


@pytest.mark.parametrize("converter", CASES)
def test_converted_tokenizers_are_saved_and_loaded(published, converter, tmp_path):
    torch.save({"model": published(CASES[converter])}, tmp_path / "vq.pt")
    vqvae = getattr(conversion, converter)(tmp_path / "vq.pt")
    assert not vqvae.training and all(parameter.requires_grad for parameter in vqvae.parameters())
    vqvae.save_pretrained(tmp_path / "vqvae")
    again = VQModel.from_pretrained(tmp_path / "vqvae")
    pixels = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    tokens = vq.encode(vqvae, pixels)
    assert torch.equal(vq.encode(again, pixels), tokens)
    assert torch.equal(vq.decode(again, tokens), vq.decode(vqvae, tokens))
    assert vq.decode(vqvae, tokens).shape == pixels.shape


def test_the_codebook_is_scaled_once_and_the_counter_dropped(published):
    checkpoint = published("llamagen_vq")
    codebook = conversion.convert_llamagen_vq(checkpoint).quantize.embedding.weight
    torch.testing.assert_close(codebook.norm(dim=1), torch.ones(64))
    torch.testing.assert_close(
        codebook * checkpoint["quantize.embedding.weight"].norm(dim=1, keepdim=True),
        checkpoint["quantize.embedding.weight"],
    )
    del checkpoint["quantize.codebook_used"]
    assert torch.equal(conversion.convert_llamagen_vq(checkpoint).quantize.embedding.weight, codebook)


def test_maskgits_range_and_rounding_reach_the_images(published, model, tmp_path):
    tensors = published("maskgit_vq")
    conversion.convert_maskgit_vq(tensors).save_pretrained(tmp_path)
    vqvae = VQModel.from_pretrained(tmp_path)
    assert vq.pixel_range(vqvae) == (0, 1)
    tokens = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(0))
    pipe = RandARPipeline(model, vqvae)
    image = pipe.image_processor.postprocess(pipe.decode_latents(tokens, 4, 4))[0]
    published_way = (255 * vq.decode(vqvae, tokens.view(1, 4, 4)).clamp(0, 1)).to(torch.uint8)[0].permute(1, 2, 0)
    assert np.array_equal(np.asarray(image), published_way.numpy())


def test_one_block_a_level(published):
    checkpoint = {name: tensor for name, tensor in published("maskgit_vq").items() if ".block.1." not in name}
    vqvae = conversion.convert_maskgit_vq(checkpoint)
    assert vqvae.config.layers_per_block == 1
    assert torch.equal(vqvae.encoder.mid_block.resnets[1].conv1.weight, checkpoint["encoder.mid.1.conv1.weight"])


@pytest.mark.parametrize(
    ("converter", "name", "shape", "message"),
    [
        ("convert_llamagen_vq", "encoder.conv_blocks.1.attn.1.q.weight", None, "must hold the tensor"),
        ("convert_llamagen_vq", "quantize.embedding.weight", None, "must hold the tensor"),
        ("convert_llamagen_vq", "encoder.conv_in.weight", None, "must hold the tensor"),
        ("convert_llamagen_vq", "encoder.conv_blocks.0.res.0.conv1.weight", None, "must hold the tensor"),
        ("convert_llamagen_vq", "decoder.conv_blocks.1.attn.0.q.weight", (128, 128, 1, 1), "of its kind alone"),
        ("convert_llamagen_vq", "decoder.mid.1.v.weight", (256, 256), "must have"),
        ("convert_llamagen_vq", "quant_conv.weight", (4, 64, 1, 1), "must have"),
        ("convert_maskgit_vq", "decoder.up.2.upsample_conv.bias", None, "must hold the tensor"),
        ("convert_maskgit_vq", "encoder.down.2.block.0.nin_shortcut.weight", None, "must hold the tensor"),
        ("convert_maskgit_vq", "encoder.conv_in.bias", (32,), "of its kind alone"),
        ("convert_maskgit_vq", "decoder.up.0.block.2.conv1.weight", (32, 32, 3, 3), "of its kind alone"),
        ("convert_maskgit_vq", "encoder.down.2.block.0.nin_shortcut.weight", (64, 32, 1, 1), "must have"),
        ("convert_maskgit_vq", "encoder.down.1.block.0.conv1.weight", (40, 32, 3, 3), "multiple of 32"),
        ("convert_maskgit_vq", "encoder.conv_out.weight", (64, 64, 3, 3), "must have"),
        ("convert_maskgit_vq", "quantize.embedding.weight", (64, 32), "must have"),
        ("convert_maskgit_vq", "quantize.embedding.weight", (64,), "must have"),
    ],
)
def test_other_tensors_are_refused_by_name(published, converter, name, shape, message):
    checkpoint = published(CASES[converter])
    checkpoint.pop(name, None)
    if shape is not None:
        checkpoint[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"`checkpoint`.*{message}") as caught:
        getattr(conversion, converter)(checkpoint)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("case", ["randar", "llamagen", "rar", "llamagen_vq", "maskgit_vq"])
@pytest.mark.parametrize("converter", CONVERTERS)
def test_files_of_another_converter_are_refused(published, case, converter):
    if converter == f"convert_{case}":
        return
    with pytest.raises(ValueError, match=f"`checkpoint` must be what `{converter}` reads.*`convert_{case}` reads it"):
        getattr(conversion, converter)(published(case))


@pytest.mark.parametrize("converter", CONVERTERS)
def test_foreign_state_dicts_are_refused(converter):
    with pytest.raises(ValueError, match="`checkpoint` must hold the tensor"):
        getattr(conversion, converter)(torch.nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match="`checkpoint` must hold the tensor"):
        getattr(conversion, converter)({})
