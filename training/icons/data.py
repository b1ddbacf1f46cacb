"""Icons of 48 objects in two styles as a parquet data set, from an unpacked `@iconify/json`.

```sh
npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz
python -m randar_hf.training.icons.data --source package --output-dir runs/icons/images
```

Permissive licences alone; ten whole families of sets are held out. It needs the extra `icons`.
"""

import json
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate.utils import tqdm
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import HfArgumentParser

from randar_hf.files import write_text

from ..validation import check_fields, check_positive
from .drawing import contact_sheet, draw, place, style_of
from .names import HELD_OUT_FAMILIES, OBJECTS, class_names, family_of, is_taken, read_name


VERSION = "2.2.535"
IMAGE_SIZE = 32
SCALES, SHIFTS, HELD_OUT_SCALE = (0.85, 1.0), (-1, 0, 1), 0.93
DUPLICATE_DIFFERENCE = 0.01  # mean difference of grey, of 1, up to which two icons are one
SHEET_COLUMNS = 24


@dataclass(kw_only=True)
class IconDataConfig:
    """Settings of `write_icons`."""

    source: str = field(metadata={"help": "folder of an unpacked @iconify/json"})
    output_dir: str = field(
        metadata={"help": "new folder for the parquet files, and the card; the contact sheet lies beside it"}
    )
    renderings: int = field(default=4, metadata={"help": "images of each training icon, with scales and shifts"})
    seed: int = field(default=0, metadata={"help": "seed of scales, shifts and the order of the rows"})

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "renderings")


@dataclass
class Icon:
    """One icon: its set, name, class, split and ink."""

    prefix: str
    name: str
    label: str
    split: str
    ink: Image.Image


def check_package(source: Path) -> None:
    """Raise a `FileNotFoundError` for a folder that is no unpacked @iconify/json."""
    if not (source / "collections.json").is_file():
        raise FileNotFoundError(
            f"`source` must be the folder of an unpacked @iconify/json, got {str(source)!r}, which has no "
            f"collections.json; `npm pack @iconify/json@{VERSION}` and `tar xzf` make a folder `package`"
        )


def read_package(source: Path) -> tuple[list[Icon], dict]:
    """Draw all icons of OBJECTS but those whose name contradicts how they look.

    Args:
        source: folder of an unpacked `@iconify/json`.

    Returns:
        The icons, and the entries of `collections.json` of the sets that were read, by prefix.

    Raises:
        FileNotFoundError: the folder holds no `collections.json`.
    """
    check_package(source)
    collections = json.loads((source / "collections.json").read_text())
    collections = {prefix: entry for prefix, entry in collections.items() if is_taken(prefix, entry)}
    icons = []
    for prefix in tqdm(collections, desc="sets"):
        icons += _read_set(prefix, json.loads((source / "json" / f"{prefix}.json").read_text()))
    return icons, collections


def _read_set(prefix: str, content: dict) -> list[Icon]:
    family = family_of(prefix)
    split = "validation" if family in HELD_OUT_FAMILIES else "train"
    view = {"left": 0, "top": 0, "width": 16, "height": 16}
    view |= {key: content[key] for key in view if key in content}
    icons = []
    for name, entry in content["icons"].items():
        told = read_name(name)
        if told is None or entry.get("hidden"):
            continue
        ink = draw({**view, **entry})
        if ink is None:
            continue
        style = style_of(ink)
        if told.style in (None, style):
            label = told.object if style == "solid" else f"{told.object} {style}"
            icons.append(Icon(prefix, name, label, split, ink))
    return icons


def drop_duplicates(icons: list[Icon]) -> list[Icon]:
    """The icons without those that look like an earlier one of their object; training icons come first."""
    kept: list[Icon] = []
    seen: dict[str, list[np.ndarray]] = {kind: [] for kind in OBJECTS}
    for icon in sorted(icons, key=lambda icon: icon.split):
        pixels = np.asarray(place(icon.ink, IMAGE_SIZE).convert("L"), dtype=np.float32) / 255  # (32, 32)
        others = seen[icon.label.split()[0]]
        if others and np.abs(np.stack(others) - pixels).mean((1, 2)).min() <= DUPLICATE_DIFFERENCE:
            continue
        others.append(pixels)
        kept.append(icon)
    return kept


