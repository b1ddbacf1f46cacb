"""The launch files, and training whose weights several processes share (FSDP2), on CPUs through gloo."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

import randar_hf.training
from randar_hf import RandARForCausalLM
from randar_hf.pipelines import RandARPipeline
from randar_hf.training import TrainingConfig, export_run, train


LAUNCH_FILES = Path(randar_hf.training.__file__).parent / "launch"
NAN_AT = 3


@pytest.fixture(scope="module")
def sharding():
    """What `accelerate launch --config_file fsdp2.yaml` sets in the environment of its processes."""
    words = ["--config_file", str(LAUNCH_FILES / "fsdp2.yaml"), "--num_processes", "2", "-m", "randar_hf.cli"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    environment = prepare_multi_gpu_env(arguments)
    chosen = {name: value for name, value in environment.items() if "FSDP" in name}
    assert chosen["ACCELERATE_USE_FSDP"] == "true" and chosen["FSDP_VERSION"] == "2"
    return chosen


@pytest.fixture
def run(start_training, tmp_path):
    """`run(settings, **more)` trains on two processes and returns their exit codes."""

    def run(settings: dict, **more) -> set[int]:
        processes = start_training(settings, processes=2, **more)
        for process in processes:
            process.join(120)
        return {process.exitcode for process in processes}

    return run


@pytest.fixture
def settings(training_settings, tokenizer_folder):
    return {**training_settings, "num_hidden_layers": 2, "tokenizer": str(tokenizer_folder), "max_steps": 4}


@pytest.mark.parametrize(
    ("name", "kind", "processes"),
    [("cpu", "NO", 1), ("gpu", "NO", 1), ("ddp", "MULTI_GPU", 8), ("fsdp2", "FSDP", 8)],
)
def test_launch_files_say_what_accelerate_understands(name, kind, processes):
    config = load_config_from_file(str(LAUNCH_FILES / f"{name}.yaml"))
    assert config.distributed_type == DistributedType(kind) and config.num_processes == processes
    assert config.use_cpu == (name == "cpu")
    assert {path.stem for path in LAUNCH_FILES.glob("*.yaml")} == {"cpu", "gpu", "ddp", "fsdp2"}


def test_sharded_weights_learn_what_whole_ones_do(run, settings, sharding, tmp_path, read_metrics, same_weights):
    sharded, whole = ({**settings, "output_dir": str(tmp_path / name)} for name in ("sharded", "whole"))
    for one in (sharded, whole):
        one |= {"validation_split": "validation", "validation_steps": 2, "checkpointing_steps": 2}
    assert run(sharded, sharding=sharding) == {0}
    assert run(whole) == {0}
    checkpoint = Path(sharded["output_dir"], "checkpoint-2")
    assert len(list((checkpoint / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2  # a file of each process

    for ours, theirs in zip(read_metrics(sharded["output_dir"]), read_metrics(whole["output_dir"]), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    ours, theirs = (load_file(Path(one["output_dir"], "model.safetensors")) for one in (sharded, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
    pipe = RandARPipeline.from_pretrained(Path(sharded["output_dir"], "pipeline"))
    assert type(pipe.transformer) is RandARForCausalLM and pipe.transformer.generation_config.order == "random"
    assert Path(sharded["output_dir"], "previews", "step-4.png").is_file()
    for one in (sharded, whole):
        exported = export_run(one["output_dir"], tmp_path / "exported", "last", overwrite=True)
        assert same_weights(exported / "transformer", one["output_dir"])

    again = {**sharded, "output_dir": str(tmp_path / "again")}
    Path(again["output_dir"]).mkdir()
    checkpoint.rename(Path(again["output_dir"], checkpoint.name))
    Path(sharded["output_dir"], "run.json").rename(Path(again["output_dir"], "run.json"))
    assert run(again, sharding=sharding) == {0}  # goes on from the checkpoint
    assert same_weights(sharded["output_dir"], again["output_dir"])


def test_a_sharded_step_without_a_finite_gradient_is_skipped(run, settings, sharding, read_metrics):
    assert run({**settings, "mixed_precision": "bf16"}, sharding=sharding, nan_at=NAN_AT) == {0}
    lines = read_metrics(settings["output_dir"])
    assert [line["skipped_steps"] for line in lines if "loss" in line] == [0, 0, 1, 1]
    assert lines[NAN_AT - 1]["gradient_norm"] is None
    tensors = load_file(Path(settings["output_dir"], "model.safetensors"))
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema_decay": 0.9}, "`ema_decay` must be None where processes share the weights .FSDP., got 0.9"),
        ({"lora_rank": 2, "pretrained_model": "nowhere"}, "`lora_rank` must be None where .*, got 2"),
        ({"optimizer": "muon"}, "`optimizer` must be 'adamw' where .*, got 'muon'"),
    ],
)
def test_what_needs_the_whole_model_is_refused(settings, monkeypatch, change, message):
    monkeypatch.setattr(Accelerator, "is_fsdp2", True)
    with pytest.raises(ValueError, match=message):
        train(TrainingConfig(**settings, **change))
    assert not Path(settings["output_dir"]).exists()


def test_weights_that_are_shared_in_another_way_are_refused(settings, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match="`distributed_type` must be NO, MULTI_GPU or FSDP .*, got DEEPSPEED"):
        train(TrainingConfig(**settings))
    assert not Path(settings["output_dir"]).exists()
