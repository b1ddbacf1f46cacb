"""Trackers: which there are, and what they are told."""

from pathlib import Path

import accelerate.tracking
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType

from randar_hf.training import TokenizerTrainingConfig, TrainingConfig, train, train_tokenizer


@pytest.fixture
def told(monkeypatch):
    """What trackers named wandb and trackio are told, by name; their packages count as installed."""
    told = {}

    def make_class(tracker_name: str):
        class Recorder(GeneralTracker):
            name = tracker_name
            requires_logging_directory = False
            main_process_only = True

            def __init__(self, run_name, **kwargs):
                super().__init__()
                told[tracker_name] = {"project": run_name, "arguments": kwargs, "lines": [], "finished": False}

            @property
            def tracker(self):
                return told[tracker_name]

            def store_init_configuration(self, values):
                told[tracker_name]["settings"] = values

            def log(self, values, step, **kwargs):
                told[tracker_name]["lines"].append((step, values))

            def finish(self):
                told[tracker_name]["finished"] = True

        return Recorder

    for name in ("wandb", "trackio"):
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, make_class(name))
    installed = [LoggerType.TENSORBOARD, LoggerType.WANDB, LoggerType.TRACKIO]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", installed)
    return told


def test_trackers_get_settings_and_all_that_is_logged(training_settings, told, read_metrics):
    names = "wandb, trackio,tensorboard"
    folder = train(TrainingConfig(**training_settings, report_to=names, validation_split="validation"))
    rows = [{key: row[key] for key in row if key not in ("step", "epoch")} for row in read_metrics(folder)]
    assert set(told) == {"wandb", "trackio"} and list(folder.rglob("events.out.tfevents.*"))
    for record in told.values():
        assert record["project"] == "randar" and record["arguments"] == {} and record["finished"]
        assert record["settings"]["learning_rate"] == 1e-2 and record["settings"]["report_to"] == names
        assert {type(value) for value in record["settings"].values()} <= {int, float, str, bool}
        lines = [{key: line[key] for key in line if not key.endswith("_per_second")} for _, line in record["lines"]]
        assert lines == rows and "validation_loss" in rows[-1]
        assert all("tokens_per_second" in line for _, line in record["lines"] if "loss" in line)


def test_the_tokenizer_has_trackers_too(image_folder, small_tokenizer_settings, tmp_path, told):
    settings = {**small_tokenizer_settings, "dataset": str(image_folder), "output_dir": str(tmp_path / "tokenizer")}
    train_tokenizer(TokenizerTrainingConfig(**settings, report_to="trackio"))
    record = told["trackio"]
    assert record["project"] == "randar-tokenizer" and record["settings"]["block_out_channels"] == "[4, 4, 4]"
    assert [step for step, _ in record["lines"]] == [2, 4]


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("all", "`report_to` must be 'none', one of .*'tensorboard'.*'wandb'.*, or several.*, got 'all'"),
        ("", "`report_to` must be 'none', one of .*, got ''"),
        ("tensorboard,none", "`report_to` must be 'none', one of .*, got 'tensorboard,none'"),
        ("tensorboard,wandb,aim", "`report_to` must be installed .pip install wandb aim., got 'tensor"),
    ],
)
def test_a_tracker_that_is_not_there_is_named_before_any_work(
    training_settings, image_folder, small_tokenizer_settings, tmp_path, monkeypatch, report_to, message
):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    with pytest.raises(ValueError, match=message):
        train(TrainingConfig(**training_settings, report_to=report_to))
    settings = {**small_tokenizer_settings, "dataset": str(image_folder), "output_dir": str(tmp_path / "tokenizer")}
    with pytest.raises(ValueError, match=message):
        train_tokenizer(TokenizerTrainingConfig(**settings, report_to=report_to))
    assert not Path(training_settings["output_dir"]).exists() and not (tmp_path / "tokenizer").exists()
