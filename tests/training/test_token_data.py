"""Reading token rows for training, of one crop and of several."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch.utils.data import DataLoader

from randar_hf.training import TokenizingConfig, TrainingConfig, tokenize_images, train
from randar_hf.training.data.reading import load_rows
from randar_hf.training.data.token_checks import MAX_CLASSES, check_labels, check_tokens
from randar_hf.training.data.token_files import (
    SETTINGS_KEY,
    TokenCrops,
    check_tokenizer,
    load_tokenizer,
    read_settings,
    token_dataset,
)


def crop_rows(num_crops: int, count: int = 40) -> Dataset:
    """Rows whose tokens are 100 times the number of the row plus that of the crop."""
    tokens = 100 * np.arange(count)[:, None, None] + np.arange(num_crops)[None, :, None] + np.zeros((1, 1, 4), int)
    features = Features({"t": List(List(Value("uint16"), length=4), length=num_crops), "l": Value("int64")})
    return Dataset.from_dict({"t": tokens.astype(np.uint16), "l": np.arange(count) % 3}, features=features)


def crops_of(dataset: TokenCrops, indices=None) -> list[int]:
    return [int(dataset[index]["tokens"][0]) % 100 for index in indices or range(len(dataset))]


def test_without_a_seed_it_is_the_middle_of_the_image():
    assert set(crops_of(token_dataset(crop_rows(2), "t", "l"))) == {0}
    dataset = token_dataset(crop_rows(10), "t", "l")
    assert set(crops_of(dataset)) == {4}
    dataset.set_epoch(1)
    columns = dataset[:]
    assert columns["tokens"].shape == (40, 4) and columns["tokens"].dtype == columns["label"].dtype == torch.int64
    assert columns["tokens"][:, 0].tolist() == [100 * row + 4 for row in range(40)]
    assert columns["label"].tolist() == [row % 3 for row in range(40)]
    assert torch.equal(dataset[5:7]["tokens"], columns["tokens"][5:7])


def test_the_crop_depends_on_seed_epoch_and_row_alone():
    def sample(seed, epoch, order=range(40)):
        dataset = token_dataset(crop_rows(10), "t", "l", seed=seed)
        dataset.set_epoch(epoch)
        return crops_of(dataset, order)

    first = sample(0, 3)
    assert first == sample(0, 3) and sample(0, 3, order=range(39, -1, -1)) == first[::-1]
    assert first != sample(0, 4) and first != sample(1, 3)
    dataset = token_dataset(crop_rows(10), "t", "l", seed=0)
    sampled = []
    for epoch in range(200):
        dataset.set_epoch(epoch)
        sampled.append(dataset.choice)
    counts = np.bincount(np.concatenate(sampled), minlength=10)  # of 8000 samples, with a deviation of 27
    assert counts.min() > 650 and counts.max() < 950
    assert len({tuple(row) for row in np.stack(sampled).T}) == 40  # rows are sampled independently


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_sample_the_same_crops(num_workers):
    dataset = token_dataset(crop_rows(10), "t", "l", seed=5)
    loader = DataLoader(dataset, batch_size=7, num_workers=num_workers)
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        read = torch.cat([batch["tokens"] for batch in loader])
        assert read[:, 0].tolist() == [100 * row + crop for row, crop in enumerate(dataset.choice.tolist())]


def test_training_reads_rows_of_several_crops(image_folder, tokenizer_folder, training_settings, tmp_path):
    for split in ("train", "validation"):
        tokens = TokenizingConfig(
            dataset=str(image_folder),
            tokenizer=str(tokenizer_folder),
            output_dir=str(tmp_path / "tokens"),
            split=split,
            augmentation="adm",
        )
        tokenize_images(tokens)
    settings = training_settings | {"dataset": str(tmp_path / "tokens"), "validation_split": "validation"}
    folder = train(TrainingConfig(**settings))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["validation_loss"] > 0


def test_rows_of_one_crop_are_read_as_ever(token_folder):
    rows = load_rows(str(token_folder), "train")
    dataset = token_dataset(rows, "tokens", "label", seed=3)
    assert isinstance(dataset, Dataset) and dataset[0]["tokens"].shape == (16,)


def older(folder, target) -> None:
    """The files of a folder as they were written before the tokenizer's configuration was stored with them."""
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file)
        settings = json.loads(table.schema.metadata[SETTINGS_KEY])
        del settings["tokenizer_config"]
        metadata = {**table.schema.metadata, SETTINGS_KEY: json.dumps(settings).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), target / file.name)


