"""Low-rank adapters in training: what is trained, and what is written at the end."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.pipelines import RandARPipeline, RARPipeline
from randar_hf.training import TrainingConfig, train
from randar_hf.training.lora import add_adapter, merge_adapter
from randar_hf.training.throughput import flops_per_image
from randar_hf.training.trainer import Trainer


RANK = 2
NAMES = {0: "down", 1: "diagonal", 2: "dots"}
CLASSES = {"randar": RandARForCausalLM, "rar": RARForCausalLM}
TABLES = {"randar": "embed_classes", "rar": "embed_tokens"}
LINEAR = {
    "randar": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "rar": {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "modulation"},
}


@pytest.fixture(scope="module", params=["randar", "rar"])
def model_type(request):
    return request.param


@pytest.fixture(scope="module")
def pretrained(make_model, make_rar, tmp_path_factory, model_type):
    """A saved model of three classes for the tokens of these tests."""
    model = {"randar": make_model, "rar": make_rar}[model_type](vocab_size=16, num_classes=3, id2label=NAMES)
    folder = tmp_path_factory.mktemp("pretrained")
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapter_settings(small_model_settings, pretrained, model_type):
    """Settings of a training with adapters, but for the folder."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    settings = {name: value for name, value in small_model_settings.items() if name not in sizes}
    return {**settings, "model_type": model_type, "pretrained_model": pretrained, "lora_rank": RANK}


@pytest.fixture
def settings(adapter_settings, tmp_path):
    return {**adapter_settings, "output_dir": str(tmp_path / "run")}


@pytest.fixture(scope="module")
def trained(adapter_settings, tmp_path_factory):
    """The folder of a run of these settings, to be read."""
    return train(TrainingConfig(**adapter_settings, output_dir=str(tmp_path_factory.mktemp("runs") / "trained")))


def sample_inputs() -> dict[str, torch.Tensor]:
    tokens = torch.randint(16, (4, 16), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "class_labels": torch.tensor([0, 1, 2, 1])}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(**sample_inputs()).logits


def load_adapted(folder, pretrained: str, model_type: str) -> PeftModel:
    """The pretrained model with as many classes as that of a run, and with the run's adapter."""
    model_class = CLASSES[model_type]
    config = model_class.config_class.from_pretrained(folder)
    base = model_class.from_pretrained(pretrained, config=config, ignore_mismatched_sizes=True)
    return PeftModel.from_pretrained(base, folder / "adapter")


def kind(name: str) -> str:
    """The last name of a module whose weights `name` is."""
    return name.removesuffix(".weight").rpartition(".")[2]


def test_the_merged_result_differs_by_the_low_rank_part_and_the_classes(trained, pretrained, model_type):
    before = CLASSES[model_type].from_pretrained(pretrained).state_dict()
    after = CLASSES[model_type].from_pretrained(trained).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if kind(name) != TABLES[model_type] and not before[name].equal(after[name])}
    assert {kind(name) for name in changed} == LINEAR[model_type]
    assert all(".layers." in name and name.endswith(".weight") for name in changed)
    for name in changed:
        values = torch.linalg.svdvals((after[name] - before[name]).double())
        assert values[RANK:].max() < 1e-5 * values[0]
    table = f"model.{TABLES[model_type]}.weight"
    assert not torch.isclose(before[table][-4], after[table][-2]).all()  # "down", which is known


def test_the_loss_falls(settings, read_metrics):
    settings |= {"max_steps": 30, "checkpointing_steps": 30}
    losses = [row["loss"] for row in read_metrics(train(TrainingConfig(**settings))) if "loss" in row]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_adapter_on_the_adapted_model_gives_the_logits_of_the_merged_one(trained, pretrained, model_type):
    adapted = load_adapted(trained, pretrained, model_type)
    merged = CLASSES[model_type].from_pretrained(trained)
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-5, rtol=0)
    with adapted.disable_adapter():
        assert (logits(merged) - logits(adapted)).abs().max() > 1e-2


def test_a_merged_copy_leaves_the_adapter_as_it_is(make_model):
    model = add_adapter(make_model(), RANK)
    torch.nn.init.normal_(model.get_base_model().model.layers[0].mlp.up_proj.lora_B["default"].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = merge_adapter(model)
    assert type(merged) is RandARForCausalLM and not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=1e-5)
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    merged.lm_head.weight.data.zero_()
    assert model.get_base_model().lm_head.weight.any()


