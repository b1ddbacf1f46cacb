"""The files that authors published, by name: what no tensor tells, and what the authors measured."""

import os
from dataclasses import dataclass
from pathlib import Path

from randar_hf.cards import Origin


RANDAR = {
    "repository": "ziqipang/RandAR",
    "source": "https://github.com/ziqipang/RandAR",
    "license": "mit",
    "limits": "They were measured before the authors mended their sampler in July 2025; until then it left the last "
    "token of every image undecoded. They have not been measured again.",
}
LLAMAGEN = {
    "repository": "FoundationVision/LlamaGen",
    "source": "https://github.com/FoundationVision/LlamaGen",
    "license": "mit",
    "limits": "Several people who measured these files again report higher FIDs (issues 48, 53 and 86 of the authors' "
    "repository).",
}
RAR = {
    "repository": "yucornetto/RAR",
    "source": "https://github.com/bytedance/1d-tokenizer",
    "license": "apache-2.0",
    "limits": "They hold for the settings of the authors' sampler; the exponent of guidance and the temperature among "
    "them are stored as this model's defaults. A third party who trained RAR anew reports an FID that is higher by "
    "0.7 (issue 50 of the authors' repository). The authors' README says that the weights are for research only.",
}


@dataclass(frozen=True)
class PublishedFile:
    """
    A published checkpoint.

    Attributes:
        origin ([`Origin`]): for its model card.
        grid_size (`int` or `None`): tokens per side of the grid it was trained on, where no shape tells it.
        num_parameters (`int`): its size, by which a file that only has the name is told.
    """

    origin: Origin
    grid_size: int | None
    num_parameters: int


def find_published(checkpoint: object) -> PublishedFile | None:
    """The published checkpoint with the name of a file, or `None`; a state dict has no name."""
    return PUBLISHED_FILES.get(Path(checkpoint).name) if isinstance(checkpoint, str | os.PathLike) else None


def _file(num_parameters: int, grid_size: int | None, **origin) -> PublishedFile:
    return PublishedFile(Origin(dataset="imagenet-1k", **origin), grid_size, num_parameters)


def _randar(
    name: str, num_parameters: int, guidance_scale: float, fid: float, inception_score: float
) -> PublishedFile:
    figures = {"guidance_scale": guidance_scale, "fid": fid, "inception_score": inception_score}
    return _file(num_parameters, 16, name=name, **figures, **RANDAR)


def _llamagen(size: str, side: int, num_parameters: int, guidance_scale: float, fid: float) -> PublishedFile:
    name = f"LlamaGen-{size} for images of {side} pixels"
    return _file(num_parameters, side // 16, name=name, guidance_scale=guidance_scale, fid=fid, **LLAMAGEN)


def _rar(size: str, num_parameters: int, guidance_scale: float, fid: float) -> PublishedFile:
    return _file(num_parameters, None, name=f"RAR-{size}", guidance_scale=guidance_scale, fid=fid, **RAR)


PUBLISHED_FILES = {
    "randar_0.3b_llamagen_360k_bs_1024_lr_0.0004.safetensors": _randar("RandAR-L", 342_912_000, 3.4, 2.65, 249),
    "randar_0.3b_maskgit_360k_bs_1024_lr_0.0004.safetensors": _randar(
        "RandAR-L, MaskGIT", 311_454_720, 4.0, 2.47, 271
    ),
    "randar_0.7b_llamagen_360k_bs_1024_lr_0.0004.safetensors": _randar("RandAR-XL", 774_700_800, 4.0, 2.27, 275),
    "c2i_B_256.pt": _llamagen("B", 256, 110_888_448, 2.0, 5.46),
    "c2i_B_384.pt": _llamagen("B", 384, 110_888_448, 2.0, 6.09),
    "c2i_L_256.pt": _llamagen("L", 256, 342_910_976, 2.0, 3.80),
    "c2i_L_384.pt": _llamagen("L", 384, 342_910_976, 2.0, 3.07),
    "c2i_XL_384.pt": _llamagen("XL", 384, 774_699_520, 1.75, 2.62),
    "c2i_XXL_384.pt": _llamagen("XXL", 384, 1_410_972_672, 1.75, 2.34),
    "c2i_3B_384.pt": _llamagen("3B", 384, 3_096_659_200, 1.65, 2.18),
    "rar_b.bin": _rar("B", 260_923_648, 16.0, 1.95),
    "rar_l.bin": _rar("L", 461_668_352, 15.5, 1.70),
    "rar_xl.bin": _rar("XL", 955_425_024, 6.9, 1.50),
    "rar_xxl.bin": _rar("XXL", 1_498_520_704, 8.0, 1.48),
}
