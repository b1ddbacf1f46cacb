"""`randar-hf correspondence`."""

from typing import Annotated, Any

import typer

from randar_hf.outputs import check_output_file

from .images import SHEET_SUFFIXES
from .measuring import JsonOutput, Layers, Rounds, check_json, load_model, read_layers, write_numbers
from .options import Overwrite, PipelineOptions


Folder = Annotated[str, typer.Argument(help="the published folder SPair-71k", show_default=False)]
Matches = Annotated[str | None, typer.Option(help="image to write: matches of the first pairs", show_default=False)]
SHOWN = 8  # pairs on the image of matches


def correspondence(
    folder: Folder,
    options: PipelineOptions,
    split: Annotated[str, typer.Option(help="trn, val or test")] = "test",
    layers: Layers = "-1",
    rounds: Rounds = "1,2",
    alpha: Annotated[float, typer.Option(help="tolerance, as a fraction of the object's longer side")] = 0.1,
    matches: Matches = None,
    output: JsonOutput = "correspondence.json",
    overwrite: Overwrite = False,
):
    """Find key points of one image in another: PCK on SPair-71k, by layer and by how often the sequence is read."""
    target = check_json(output, overwrite)
    sheet = None if matches is None else check_output_file("--matches", matches, SHEET_SUFFIXES, overwrite)
    chosen = read_layers(layers, rounds)
    from diffusers.utils import make_image_grid

    from randar_hf.evaluation.correspondence import draw_matches, measure_correspondence, read_pairs
    from randar_hf.evaluation.model_features import ModelFeatures, image_size

    pairs = read_pairs(folder, split)
    pipe = load_model(options)
    networks = [ModelFeatures(pipe, layer, count, options.seed) for layer, count in chosen]
    results: list[dict] = []
    shown: list[Any] = []
    for (layer, count), network in zip(chosen, networks, strict=True):
        kept: list[Any] = []
        numbers = measure_correspondence(
            pairs, network.maps, image_size(pipe), alpha, lambda *parts, kept=kept: kept.append(parts)
        )
        shown = shown or [draw_matches(*parts) for parts in kept[:SHOWN]]
        results.append({"layer": layer, "rounds": count} | numbers)
        print(
            f"layer {layer}, {count} rounds: PCK per image {numbers['per_image']:.2f}, "
            f"per point {numbers['per_point']:.2f}"
        )
    if sheet is not None:
        size = max(image.width for image in shown), max(image.height for image in shown)
        make_image_grid([image.resize(size) for image in shown], len(shown), 1).save(sheet)
        print(f"wrote {sheet}")
    write_numbers(target, {"results": results, "pairs": len(pairs), "split": split, "alpha": alpha})
