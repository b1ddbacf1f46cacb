import pytest

from randar_hf import RandARConfig, RandARForCausalLM, RARConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 1020),
        ("num_key_value_heads", 3),
        ("position_instruction", "absolute"),
        ("grid_size", 0),
        ("grid_size", (4, 0)),
        ("token_dropout", 1.0),
        ("class_dropout", -0.1),
        ("num_classes", 0),
        ("vocab_size", 0),
    ],
)
def test_wrong_fields_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        RandARConfig(**{field: value})


@pytest.mark.parametrize("grid_size", [3, (2, 5)])
def test_round_trip(tmp_path, grid_size):
    config = RandARConfig(grid_size=grid_size, vocab_size=7, num_classes=3)
    config.save_pretrained(tmp_path)
    again = RandARConfig.from_pretrained(tmp_path)
    assert again.grid == config.grid == ((3, 3) if grid_size == 3 else (2, 5))
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "config.json").read_text() == (tmp_path / "again" / "config.json").read_text()


@pytest.mark.parametrize(
    ("size", "parameters"), [("B", 110_889_216), ("L", 342_912_000), ("XL", 774_700_800), ("XXL", 1_410_974_208)]
)
def test_published_sizes(size, parameters):
    import torch

    with torch.device("meta"):
        model = RandARForCausalLM(RandARConfig.from_size(size))
    assert model.num_parameters() == parameters


def test_unknown_size():
    with pytest.raises(ValueError, match="size"):
        RandARConfig.from_size("XS")


@pytest.mark.parametrize("config_class", [RandARConfig, RARConfig])
@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "x"},
        {"vocab_size": None},
        {"num_hidden_layers": True},
        {"num_classes": 3.0},
        {"grid_size": [4, "4"]},
        {"grid_size": []},
        {"grid_size": [4, 4, 4]},
        {"class_dropout": float("nan")},
        {"initializer_range": float("inf")},
        {"id2label": ["a"]},
        {"id2label": {0: 3}},
        {"id2label": {"x": "a"}},
        {"label2id": ["a"]},
        {"dtype": "os.system"},
        {"dtype": 3},
        {"torch_dtype": "float"[::-1]},
        {"num_labels": 10**9},
        {"num_labels": "3"},
        {"head_dim": 4},
    ],
)
def test_wrong_types_are_value_errors_that_name_the_field(config_class, fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"`{name}` must"):
        config_class(**fields)
    with pytest.raises(ValueError, match=f"`{name}` must"):
        config_class.from_dict(fields)


@pytest.mark.parametrize("config_class", [RandARConfig, RARConfig])
def test_what_is_stored_is_read_again(config_class, tmp_path):
    config = config_class(id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, dtype="bfloat16", num_classes=2)
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).to_dict() == config.to_dict()