def test_older_token_folders_stay_readable(token_folder, tokenizer_folder, tmp_path):
    older(token_folder, tmp_path)
    settings, vqvae = read_settings(str(tmp_path)), load_tokenizer(str(tokenizer_folder))
    assert settings.tokenizer_config is None and (settings.height, settings.vocab_size) == (4, 16)
    check_tokenizer(settings, vqvae)
    assert load_rows(str(tmp_path), "train")["tokens"][:] == load_rows(str(token_folder), "train")["tokens"][:]
    (tmp_path / "train.parquet").write_bytes((token_folder / "train.parquet").read_bytes())
    assert read_settings(str(tmp_path)) == read_settings(str(token_folder))  # one older, one newer file


def test_files_of_different_tokenizers_are_refused(token_folder, tmp_path):
    for file in token_folder.glob("*.parquet"):
        table = pq.read_table(file)
        settings = json.loads(table.schema.metadata[SETTINGS_KEY])
        settings["tokenizer_hash"] = file.name
        metadata = {**table.schema.metadata, SETTINGS_KEY: json.dumps(settings).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / file.name)
    with pytest.raises(ValueError, match="`dataset` must hold tokens of one tokenizer, got those of several"):
        read_settings(str(tmp_path))


@pytest.mark.parametrize(
    "stored",
    [b"{", b"null", b"[]", b"5", b"{}", {"grid_size": 4}, {"height": "4"}, {"width": -1}, {"vocab_size": 10**9}],
)
def test_settings_that_are_not_those_of_tokens_are_refused(token_folder, tmp_path, stored):
    table = pq.read_table(token_folder / "train.parquet")
    if isinstance(stored, dict):
        stored = json.dumps(json.loads(table.schema.metadata[SETTINGS_KEY]) | stored).encode()
    pq.write_table(table.replace_schema_metadata({SETTINGS_KEY: stored}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="`dataset` must hold the settings of its tokenizer"):
        read_settings(str(tmp_path))


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint64", "int64"])
def test_numbers_out_of_range_are_named_whatever_holds_them(kind):
    most = np.iinfo(kind).max
    columns = pa.array([[1, 2], [1, most]], pa.list_(pa.type_for_alias(kind))), pa.array([1, most], kind)
    rows = Dataset(pa.table(columns, names=["t", "l"]))
    with pytest.raises(ValueError, match=f"`token_column` must hold codes from 0 to 9, got {most} in row 1 of 't'"):
        check_tokens(rows.rename_column("t", "tokens"), "t", None, 2, 10)
    if most >= MAX_CLASSES:
        with pytest.raises(ValueError, match=f"`label_column` must hold labels .*, got {most} in row 1 of 'l'"):
            check_labels(rows, "l")
    else:
        check_labels(rows, "l")


def test_files_of_a_split_that_is_being_written_do_not_count(token_folder, tmp_path):
    (tmp_path / ".validation").mkdir()
    (tmp_path / "train.parquet").write_bytes((token_folder / "train.parquet").read_bytes())
    table = pq.read_table(token_folder / "validation.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / ".validation" / "000000-000000.parquet")
    assert read_settings(str(tmp_path)) == read_settings(str(token_folder))


def test_settings_are_read_of_the_files_that_rows_are_read_of(token_folder, tmp_path):
    (tmp_path / "linked").symlink_to(token_folder)
    assert len(load_rows(str(tmp_path), "train")) == 16
    assert read_settings(str(tmp_path)) == read_settings(str(token_folder))


def test_the_tokenizer_is_known_by_weights_and_configuration(token_folder, tokenizer_folder):
    settings = read_settings(str(token_folder))
    vqvae = load_tokenizer(str(tokenizer_folder))
    check_tokenizer(settings, vqvae)
    vqvae.register_to_config(_pixel_range=[0.0, 1.0])
    with pytest.raises(ValueError, match="`tokenizer` must .*same weights with .*, got .*0.0, 1.0"):
        check_tokenizer(settings, vqvae)
    vqvae = load_tokenizer(str(tokenizer_folder))
    vqvae.quantize.embedding.weight.data[0, 0] += 1
    with pytest.raises(ValueError, match="`tokenizer` must be the one that made the tokens"):
        check_tokenizer(settings, vqvae)


NAMES = ClassLabel(names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("row", "label", "feature", "message"),
    [
        ([1] * 15 + [16], 0, Value("int64"), "`token_column` .* codes from 0 to 15, got 16 in row 6 of 'tokens'"),
        ([1] * 15 + [-100], 0, Value("int64"), "`token_column` .* codes from 0 to 15, got -100 in row 6 of 'tokens'"),
        ([1] * 15 + [None], 0, Value("int64"), "`token_column` .* codes from 0 to 15, got None in row 6 of 'tokens'"),
        ([1] * 9, 0, Value("int64"), "`token_column` .* 16 tokens in each row, got 9 in row 6 of 'tokens'"),
        ([1] * 16, 99_999_999, Value("int64"), "`label_column` .* from 0 to 65535, got 99999999 in row 6 of 'label'"),
        ([1] * 16, -1, Value("int64"), "`label_column` .* from 0 to 65535, got -1 in row 6 of 'label'"),
        ([1] * 16, None, Value("int64"), "`label_column` .* from 0 to 65535, got None in row 6 of 'label'"),
        ([1] * 16, -1, NAMES, "`label_column` .* from 0 to 2, got -1 in row 6 of 'label'"),
        ([1.5] * 16, 0, NAMES, "`token_column` must hold a list of whole numbers"),
    ],
)
def test_a_row_that_is_no_tokens_is_refused_before_the_folder_is_claimed(
    row, label, feature, message, tokenizer_folder, training_settings, tmp_path
):
    columns = {"tokens": [[1] * 16] * 6 + [row], "label": [0] * 6 + [label]}
    number = "float64" if isinstance(row[0], float) else "int64"
    features = Features({"tokens": List(Value(number)), "label": feature})
    refuse_to_train(Dataset.from_dict(columns, features), message, tokenizer_folder, training_settings, tmp_path)


@pytest.mark.parametrize("shape", [(4, 4), (2, 4), (10, 16)])
def test_grids_are_not_taken_for_crops(shape, tokenizer_folder, training_settings, tmp_path):
    rows = Dataset.from_dict({"tokens": np.ones((8, *shape), int), "label": [0] * 8})
    refuse_to_train(rows, "`token_column` .* one flat list", tokenizer_folder, training_settings, tmp_path)


def test_files_of_crops_whose_rows_are_grids_are_refused(token_folder, tokenizer_folder, training_settings, tmp_path):
    table = pq.read_table(token_folder / "train.parquet")
    grids = [np.reshape(row, (4, 4)).tolist() for row in table["tokens"].to_pylist()]
    table = table.set_column(0, "tokens", [grids]).replace_schema_metadata(
        {SETTINGS_KEY: table.schema.metadata[SETTINGS_KEY]}
    )
    (tmp_path / "grids").mkdir()
    pq.write_table(table, tmp_path / "grids" / "train.parquet")
    settings = training_settings | {"dataset": str(tmp_path / "grids"), "output_dir": str(tmp_path / "refused")}
    with pytest.raises(ValueError, match="`token_column` must hold 16 tokens in each row, got 4 in row 0"):
        train(TrainingConfig(**settings, tokenizer=str(tokenizer_folder)))


def refuse_to_train(rows, message, tokenizer_folder, training_settings, tmp_path):
    (tmp_path / "foreign").mkdir()
    rows.to_parquet(tmp_path / "foreign" / "train.parquet")
    settings = training_settings | {"dataset": str(tmp_path / "foreign"), "output_dir": str(tmp_path / "refused")}
    settings |= {"tokenizer": str(tokenizer_folder), "validation_split": None}
    with pytest.raises(ValueError, match=message):
        train(TrainingConfig(**settings))
    assert not (tmp_path / "refused").exists()
