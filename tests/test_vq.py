import pytest
import torch

from randar_hf import vq


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (20, 4)])
def test_tokens_are_the_nearest_codes(vqvae, height, width):
    vqvae.quantize.embedding.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    pixels = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = vqvae.encode(pixels).latents.permute(0, 2, 3, 1)  # (2, h, w, C)
    nearest = torch.cdist(latents.flatten(0, 2).double(), vqvae.quantize.embedding.weight.double()).argmin(dim=1)
    assert torch.equal(vq.encode(vqvae, pixels), nearest.view(2, height // 4, width // 4))


@pytest.mark.parametrize("grid", [(4, 4), (2, 8), (16, 1)])
def test_decoding_looks_up_the_codebook(vqvae, grid):
    tokens = torch.arange(16).view(1, *grid)
    latents = vqvae.quantize.embedding(tokens).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = vqvae.decoder(vqvae.post_quant_conv(latents))
    torch.testing.assert_close(vq.decode(vqvae, tokens), expected)


@pytest.mark.parametrize(
    "pixels",
    [
        "an image",
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 16, 16),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(1, 3, 18, 16),
        torch.zeros(1, 3, 0, 16),
    ],
)
def test_what_is_no_image(vqvae, pixels):
    with pytest.raises(ValueError, match="pixels"):
        vq.encode(vqvae, pixels)


@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(1, 4, 4),
        torch.zeros(4, 4, dtype=torch.long),
        torch.full((1, 4, 4), 32),
        torch.full((1, 4, 4), -1),
    ],
)
def test_what_are_no_tokens(vqvae, tokens):
    with pytest.raises(ValueError, match="tokens"):
        vq.decode(vqvae, tokens)


def test_images_in_the_range_of_diffusers_for_any_tokenizer(vqvae):
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = vq.encode_images(vqvae, images)
    assert vq.pixel_range(vqvae) == (-1, 1)
    assert torch.equal(tokens, vq.encode(vqvae, images))
    assert torch.equal(vq.decode_images(vqvae, tokens), vq.decode(vqvae, tokens))

    vqvae.register_to_config(_pixel_range=(0.0, 1.0))
    assert torch.equal(vq.encode_images(vqvae, images), vq.encode(vqvae, (images + 1) / 2))
    levels = (255 * vq.decode(vqvae, tokens).clamp(0, 1)).floor()
    torch.testing.assert_close(vq.decode_images(vqvae, tokens), levels / 127.5 - 1)
    with pytest.raises(ValueError, match="`pixels` must be a floating point tensor"):
        vq.encode_images(vqvae, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
