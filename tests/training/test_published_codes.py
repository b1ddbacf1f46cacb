"""Token files as RandAR, LlamaGen and RAR publish them, to parquet rows."""

import io
import json
import tarfile

import numpy as np
import pytest
from datasets import List, Value

from randar_hf.training import TokenizingConfig, tokenize_images
from randar_hf.training.data.reading import load_rows
from randar_hf.training.data.token_files import load_tokenizer, read_settings, tokenizer_hash
from randar_hf.training.data.token_writer import TokenFolder


@pytest.fixture
def codes():
    """(class, (A, N) tokens) of seven images: two crops of 3 x 3 tokens each."""
    rng = np.random.default_rng(0)
    return [(label, rng.integers(0, 16, (2, 9))) for label in (11, 0, 2, 2, 0, 10, 2)]


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_tar(path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_randar_tar(path, codes) -> None:
    write_tar(path, {f"root/{label}/{index}.npy": npy(tokens) for index, (label, tokens) in enumerate(codes)})


def write_llamagen(folder, codes) -> None:
    for name in ("imagenet48_codes", "imagenet48_labels"):
        (folder / name).mkdir(parents=True)
    for index, (label, tokens) in enumerate(codes):
        np.save(folder / "imagenet48_codes" / f"{index}.npy", tokens[None])
        np.save(folder / "imagenet48_labels" / f"{index}.npy", np.array([label]))


def write_rar(path, codes) -> None:
    lines = [{"class_id": label, "tokens": crop.tolist()} for label, tokens in codes for crop in tokens]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.fixture
def tokenize(tokenizer_folder, tmp_path):
    """A function that tokenizes and returns the rows and the folder."""

    def run(dataset, kind, **settings):
        output = tmp_path / "tokens"
        config = dict(tokenizer=str(tokenizer_folder), output_dir=str(output), rows_per_file=3, batch_size=2)
        tokenize_images(TokenizingConfig(dataset=str(dataset), published_codes=kind, **config | settings))
        rows = load_rows(str(output), "train")
        return [(row["label"], np.array(row["tokens"])) for row in rows], rows, output

    return run


def assert_same(rows, codes):
    assert [label for label, _ in rows] == [label for label, _ in codes]
    assert all(np.array_equal(tokens, wanted) for (_, tokens), (_, wanted) in zip(rows, codes))


def test_randar_tar(codes, tokenize, tokenizer_folder, tmp_path):
    write_randar_tar(tmp_path / "codes.tar", codes)
    rows, data, folder = tokenize(tmp_path / "codes.tar", "randar")
    assert_same(rows, codes)  # in the order of the archive
    assert data.features["tokens"] == List(List(Value("uint16"), length=9), length=2)
    settings = read_settings(str(folder))
    assert (settings.height, settings.width, settings.vocab_size) == (3, 3, 16)
    assert settings.tokenizer_hash == tokenizer_hash(load_tokenizer(str(tokenizer_folder)))
    assert len(list(folder.glob("train-*-of-00003.parquet"))) == 3


def test_randar_tar_unpacked(codes, tokenize, tmp_path):
    write_randar_tar(tmp_path / "codes.tar", codes)
    with tarfile.open(tmp_path / "codes.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    rows, _, _ = tokenize(tmp_path / "unpacked", "randar")
    assert_same(rows, [codes[index] for index in (1, 4, 2, 3, 6, 5, 0)])  # classes as numbers, 2 before 10


def test_llamagen_folders(codes, tokenize, tmp_path):
    write_llamagen(tmp_path / "codes", codes * 2)  # up to 13.npy, which is sorted after 2.npy
    rows, _, _ = tokenize(tmp_path / "codes", "llamagen")
    assert_same(rows, codes * 2)


def test_llamagen_folders_with_crops_of_a_second_range(codes, tokenize, tmp_path):
    second = [(label, tokens[::-1]) for label, tokens in codes]
    write_llamagen(tmp_path / "flip_ten_crop", codes)
    write_llamagen(tmp_path / "flip_ten_crop_105", second)
    rows, _, _ = tokenize(tmp_path / "flip_ten_crop", "llamagen")
    assert_same(rows, [(label, np.concatenate([tokens, tokens[::-1]])) for label, tokens in codes])


def test_a_image_without_its_second_crops_is_a_bad_one(codes, tokenize, tmp_path):
    for name in ("ten_crop", "ten_crop_105"):
        write_llamagen(tmp_path / name, codes)
    (tmp_path / "ten_crop_105" / "imagenet48_codes" / "2.npy").unlink()
    rows, _, _ = tokenize(tmp_path / "ten_crop", "llamagen", max_bad_images=1)
    assert [label for label, _ in rows] == [label for index, (label, _) in enumerate(codes) if index != 2]


def test_rar_lines(codes, tokenize, tmp_path):
    write_rar(tmp_path / "codes.jsonl", codes)
    rows, data, _ = tokenize(tmp_path / "codes.jsonl", "rar")
    assert_same(rows, [(label, crop) for label, tokens in codes for crop in tokens])
    assert data.features["tokens"] == List(Value("uint16"), length=9) and data.features["label"] == Value("int64")


def test_codes_beyond_the_codebook_belong_to_another_tokenizer(codes, tokenize, tmp_path):
    codes[5][1][1, 8] = 16
    write_randar_tar(tmp_path / "codes.tar", codes)
    with pytest.raises(ValueError, match="`tokenizer` must have the codes of all tokens, got 16 for 0 to 16"):
        tokenize(tmp_path / "codes.tar", "randar", batch_size=7)


def test_unreadable_rows_are_listed(codes, tokenize, tmp_path):
    lines = [json.dumps({"class_id": label, "tokens": tokens[0].tolist()}) for label, tokens in codes]
    lines[1], lines[3], lines[5] = "{", json.dumps({"class_id": 2, "tokens": [1, 2]}), json.dumps({"class_id": 2})
    (tmp_path / "codes.jsonl").write_text("\n".join(lines))
    rows, _, folder = tokenize(tmp_path / "codes.jsonl", "rar")
    assert_same(rows, [(codes[index][0], codes[index][1][0]) for index in (0, 2, 4, 6)])
    listed = [json.loads(line) for line in (folder / ".train" / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["row"], entry["id"]) for entry in listed] == [(1, "line 2"), (3, "line 4"), (5, "line 6")]
    assert "its shape is (1, 2)" in listed[1]["reason"]


def test_a_tar_that_was_cut_off_ends_the_run(codes, tokenize, tmp_path):
    write_randar_tar(tmp_path / "codes.tar", codes)
    whole = (tmp_path / "codes.tar").read_bytes()
    (tmp_path / "codes.tar").write_bytes(whole[: 512 * 9 + 100])
    with pytest.raises(ValueError, match="`dataset` must be a whole archive, got "):
        tokenize(tmp_path / "codes.tar", "randar")


def test_other_layouts_are_named(codes, tokenize, tmp_path):
    write_tar(tmp_path / "names.tar", {"root/n01440764/0.npy": npy(codes[0][1])})
    with pytest.raises(ValueError, match="named by the number of their class, got 'root/n01440764'"):
        tokenize(tmp_path / "names.tar", "randar")
    write_tar(tmp_path / "empty.tar", {"root/0/0.png": b""})
    with pytest.raises(ValueError, match="must hold tokens as 'randar' lays them out, found none"):
        tokenize(tmp_path / "empty.tar", "randar")
    with pytest.raises(ValueError, match="must hold one folder \\*_codes"):
        tokenize(tmp_path, "llamagen")
    write_rar(tmp_path / "codes.jsonl", [(0, np.zeros((1, 8), int))])
    with pytest.raises(ValueError, match="rows that form a square, got 8 tokens"):
        tokenize(tmp_path / "codes.jsonl", "rar")
    with pytest.raises(FileNotFoundError, match="`dataset` must be .*nowhere"):
        tokenize(tmp_path / "nowhere.tar", "randar")
    with pytest.raises(ValueError, match="`published_codes` must be one of .*, got 'maskgit'"):
        tokenize(tmp_path / "names.tar", "maskgit")
    with pytest.raises(ValueError, match="`published_codes` must come without size, crops and streaming"):
        tokenize(tmp_path / "names.tar", "randar", augmentation="adm")


def test_a_stopped_run_goes_on(codes, tokenize, tmp_path, monkeypatch):
    write_rar(tmp_path / "codes.jsonl", codes)
    write_file, written = TokenFolder.write_file, []

    def stop_at_the_third(self, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        write_file(self, *arguments)

    monkeypatch.setattr(TokenFolder, "write_file", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path / "codes.jsonl", "rar")
    monkeypatch.undo()
    rows, _, _ = tokenize(tmp_path / "codes.jsonl", "rar")
    assert_same(rows, [(label, crop) for label, tokens in codes for crop in tokens])
