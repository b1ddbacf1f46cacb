"""What is read of a folder, as which split and class, whatever files and folders are called."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Image
from PIL import Image as PILImage

from randar_hf.training import (
    TokenizerTrainingConfig,
    TokenizingConfig,
    TrainingConfig,
    tokenize_images,
    train,
    train_tokenizer,
)
from randar_hf.training.data.pixels import read_image
from randar_hf.training.data.reading import load_rows, split_names


@pytest.fixture
def folder(tmp_path):
    """`folder(*files)` writes an image at each path below a new folder, or text where a path tells so."""

    def write(*files: str, name: str = "images") -> Path:
        for index, file in enumerate(files):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".csv", ".jsonl", ".parquet", ".zip", ".tar"):
                path.write_text("file_name,text\na/1.png,one\n")
            else:
                PILImage.effect_noise((16, 16), 30 + index).convert("RGB").save(path, "PNG")
        return tmp_path / name

    return write


def read(root, split: str = "train") -> dict:
    """How many images each class has, each image counted once."""
    rows = load_rows(str(root), split, label_column="label").cast_column("image", Image(decode=False))
    paths = [row["image"]["path"] for row in rows]
    assert len(set(paths)) == len(paths)
    names = rows.features["label"].names
    return dict.fromkeys(names, 0) | Counter(names[label] for label in rows["label"])


@pytest.mark.parametrize("word", ["train", "test", "validation", "val", "dev", "eval", "training", "testing", "valid"])
def test_words_of_splits_in_names_of_files_and_classes_mean_nothing(folder, word):
    root = folder(f"{word}_bus/{word}.png", f"{word}_bus/1.png", f"cat/{word}-1.png", f"my {word}/{word}/2.png")
    assert read(root) == {"cat": 1, f"my {word}": 1, f"{word}_bus": 2} and split_names(str(root)) == ["train"]
    below = folder(
        *(f"{split}/{c}/{word}{i}.png" for split in ("train", "test") for c in (word, "x") for i in "12"), name="b"
    )
    assert read(below) == read(below, "test") == {word: 2, "x": 2}


def test_the_class_is_the_first_folder(folder):
    root = folder(
        "a/images/1.png", "a/images/deep/2.png", "b/images/1.png", "b/3.png", ".hidden/1.png", "__MACOSX/1.png"
    )
    (root / "a" / "._1.png").write_bytes(b"left behind")
    (root / "a" / "Thumbs.db").write_bytes(b"left behind")
    (root / "empty").mkdir()
    assert read(root) == {"a": 2, "b": 2, "empty": 0}


def test_signs_of_patterns_are_signs_like_any_other(folder):
    root = folder("[a]/1.png", "*/2[3].png", "{b,c}/?.png", "a/1.png", name="data [1] {x} *")
    assert read(root) == {"*": 1, "[a]": 1, "a": 1, "{b,c}": 1}
    rows = Dataset.from_dict({"x": [1, 2]})
    (root.parent / "rows [a]*").mkdir()
    rows.to_parquet(root.parent / "rows [a]*" / "train [1].parquet")
    assert len(load_rows(str(root.parent / "rows [a]*"), "train")) == 2
    assert len(load_rows(str(root.parent / "rows [a]*" / "train [1].parquet"), "train")) == 2


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    root = folder("a/1.png", "a/2.png")
    (root / "b").symlink_to(folder("1.png", name="elsewhere"))
    (root / "a" / "again").symlink_to(root / "a")
    assert read(root) == {"a": 2, "b": 1}


def test_suffixes_mean_nothing(folder):
    assert read(folder("a/1.png", "a/2", "a/3.HEIC", "a/4.avif", "a/5.backup")) == {"a": 5}


def test_classes_are_numbered_alike_in_all_splits(folder):
    root = folder("train/a/1.png", "train/c/1.png", "validation/b/1.png", "test/c/1.png")
    assert read(root) == {"a": 1, "b": 0, "c": 1} and read(root, "validation") == {"a": 0, "b": 1, "c": 0}
    assert split_names(str(root)) == ["train", "validation", "test"]
    with pytest.raises(ValueError, match="its splits are train, validation, test"):
        read(root, "dev")


def test_slices_of_a_split(folder):
    root = folder(*(f"a/{index}.png" for index in range(10)))
    assert read(root, "train[:30%]") == {"a": 3} and read(root, "train[3:]") == {"a": 7}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/1.png", "bus/1.png"], "'train' would be a split, but 'bus' lies beside it"),
        (["train/a/1.png", "val/a/1.png"], "'train' would be a split, but 'val' lies beside it"),
        (["train/a/1.png", "1.png"], "'train' would be a split, but '1.png' lies beside it"),
        (["training/a/1.png", "testing/a/1.png"], "'testing' may be a split or a class"),
        (["Train/a/1.png"], "'Train' may be a split or a class"),
        (["a/1.png", "1.png"], "1.png' lies beside the folders of classes"),
        (["a/1.png", "rows.parquet"], "it holds .*1.png' beside .*rows.parquet'; move"),
        (["a/1.png", "b/shard.tar"], "it holds .*1.png' beside .*shard.tar'; move"),
        (["a/1.png", "old.zip"], "it holds .*old.zip', which is not read; unpack it"),
        (["rows.parquet", "shard.tar"], "it holds .*rows.parquet' beside .*shard.tar'"),
        (["a/1.png", "metadata.csv"], "metadata.csv' has no column 'label', but file_name, text; add it, or move"),
        (["train-cats.parquet", "dogs.parquet"], "'train-cats.parquet' tells of a split, but 'dogs.parquet' lies"),
    ],
)
def test_what_is_ambiguous_or_lacks_labels_is_refused_in_a_sentence(folder, files, message):
    with pytest.raises(ValueError, match=f"`dataset` must be data that can be loaded, got .*{message}"):
        read(folder(*files))


def test_metadata_names_the_labels(folder):
    root = folder("a/1.png", "2.png")
    (root / "metadata.csv").write_text("file_name,label,text\na/1.png,cat,x\n2.png,dog,y\n")
    assert load_rows(str(root), "train")["label"][:] == ["cat", "dog"]
    (root / "metadata.csv").rename(root / "metadata.csv.old")
    (root / "metadata.jsonl").write_text(json.dumps({"file_name": "a/1.png", "label": "cat"}) + "\n")
    with pytest.raises(ValueError, match="2.png' is not listed in .*metadata.jsonl"):
        load_rows(str(root), "train")


def test_parquet_files_are_of_the_split_they_are_named_after(tmp_path):
    for index, name in enumerate(["train-0", "train-00001-of-00002", "val", "test/0", "b/train/0"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"x": [index]}).to_parquet(tmp_path / f"{name}.parquet")
    found = {split: load_rows(str(tmp_path), split)["x"][:] for split in split_names(str(tmp_path))}
    assert {split: sorted(rows) for split, rows in found.items()} == {
        "train": [0, 1, 4],
        "validation": [2],
        "test": [3],
    }


@pytest.fixture
def text_rows(folder, tmp_path):
    """Parquet files of two splits whose labels are texts, one of which has not all classes."""
    root = folder("cat.png", "dog.png", "emu.png")
    names = ["cat", "dog", "emu"]
    rows = Dataset.from_dict({"image": [str(root / f"{name}.png") for name in names], "label": names})
    (tmp_path / "rows").mkdir()
    rows.to_parquet(tmp_path / "rows" / "train.parquet")
    rows.select([1, 2]).to_parquet(tmp_path / "rows" / "validation.parquet")
    return tmp_path / "rows"


def test_texts_are_numbered_alike_in_all_splits(text_rows, tokenizer_folder, tmp_path):
    for split in ("validation", "train"):
        tokenize_images(
            TokenizingConfig(
                dataset=text_rows, tokenizer=tokenizer_folder, output_dir=tmp_path / "tokens", split=split
            )
        )
    rows = load_rows(str(tmp_path / "tokens"), "validation")
    assert rows.features["label"].names == ["cat", "dog", "emu"] and rows["label"][:] == [1, 2]
    lone = TokenizingConfig(
        dataset=text_rows / "validation.parquet",
        tokenizer=tokenizer_folder,
        output_dir=tmp_path / "tokens",
        split="train",
        overwrite=True,
    )
    message = "`label_column` must number classes as .*validation.parquet' does: class 0 is 'cat' there, got 'dog'"
    with pytest.raises(ValueError, match=message):
        tokenize_images(lone)
    numbers = load_rows(str(text_rows), "train").remove_columns("label").add_column("label", [0, 1, 2])
    numbers.to_parquet(tmp_path / "numbers.parquet")
    tokenize_images(dataclasses.replace(lone, dataset=str(tmp_path / "numbers.parquet")))  # which have no names


def test_training_compares_the_names_of_classes(token_folder, training_settings, tmp_path):
    (tmp_path / "mixed").mkdir()
    for split, names in {"train": ["across", "down"], "validation": ["across", "up"]}.items():
        rows = load_rows(str(token_folder), split).cast_column("label", ClassLabel(names=names))
        rows.to_parquet(tmp_path / "mixed" / f"{split}.parquet")
    (tmp_path / "tokenizer").mkdir()
    settings = training_settings | {"dataset": str(tmp_path / "mixed"), "validation_split": "validation"}
    message = "`label_column` must number classes as the training split does: class 1 is 'down' there, got 'up'"
    with pytest.raises(ValueError, match=message):
        train(TrainingConfig(**settings))
    assert not Path(settings["output_dir"]).exists()


@pytest.fixture
def damaged(folder):
    """Eight images, three of which cannot be read, each in a way of its own."""
    root = folder(*(f"{name}/{index}.png" for name in "ab" for index in range(4)))
    (root / "a" / "1.png").write_bytes(b"")
    (root / "b" / "2.png").write_bytes((root / "b" / "2.png").read_bytes()[:150])
    PILImage.new("1", (14_000, 14_000)).save(root / "b" / "3.png")
    return root


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_a_tokenizer_skips_and_lists_what_cannot_be_read(
    damaged, small_tokenizer_settings, tmp_path, num_workers, caplog
):
    settings = small_tokenizer_settings | {
        "dataset": str(damaged),
        "num_workers": num_workers,
        "validation_split": "train",
    }
    config = TokenizerTrainingConfig(**settings, output_dir=str(tmp_path / "tokenizer"), max_bad_images=3)
    train_tokenizer(config)
    listed = [json.loads(line)["id"] for line in (tmp_path / "tokenizer" / "skipped.jsonl").read_text().splitlines()]
    names = ["a/1.png", "b/2.png", "b/3.png"]
    assert sorted(name.removeprefix(f"{damaged}/") for name in listed) == names
    assert "3 images could not be read; they are listed in" in caplog.text
    with pytest.raises(ValueError, match="^`max_bad_images` must be .*, got 2 and 3 of them, the last one .*png"):
        train_tokenizer(TokenizerTrainingConfig(**settings, output_dir=str(tmp_path / "other"), max_bad_images=2))


def test_a_run_of_bad_images_alone_says_so(folder, small_tokenizer_settings, tmp_path):
    root = folder(*(f"a/{index}.png" for index in range(4)))
    for file in root.rglob("*.png"):
        file.write_text("no image")
    config = TokenizerTrainingConfig(**small_tokenizer_settings, dataset=str(root), output_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="`dataset` must hold an image that can be read, got none"):
        train_tokenizer(config)


def test_a_streamed_repository_names_its_own_files_alone(monkeypatch, tmp_path):
    opened = []

    def keep(address, mode):
        opened.append(address)
        return (tmp_path / "image").open(mode)

    PILImage.new("RGB", (2, 2)).save(tmp_path / "image", "PNG")
    monkeypatch.setattr("fsspec.open", keep)
    own = ["hf://datasets/me/mine@main/1.png", "zip://1.png::hf://datasets/me/mine@main/a.zip"]
    for address in own:
        assert read_image(address, "me/mine").size == (2, 2)
    foreign = ["hf://datasets/me/mine2@main/1.png", "hf://datasets/you/yours/1.png", "https://a.b/1.png"]
    foreign += ["http://a.b/1.png::hf://datasets/me/mine@main/1.png", "file:///etc/hostname"]
    for address in foreign:
        with pytest.raises(ValueError, match="is an address, not a file; it is not read"):
            read_image(address, "me/mine")
    assert opened == own
    monkeypatch.setattr("randar_hf.training.data.pixels.MAX_FILE_BYTES", 10)
    with pytest.raises(ValueError, match="more than 1 GiB"):
        read_image(own[0], "me/mine")


def test_rows_open_files_alone(tokenizer_folder, tmp_path):
    paths = ["http://localhost:9/1.png", "hf://datasets/a/b@main/1.png", "/dev/zero", str(tmp_path)]
    rows = Dataset.from_dict({"image": paths, "label": [0] * len(paths)})
    rows.to_parquet(tmp_path / "rows.parquet")
    settings = {"dataset": tmp_path / "rows.parquet", "tokenizer": tokenizer_folder, "output_dir": tmp_path / "tokens"}
    with pytest.raises(ValueError, match="`dataset` must have images that can be read, got none"):
        tokenize_images(TokenizingConfig(**settings))
    listed = [json.loads(line)["reason"] for line in (tmp_path / "tokens/.train").glob("skipped-*").__next__().open()]
    assert [part for part in ("is an address", "is an address", "no regular file", "no regular file")] == [
        next(part for part in ("is an address", "no regular file") if part in reason) for reason in listed
    ]
