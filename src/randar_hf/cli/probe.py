"""`randar-hf probe`."""

from typing import Annotated

import typer

from .measuring import (
    Data,
    DataOptions,
    JsonOutput,
    Layers,
    Rounds,
    WorkDir,
    check_json,
    load_model,
    read_layers,
    work_folder,
    write_numbers,
)
from .options import Overwrite, PipelineOptions


Validation = Annotated[str, typer.Option(help="folder or data set that the head is judged on", show_default=False)]


def probe(
    images: Data,
    validation: Validation,
    options: PipelineOptions,
    data: DataOptions,
    validation_split: Annotated[str, typer.Option(help="split of --validation")] = "validation",
    layers: Layers = "-1",
    rounds: Rounds = "1,2",
    epochs: Annotated[int, typer.Option(help="of the head's training")] = 90,
    warmup_epochs: Annotated[int, typer.Option(help="in which the learning rate grows")] = 10,
    train_batch_size: Annotated[int, typer.Option(help="images of a training step")] = 16_384,
    learning_rate: Annotated[float, typer.Option(help="for a batch of 256")] = 0.1,
    crops: Annotated[int, typer.Option(help="random crops of each training image; 0 for its centred square")] = 0,
    batch_size: Annotated[int, typer.Option(help="images whose features are computed at once")] = 32,
    output: JsonOutput = "probe.json",
    overwrite: Overwrite = False,
    work_dir: WorkDir = None,
):
    """Train a linear head on features of a layer, the sequence read once and twice: top-1 and top-5 accuracy."""
    target = check_json(output, overwrite)
    work = work_folder(work_dir, target)
    chosen = read_layers(layers, rounds)
    from randar_hf.evaluation.feature_store import FeatureStore
    from randar_hf.evaluation.images import open_images
    from randar_hf.evaluation.model_features import ModelFeatures, image_size
    from randar_hf.evaluation.probe import ProbeRecipe, check_labels, probe_accuracy, train_probe
    from randar_hf.evaluation.random_crops import random_crops

    recipe = ProbeRecipe(epochs, warmup_epochs, train_batch_size, learning_rate, options.seed, crops)
    pipe = load_model(options)
    networks = [ModelFeatures(pipe, layer, count, options.seed) for layer, count in chosen]
    columns = data.given()
    sets = [
        open_images("data", images, image_size(pipe), **columns),
        open_images("validation", validation, image_size(pipe), **columns | {"split": validation_split}),
    ]
    num_classes = int(check_labels(sets[0]).max()) + 1
    labels = [check_labels(part, num_classes) for part in sets]
    about = [{"source": part.name, "sha256": part.sha256, "images": part.count} for part in sets]
    if crops:
        sets[0] = random_crops(sets[0], image_size(pipe), crops, options.seed)
    results = []
    for (layer, count), network in zip(chosen, networks, strict=True):
        stores = [FeatureStore(work, part, network) for part in sets]
        for store in stores:
            store.fill(batch_size)
        arrays = [store.array("pool") for store in stores]
        head = train_probe(arrays[0], labels[0], num_classes, recipe, options.device)
        numbers = probe_accuracy(head, arrays[1], labels[1], options.device)
        results.append({"layer": layer, "rounds": count} | numbers)
        print(f"layer {layer}, {count} rounds: top-1 {numbers['top_1']:.4f}, top-5 {numbers['top_5']:.4f}")
    write_numbers(target, {"results": results, "recipe": vars(recipe), "data": about[0], "validation": about[1]})
