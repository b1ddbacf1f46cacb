"""Training by transformers' `Trainer`: a step does not depend on how its batch is cut."""

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments


@pytest.fixture(params=["make_model", "make_rar"])
def make(request):
    """A function that makes a model."""
    return request.getfixturevalue(request.param)


def rows(config) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocab_size, (8, config.num_tokens), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": tokens, "labels": tokens, "class_labels": [0, 1] * 4})


def step(model, folder, batch_size: int, accumulation: int, smoothing: float) -> tuple[torch.Tensor, float]:
    """What one step of SGD adds to all parameters, and the loss that is logged."""
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        label_smoothing_factor=smoothing,
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
    )
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer = Trainer(model=model, args=arguments, train_dataset=rows(model.config))
    trainer.train()
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return after - before, trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulated_gradients_are_those_of_the_whole_batch(make, tmp_path, smoothing):
    whole, loss = step(make(), tmp_path, 8, 1, smoothing)
    parts, loss_of_parts = step(make(), tmp_path, 2, 4, smoothing)
    assert whole.norm() > 0
    assert torch.allclose(parts, whole, atol=1e-6, rtol=1e-4)
    assert loss_of_parts == pytest.approx(loss, rel=1e-4)


def test_ignored_labels_are_ignored_with_and_without_logits(make):
    model = make().eval()
    data = rows(model.config).with_format("torch")[:4]
    tokens, labels, classes = data["input_ids"], data["labels"].clone(), data["class_labels"]
    labels[:, ::2] = -100
    order = torch.randperm(model.config.num_tokens, generator=torch.Generator().manual_seed(0))
    order = None if model.config.model_type == "rar" else order
    losses = []
    for return_logits in (True, False):
        model.zero_grad()
        output = model(tokens, classes, order=order, labels=labels, return_logits=return_logits)
        output.loss.backward()
        losses.append((output.loss.detach(), model.lm_head.weight.grad.clone()))
    logits = model(tokens, classes, order=order).logits
    positions = torch.arange(model.config.num_tokens) if order is None else order
    expected = [
        -logits[i, j].log_softmax(-1)[tokens[i, position]]
        for i in range(4)
        for j, position in enumerate(positions)
        if labels[i, position] != -100
    ]
    for loss, _ in losses:
        assert torch.allclose(loss, torch.stack(expected).mean(), rtol=1e-5)
    assert torch.allclose(losses[0][1], losses[1][1], atol=1e-6)


@pytest.mark.parametrize("with_classes", [True, False])
def test_evaluation_finds_the_loss_and_the_labels(make, tmp_path, with_classes):
    model = make().eval()
    data = rows(model.config) if with_classes else rows(model.config).remove_columns("class_labels")
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    seen = []
    trainer = Trainer(
        model=model,
        args=arguments,
        eval_dataset=data,
        compute_metrics=lambda found: seen.append(found.label_ids) or {},
    )
    batch = data.with_format("torch")[:]
    with torch.no_grad():
        expected = model(**{name: batch[name] for name in data.column_names}).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert torch.equal(torch.from_numpy(seen[0]), batch["labels"])
