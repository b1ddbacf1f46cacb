"""Names to class ids: what goes before what, and what is said of unknown names."""

import pytest

from randar_hf.pipelines.labels import find_label_id


NAMES = {0: "crane, bird", 1: "crane", 2: "Sea Snake", 3: "three", 4: "polish", 5: "Polish", 6: "four, 4"}


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("crane", 1),  # a whole name goes before the synonym of another class
        ("bird", 0),
        ("crane, bird", 0),
        ("sea snake", 2),
        ("THREE", 3),
        ("polish", 4),
        ("Polish", 5),
        ("4", 6),
        (4, 4),
    ],
)
def test_the_class_of_a_name(label, found):
    assert find_label_id(label, NAMES) == found


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("POLISH", r"the name of the classes \[4, 5\]"),
        ("a handwritten three", "near it are 'three'"),
        ("green snake", "near it are 'Sea Snake'"),
        ("thre", "near it are 'three'"),
        ("3", "3 is the id of 'three': give it as a number"),
        ("zebra", "none of the 7 names is near it"),
    ],
)
def test_what_is_said_of_a_name_that_is_none(label, message):
    with pytest.raises(ValueError, match=message):
        find_label_id(label, NAMES)
