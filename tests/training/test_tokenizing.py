"""Images to rows of tokens."""

import io
import json
import pickle
import shutil
import tarfile

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from diffusers import VQModel
from filelock import FileLock
from PIL import Image as PILImage

from randar_hf import vq
from randar_hf.training import TokenizingConfig, tokenize_images
from randar_hf.training.data.crops import cut_crops, square_size
from randar_hf.training.data.pixels import BadImages, PixelRows, to_pixels
from randar_hf.training.data.reading import load_rows, undecoded
from randar_hf.training.data.token_files import read_settings, token_dataset, tokenizer_hash


@pytest.fixture
def tokenize(tokenizer_folder, tmp_path):
    """A function that tokenizes a data set and returns the folder."""

    def run(dataset, **settings):
        config = {"tokenizer": str(tokenizer_folder), "output_dir": str(tmp_path / "tokens")}
        return tokenize_images(TokenizingConfig(dataset=str(dataset), **config | settings))

    return run


@pytest.fixture
def mixed_folder(tmp_path):
    """Seven images of two classes, all readable."""
    for index in range(7):
        folder = tmp_path / "mixed" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        PILImage.effect_noise((20 + index, 24), 90).convert("RGB").save(folder / f"{index}.png")
    return tmp_path / "mixed"


def rows_of(folder, split="train") -> list[tuple]:
    return [(row["label"], row["tokens"]) for row in load_rows(str(folder), split)]


def test_rows_hold_the_tokens_and_labels_of_their_images(image_folder, tokenizer_folder, token_folder, tmp_path):
    rows = load_rows(str(token_folder), "train")
    assert rows.features["tokens"] == List(Value("uint16"), length=16)
    assert rows.features["label"] == ClassLabel(names=["across", "down"])
    vqvae = VQModel.from_pretrained(tokenizer_folder)
    images = load_rows(str(image_folder), "train")
    rows_of_pixels = PixelRows(undecoded(images, "image"), "image", 16, BadImages(tmp_path / "bad", 0))
    pixels = torch.stack([row["pixels"] for row in rows_of_pixels])
    loaded = token_dataset(rows, "tokens", "label")[:]
    assert torch.equal(loaded["tokens"], vq.encode(vqvae, pixels).flatten(1))
    assert loaded["label"].tolist() == images["label"][:]


def test_settings_travel_with_the_rows(tokenizer_folder, token_folder):
    settings = read_settings(str(token_folder))
    assert (settings.height, settings.width, settings.vocab_size) == (4, 4, 16)
    assert settings.tokenizer_hash == tokenizer_hash(VQModel.from_pretrained(tokenizer_folder))
    assert settings.tokenizer_config["pixel_range"] == [-1, 1]


def test_parquet_input_with_other_columns(image_parquet, tokenize):
    settings = {"image_column": "image", "label_column": "kind"}
    output = tokenize(image_parquet, **settings)
    assert len(load_rows(str(output), "train")) == len(load_rows(str(output / "train.parquet"), "train")) == 16
    with pytest.raises(ValueError, match="`output_dir` must not hold the split 'train'"):
        tokenize(image_parquet, **settings)
    tokenize(image_parquet, **settings, rows_per_file=6, overwrite=True)
    assert len(load_rows(str(output), "train")) == 16
    files = [f"train-{index:05d}-of-00003.parquet" for index in range(3)]
    assert sorted(path.name for path in output.iterdir()) == [".train", *files]


@pytest.mark.parametrize("augmentation", ["adm", "ten_crop"])
def test_a_row_holds_the_tokens_of_every_crop(augmentation, mixed_folder, tokenize, tokenizer_folder):
    folder = tokenize(mixed_folder, augmentation=augmentation, batch_size=3)
    rows = load_rows(str(folder), "train").with_format("torch")[:]
    vqvae = VQModel.from_pretrained(tokenizer_folder)
    size = square_size(augmentation, 16)
    squares = torch.stack([to_pixels(image, size) for image in load_rows(str(mixed_folder), "train")["image"]])
    crops = cut_crops(squares, 16, augmentation)
    assert rows["tokens"].shape == (7, len(crops), 16)
    for index, crop in enumerate(crops):
        assert torch.equal(rows["tokens"][:, index], vq.encode(vqvae, crop).flatten(1))
    assert len(rows["tokens"][0].unique(dim=0)) > 1


