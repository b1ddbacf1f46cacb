import pytest

from randar_hf.conversion import check_class_names, imagenet_classes, read_class_names


def test_imagenets_classes_are_in_their_usual_order():
    names = imagenet_classes()
    assert len(names) == 1000 and all(name == name.strip() != "" for name in names)
    known = {
        0: "tench",
        207: "golden retriever",
        360: "otter",
        388: "giant panda",
        980: "volcano",
        999: "toilet tissue",
    }
    assert {class_id: names[class_id].split(",")[0] for class_id in known} == known
    assert [i for i, name in enumerate(names) if names.count(name) > 1] == [134, 517]  # the two cranes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"1": "cat", "2": "dog"}'),
        ("a.json", '{"0": 3}'),
        ("a.json", '"cat"'),
        ("a.json", "[1, 2]"),
        ("a.json", "[cat]"),
        ("a.txt", "cat\n\ndog\n"),
    ],
)
def test_what_holds_no_names(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="`class_names`"):
        read_class_names(tmp_path / name)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="`class_names`"):
        read_class_names(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="`class_names` must be JSON or lines"):
        read_class_names(tmp_path / "a.txt")


def test_as_many_names_as_classes():
    check_class_names(("cat", "dog"), 2)
    with pytest.raises(ValueError, match="must hold 3 names.*, got 2"):
        check_class_names(("cat", "dog"), 3)


@pytest.mark.parametrize(
    ("name", "text"), [("names.txt", "tench\ngoldfish\n"), ("names.json", '["tench", "goldfish"]')]
)
def test_a_byte_order_mark_belongs_to_no_name(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_class_names(tmp_path / name) == ("tench", "goldfish")
