"""The classifier of icons and the numbers of a model, on a few drawn shapes and untrained weights."""

import json

import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from diffusers import VQModel
from PIL import Image, ImageDraw

from randar_hf import RandARConfig, RandARForCausalLM
from randar_hf.pipelines import RandARPipeline
from randar_hf.training.icons import classifier, evaluation, measures
from randar_hf.training.icons.names import class_names


def shape(label: int, index: int) -> Image.Image:
    """A square or a bar, filled or as a frame, a little shifted."""
    image = Image.new("RGB", (32, 32))
    box = (4 + index % 3, 4, 26 + index % 3, 27 if label // 2 else 12)
    ImageDraw.Draw(image).rectangle(box, fill=None if label % 2 else "white", outline="white", width=2)
    return image


@pytest.fixture(scope="module")
def icons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icons")
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=class_names())})
    for split, count in {"train": 12, "validation": 3}.items():
        rows = [(shape(label, index), label) for label in range(4) for index in range(count)]
        images, labels = zip(*rows, strict=True)
        Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(
            folder / f"{split}.parquet"
        )
    return folder


@pytest.fixture(scope="module")
def judge(icons, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    config = classifier.ClassifierConfig(dataset=str(icons), output_dir=str(folder), epochs=6, batch_size=8)
    return folder, classifier.train_classifier(config)


def test_the_classifier_learns_and_loads(icons, judge):
    folder, numbers = judge
    assert numbers == json.loads((folder / "accuracy.json").read_text()) == {"accuracy": 1.0, "class_accuracy": 1.0}
    loaded = classifier.load_classifier(folder)
    named, features = classifier.read_icons(loaded, [shape(label, 1).resize((64, 64)) for label in range(4)])
    assert named.tolist() == [0, 1, 2, 3] and features.shape == (4, 128)


def test_styles_do_not_count_for_the_object():
    assert classifier.same_object(torch.tensor([0, 1, 2, 5]), torch.tensor([1, 1, 1, 4])) == 0.75


def test_frequencies_are_those_of_each_position():
    tokens = torch.tensor([[0, 5], [1, 6]])
    sampled = measures.tokens_by_frequency(tokens, 400, torch.Generator().manual_seed(0))
    assert set(sampled[:, 0].tolist()) == {0, 1} and set(sampled[:, 1].tolist()) == {5, 6}
    assert 0.4 < sampled[:, 0].double().mean() < 0.6
    assert 0.4 < (sampled[:, 0] == sampled[:, 1] - 5).double().mean() < 0.6  # by itself


def test_rows_that_were_trained_on_are_counted():
    train = torch.tensor([[1, 2], [3, 4]])
    assert evaluation.repeated_fraction(torch.tensor([[1, 2], [1, 4], [3, 4], [4, 3]]), train) == 0.5


@pytest.mark.filterwarnings("ignore:The Frechet distance")
def test_numbers_of_an_untrained_model(icons, judge, tmp_path):
    torch.manual_seed(0)
    channels = (4, 4, 4)
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=channels, latent_channels=2, sample_size=32, num_vq_embeddings=16, norm_num_groups=2,
        lookup_from_codebook=True, force_upcast=True,
    )  # fmt: skip
    config = RandARConfig(
        vocab_size=16, num_classes=96, grid_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    RandARPipeline(RandARForCausalLM(config), vqvae).save_pretrained(tmp_path / "pipeline")
    settings = evaluation.IconEvaluationConfig(
        model=str(tmp_path / "pipeline"), dataset=str(icons), classifier=str(judge[0]),
        output_dir=str(tmp_path / "out"), num_images=6,
    )  # fmt: skip
    numbers = evaluation.evaluate_icons(settings)
    assert numbers == json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["classifier_accuracy_real"] == 1 and numbers["repeated_fraction"] == 0
    assert numbers["bits_per_token"] == pytest.approx(4, abs=1e-5)  # a new head is zero: all 16 codes alike
    assert numbers["frechet_distance"] > numbers["frechet_distance_train"] >= 0
    assert Image.open(tmp_path / "out" / "nearest.png").size == (120 + 6 * 68, 2 * 68)
    assert (tmp_path / "out" / "generated.png").is_file()


def test_wrong_settings_are_named(icons, tmp_path):
    with pytest.raises(FileNotFoundError, match="`classifier` must be a folder with classifier.safetensors, got"):
        classifier.load_classifier(tmp_path)
    with pytest.raises(ValueError, match="`epochs` must be above 0, got 0"):
        classifier.ClassifierConfig(dataset=".", output_dir=".", epochs=0)
    with pytest.raises(ValueError, match="`num_images` must be at least 2, got 1"):
        evaluation.IconEvaluationConfig(model=".", dataset=".", classifier=".", output_dir=".", num_images=1)