def test_more_workers_and_other_batches_change_nothing(mixed_folder, tokenize, tmp_path):
    one = tokenize(mixed_folder, num_workers=1, batch_size=1)
    other = tokenize(mixed_folder, num_workers=3, batch_size=5, output_dir=str(tmp_path / "other"), rows_per_file=3)
    assert rows_of(one) == rows_of(other)


def png(index: int) -> bytes:
    file = io.BytesIO()
    PILImage.effect_noise((16, 16), 30 + index).convert("RGB").save(file, "PNG")
    return file.getvalue()


def test_every_source_gives_the_same_rows(tokenize, tmp_path):
    images, labels = [png(index) for index in range(5)], [0, 2, 1, 2, 0]
    features = Features({"image": Image(), "label": ClassLabel(names=["x", "y", "z"])})
    rows = Dataset.from_dict({"image": [{"bytes": image, "path": None} for image in images], "label": labels})
    rows = rows.cast(features)
    (tmp_path / "parquet").mkdir()
    for index, part in enumerate((range(0, 3), range(3, 5))):
        rows.select(part).to_parquet(tmp_path / "parquet" / f"train-{index}.parquet")
    rows.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "dict")
    binary = rows.cast_column("image", Image(decode=False))
    binary = Dataset.from_dict({"image": [row["image"]["bytes"] for row in binary], "label": labels})
    binary.to_parquet(tmp_path / "binary.parquet")
    for index, part in enumerate((range(0, 3), range(3, 5))):
        with tarfile.open(tmp_path / f"shard-{index}.tar", "w") as archive:
            for row in part:
                for suffix, content in (("png", images[row]), ("cls", str(labels[row]).encode())):
                    member = tarfile.TarInfo(f"{row:03d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    tar = {"image_column": "png", "label_column": "cls"}
    sources = [
        ("parquet", {}),
        ("parquet", {"streaming": True}),
        ("parquet/train-*.parquet", {"streaming": True, "rows_per_file": 2}),
        ("saved", {}),
        ("dict", {"streaming": True}),
        ("binary.parquet", {}),
        ("shard-*.tar", tar),
        ("shard-*.tar", {**tar, "streaming": True, "rows_per_file": 1}),
    ]
    results = [
        rows_of(tokenize(tmp_path / name, output_dir=str(tmp_path / f"tokens-{index}"), **settings))
        for index, (name, settings) in enumerate(sources)
    ]
    assert [label for label, _ in results[0]] == labels and len({tuple(tokens) for _, tokens in results[0]}) > 1
    assert all(result == results[0] for result in results)


def test_labels_that_are_texts_are_numbered_by_name(tokenize, tmp_path):
    names = ["pear", "apple", "fig", "apple"]
    rows = Dataset.from_dict({"image": [{"bytes": png(i), "path": None} for i in range(4)], "label": names})
    rows.cast_column("image", Image()).to_parquet(tmp_path / "fruit.parquet")
    written = load_rows(str(tokenize(tmp_path / "fruit.parquet")), "train")
    assert written.features["label"] == ClassLabel(names=["apple", "fig", "pear"])
    assert written["label"][:] == [2, 0, 1, 0]
    with pytest.raises(ValueError, match="`label_column` must hold numbers to be streamed, got texts in 'label'"):
        tokenize(tmp_path / "fruit.parquet", streaming=True, output_dir=str(tmp_path / "streamed"))


def test_labels_outside_the_classes_are_refused(tokenize, tmp_path):
    features = Features({"image": Image(), "label": Value("int32")})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(2)], "label": [3, -1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="`label_column` must hold .*, got -1"):
        tokenize(tmp_path / "rows.parquet")
    rows["label"] = [3, None]
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="`label_column` must hold .*, got None"):
        tokenize(tmp_path / "rows.parquet", output_dir=str(tmp_path / "other"))