def test_frozen_weights_have_no_gradient_no_state_and_no_average(settings, monkeypatch):
    seen, save_model = [], Trainer.save_model
    monkeypatch.setattr(Trainer, "save_model", lambda self: seen.append(self) or save_model(self))
    train(TrainingConfig(**settings, ema_decay=0.9))
    trainer = seen[0]
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert names and all("lora_" in name or "modules_to_save" in name for name in names)
    states = trainer.optimizer.optimizer.state
    assert {id(parameter) for parameter in states} == {id(parameter) for parameter in trainer.trained_parameters}
    assert len(trainer.ema.shadow_params) == len(names)


def test_all_of_a_run_works_with_an_adapter(settings, tokenizer_folder, model_type, read_metrics):
    settings |= {"tokenizer": str(tokenizer_folder), "validation_split": "validation", "ema_decay": 0.9}
    folder = train(TrainingConfig(**settings, mixed_precision="bf16", gradient_accumulation_steps=2))
    assert "validation_loss" in read_metrics(folder)[-1] and (folder / "previews" / "step-6.png").is_file()
    pipeline = {"randar": RandARPipeline, "rar": RARPipeline}[model_type].from_pretrained(folder / "pipeline")
    assert pipeline("across", generator=torch.Generator().manual_seed(0)).images[0].size == (16, 16)
    assert logits(pipeline.transformer).equal(logits(CLASSES[model_type].from_pretrained(folder)))
    adapted = load_adapted(folder, settings["pretrained_model"], model_type)
    torch.testing.assert_close(logits(pipeline.transformer), logits(adapted), atol=1e-5, rtol=0)  # both are averages


def test_activation_checkpointing_changes_no_number(settings, trained, same_weights):
    assert same_weights(trained, train(TrainingConfig(**settings, activation_checkpointing=True)))


@pytest.mark.parametrize("model_type", ["randar"], indirect=True)
def test_two_processes_train_the_same_adapter(start_training, settings, tmp_path):
    settings |= {"checkpointing_steps": 6, "batch_size": 8}
    alone = train(TrainingConfig(**{**settings, "output_dir": str(tmp_path / "alone")}))
    for process in start_training({**settings, "batch_size": 4}, processes=2):
        process.join()
        assert process.exitcode == 0
    folders = (alone, Path(settings["output_dir"]))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        first, second = (load_file(folder / name) for folder in folders)
        assert first.keys() == second.keys()
        for key in first:
            torch.testing.assert_close(first[key], second[key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("model_type", ["randar"], indirect=True)
def test_steps_without_a_finite_gradient_are_skipped(settings, monkeypatch, read_metrics):
    step = Trainer.training_step

    def spoil(self, batch, epoch):
        hook = None
        if self.progress.step == 2:
            hook = self.trained_parameters[0].register_hook(lambda gradient: gradient * float("nan"))
        result = step(self, batch, epoch)
        if hook:
            hook.remove()
        return result

    monkeypatch.setattr(Trainer, "training_step", spoil)
    folder = train(TrainingConfig(**settings))
    assert [row["skipped_steps"] for row in read_metrics(folder)] == [0, 0, 1, 1, 1, 1]


def test_frozen_weights_cost_two_thirds(make_model):
    model = make_model()
    config, whole = model.config, flops_per_image(model)
    slots = 32  # 2 N in training: the class and an instruction before each token
    frozen = sum(parameter.numel() for parameter in model.model.layers.parameters())
    head = model.lm_head.weight.numel()
    model = add_adapter(model, RANK).get_base_model()
    adapters = sum(p.numel() for name, p in model.model.layers.named_parameters() if "lora_" in name)
    expected = whole - slots * 2 * frozen - config.num_tokens * 2 * head + slots * 6 * adapters
    assert flops_per_image(model) == expected


def test_adapters_need_a_model():
    with pytest.raises(ValueError, match="`pretrained_model` must be given, since `lora_rank` is"):
        TrainingConfig(dataset="tokens", output_dir="run", lora_rank=2)