def render(icon: Icon, number: int, seed: int) -> Image.Image:
    """The image `number` of an icon: the first one as it is, others of a sampled scale and shift."""
    if number == 0:
        return place(icon.ink, IMAGE_SIZE, HELD_OUT_SCALE)
    chance = random.Random(f"{seed} {icon.prefix} {icon.name} {number}")
    return place(icon.ink, IMAGE_SIZE, chance.uniform(*SCALES), (chance.choice(SHIFTS), chance.choice(SHIFTS)))


def write_icons(config: IconDataConfig) -> Path:
    """Write `train.parquet`, `validation.parquet`, the data card and a contact sheet.

    The columns are `image`, 32 x 32, `label`, one of `class_names`, and `icon`, `set:name`. Held-out icons are drawn
    once.

    Returns:
        The output folder.

    Raises:
        FileNotFoundError: the source is not there.
        ValueError: the output folder is not empty.
    """
    folder = Path(config.output_dir).expanduser()
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"`output_dir` must be a new or empty folder, got {str(folder)!r}")
    icons, collections = read_package(Path(config.source).expanduser())
    icons = drop_duplicates(icons)
    partial = folder.with_name(f".{folder.name}.partial")  # a folder of that name is a whole one
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    names = class_names()
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names), "icon": Value("string")})
    for split in ("train", "validation"):
        rows = [(icon, number) for icon in icons if icon.split == split
                for number in range(config.renderings if split == "train" else 1)]  # fmt: skip
        random.Random(config.seed).shuffle(rows)
        columns = {
            "image": [render(icon, number, config.seed) for icon, number in rows],
            "label": [names.index(icon.label) for icon, _ in rows],
            "icon": [f"{icon.prefix}:{icon.name}" for icon, _ in rows],
        }
        Dataset.from_dict(columns, features=features).to_parquet(partial / f"{split}.parquet")
    by_label = {name: [render(icon, 0, 0) for icon in icons if icon.label == name] for name in names}
    contact_sheet(by_label, SHEET_COLUMNS).save(folder.with_name(f"{folder.name}-sheet.png"))
    write_text(partial / "README.md", data_card(icons, collections))
    partial.replace(folder)
    return folder


def data_card(icons: list[Icon], collections: dict) -> str:
    """The data card: what the rows are, and the sets with authors, licences and numbers of icons."""
    counts = {
        split: Counter(icon.prefix for icon in icons if icon.split == split) for split in ("train", "validation")
    }
    lines = [
        f"# Icons of {len(OBJECTS)} objects in two styles",
        "",
        f"Drawn from `@iconify/json` {VERSION}, light on dark, {IMAGE_SIZE} x {IMAGE_SIZE} pixels, cut to their ink. "
        "`heart` is solid, `heart outline` is drawn in lines; the style is told from the image. "
        f"{sum(counts['train'].values())} icons to train on, {sum(counts['validation'].values())} of other families "
        "held out, near copies dropped. Names of companies and their logos are no classes.",
        "",
        "| set | author | licence | train | held out |",
        "| --- | --- | --- | --- | --- |",
    ]
    for prefix, entry in collections.items():
        train, held_out = (counts[split][prefix] for split in counts)
        if train or held_out:
            author, license = entry["author"]["name"], entry["license"]
            lines.append(f"| {entry['name']} (`{prefix}`) | {author} | {license['spdx']} | {train} | {held_out} |")
    lines += ["", "| class | train | held out |", "| --- | --- | --- |"]
    by_class = Counter((icon.label, icon.split) for icon in icons)
    lines += [f"| {name} | {by_class[name, 'train']} | {by_class[name, 'validation']} |" for name in class_names()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the data set from the command line."""
    (config,) = HfArgumentParser(IconDataConfig).parse_args_into_dataclasses()
    print(write_icons(config))


if __name__ == "__main__":
    main()