def test_a_class_without_images_keeps_its_number(mixed_folder, tokenize, caplog):
    (mixed_folder / "aa").mkdir()
    written = load_rows(str(tokenize(mixed_folder)), "train")
    assert written.features["label"] == ClassLabel(names=["a", "aa", "b"])
    assert written["label"][:] == [0, 0, 0, 0, 2, 2, 2]
    assert [record.getMessage() for record in caplog.records] == ["1 classes have no image: aa"]


def test_a_class_that_is_empty_in_one_split_keeps_its_number(image_folder, tokenize, tmp_path):
    folder = shutil.copytree(image_folder, tmp_path / "images")
    shutil.rmtree(folder / "validation" / "across")
    (folder / "train" / "neither").mkdir()
    rows = load_rows(str(tokenize(folder, split="validation")), "validation")
    assert rows.features["label"].names == ["across", "down", "neither"] and set(rows["label"]) == {1}


def test_a_lone_class_is_a_class(mixed_folder, tokenize):
    shutil.rmtree(mixed_folder / "b")
    assert load_rows(str(tokenize(mixed_folder)), "train").features["label"] == ClassLabel(names=["a"])


@pytest.fixture
def damaged_folder(mixed_folder):
    """The seven images, of which the numbers 1, 2 and 5 are damaged."""
    whole = (mixed_folder / "b" / "1.png").read_bytes()
    (mixed_folder / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    (mixed_folder / "a" / "2.png").write_bytes(b"")
    (mixed_folder / "b" / "5.png").write_text("no image")
    return mixed_folder


def test_unreadable_images_are_skipped_and_listed(damaged_folder, tokenize, caplog):
    folder = tokenize(damaged_folder, max_bad_images=3, rows_per_file=4)
    rows = load_rows(str(folder), "train")
    assert rows["label"][:] == [0, 0, 0, 1]  # of a/0, a/4, a/6 and b/3
    listed = [json.loads(line) for line in (folder / ".train" / "skipped.jsonl").read_text().splitlines()]
    names = [entry["id"].removeprefix(f"{damaged_folder}/") for entry in listed]
    assert names == ["a/2.png", "b/1.png", "b/5.png"]
    assert [entry["row"] for entry in listed] == [1, 4, 6]
    assert "truncated" in listed[1]["reason"] and "cannot identify" in listed[0]["reason"]
    assert "3 rows could not be read" in caplog.records[0].getMessage()
    state = json.loads((folder / ".train" / "state.json").read_text())
    assert (state["num_rows"], state["num_skipped"], state["finished"]) == (4, 3, True)


def test_too_many_unreadable_images_end_the_run_which_can_go_on(damaged_folder, tokenize):
    settings = {"rows_per_file": 2, "batch_size": 1}
    with pytest.raises(ValueError, match="`max_bad_images` must be .*, got 2 and 3 of them, the last one .*5.png"):
        tokenize(damaged_folder, max_bad_images=2, **settings)
    folder = tokenize(damaged_folder, max_bad_images=3, **settings)
    assert load_rows(str(folder), "train")["label"][:] == [0, 0, 0, 1]
    assert len((folder / ".train" / "skipped.jsonl").read_text().splitlines()) == 3


def test_images_of_any_mode(tokenize, tmp_path):
    folder = tmp_path / "modes" / "only"
    folder.mkdir(parents=True)
    noise = PILImage.effect_noise((20, 20), 90)
    for mode, kind in (("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg")):
        noise.convert("RGB").convert(mode).save(folder / f"{mode}.{kind}")
    noise.convert("I;16").save(folder / "I;16.png")
    noise.convert("F").save(folder / "F.tiff")
    output = tokenize(tmp_path / "modes")
    (entry,) = [json.loads(line) for line in (output / ".train" / "skipped.jsonl").read_text().splitlines()]
    assert entry["id"].endswith("F.tiff") and "floating point" in entry["reason"]
    assert len(load_rows(str(output), "train")) == 7


def test_bad_input_is_named(image_folder, tokenizer_folder, tokenize, tmp_path):
    with pytest.raises(FileNotFoundError, match="`dataset` must be .*nowhere"):
        tokenize(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="`tokenizer` must be .*nowhere"):
        tokenize(image_folder, tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="`label_column` must be one of image, label, got 'class'"):
        tokenize(image_folder, label_column="class")
    with pytest.raises(ValueError, match="`image_column` must hold images, got .* in 'label'"):
        tokenize(image_folder, image_column="label")
    with pytest.raises(ValueError, match="`image_size` must be a multiple of 4, got 18"):
        tokenize(image_folder, image_size=18)
    with pytest.raises(ValueError, match="`augmentation` must be one of 'none', 'adm', 'ten_crop', got 'flip'"):
        tokenize(image_folder, augmentation="flip")
    for split in (".", "", "../train", "train+validation"):
        with pytest.raises(ValueError, match="`split` must be the name of one split"):
            tokenize(image_folder, split=split)
    assert not (tmp_path / "tokens").exists()
    (tmp_path / "tokens" / ".train").mkdir(parents=True)
    (tmp_path / "tokens" / ".train" / "mine.txt").write_text("mine")
    (tmp_path / "tokens" / "old.parquet").symlink_to("nowhere")
    tokenize(image_folder, overwrite=True)
    assert (tmp_path / "tokens" / ".train" / "mine.txt").read_text() == "mine"


def test_damaged_tokenizer_is_named(image_folder, tokenizer_folder, tokenize, tmp_path):
    broken = shutil.copytree(tokenizer_folder, tmp_path / "broken")
    weights = broken / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match="`tokenizer` must be a tokenizer, found none at .*broken"):
        tokenize(image_folder, tokenizer=str(broken))


def test_the_folder_is_held_and_its_links_are_not_followed(image_folder, tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("randar_hf.files.LOCK_SECONDS", 0.05)
    folder, elsewhere = tmp_path / "tokens", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    config = TokenizingConfig(dataset=str(image_folder), tokenizer=str(tokenizer_folder), output_dir=str(folder))
    with FileLock(folder / ".lock"):
        with pytest.raises(ValueError, match="`output_dir` must not be in use by another running process"):
            tokenize_images(config)
    (folder / ".train").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="`output_dir` must hold no links, which would be written through"):
        tokenize_images(config)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "length"),
    [("0.json", b"[" * 100_000, None), ("0.pth", pickle.dumps(len), None), (None, b"", 800), (None, b"", 17_000)],
    ids=["too deep", "code", "cut off at once", "cut off later"],
)
def test_an_archive_that_breaks_is_named(tokenize, tmp_path, name, content, length, streaming):
    png = io.BytesIO()
    PILImage.new("RGB", (32, 32)).save(png, "PNG")
    members = {
        f"{index}.{kind}": body for index in range(9) for kind, body in (("png", png.getvalue()), ("cls", b"1"))
    }
    if name:
        members = {key: members[key] for key in ("0.png", "0.cls")} | {name: content}
    data = tmp_path / "rows.tar"
    with tarfile.open(data, "w") as archive:
        for each, body in members.items():
            info = tarfile.TarInfo(each)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    data.write_bytes(data.read_bytes()[:length])
    with pytest.raises(ValueError, match="`dataset` must be data that can be .*rows.tar"):
        tokenize(data, image_column="png", label_column="cls", streaming=streaming, image_size=16)
