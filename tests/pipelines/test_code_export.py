"""Folders that load where the package is not installed."""

import json
import os
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline

from randar_hf.pipelines import RandARPipeline, RARPipeline, save_with_code


WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["randar_hf"] = None  # as if it were not installed
import torch
from diffusers import DiffusionPipeline
from transformers import AutoModelForCausalLM
generator = torch.Generator()
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
    tokens = pipe(["tench", 4], generator=generator.manual_seed(0), output_type="latent").images
    image = pipe("tench", generator=generator.manual_seed(0), output_type="np").images
    model = AutoModelForCausalLM.from_pretrained(folder, subfolder="transformer", trust_remote_code=True)
    same = model.generate([0, 4], generator=generator.manual_seed(0))
    print(json.dumps({"tokens": tokens.tolist(), "same": same.tolist(), "mean": float(image.mean())}))
"""


def test_folders_with_code_need_no_package(pipe, rar_pipe, tmp_path):
    pipes = {str(tmp_path / "randar"): pipe, str(tmp_path / "rar"): rar_pipe}
    for folder, each in pipes.items():
        save_with_code(each, folder)
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, *pipes]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    for line, each in zip(result.stdout.splitlines()[-2:], pipes.values(), strict=True):
        found = json.loads(line)
        expected = each([0, 4], generator=torch.Generator().manual_seed(0), output_type="latent").images
        image = each(0, generator=torch.Generator().manual_seed(0), output_type="np").images
        assert found["tokens"] == found["same"] == expected.tolist()
        assert found["mean"] == pytest.approx(float(image.mean()))


def test_code_runs_only_if_trusted(pipe, tmp_path):
    save_with_code(pipe, tmp_path / "export")
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path / "export", custom_pipeline="pipeline")


def test_saving_without_the_code_is_refused(pipe, tmp_path):
    save_with_code(pipe, tmp_path / "export")
    again = RandARPipeline.from_pretrained(tmp_path / "export", trust_remote_code=True)
    with pytest.raises(ValueError, match="`save_pretrained` would leave the code behind"):
        again.save_pretrained(tmp_path / "copy")
    save_with_code(again, tmp_path / "copy")
    assert (tmp_path / "copy" / "transformer" / "modeling_randar.py").exists()


def test_copies_of_classes_are_told_apart_by_their_kind(rar_pipe, tmp_path):
    save_with_code(rar_pipe, tmp_path / "export")
    assert not (tmp_path / "export" / "pipeline_randar.py").exists()
    again = RARPipeline.from_pretrained(tmp_path / "export", trust_remote_code=True)
    assert type(again.transformer).__module__ == "diffusers_modules.local.modeling_rar"
    assert type(again.transformer) is not type(rar_pipe.transformer)
    with pytest.raises(ValueError, match="`transformer` must be a RandARForCausalLM"):
        RandARPipeline.from_pipe(again)
    save_with_code(again, tmp_path / "copy")
    for name in ("transformer/rar.py", "pipeline.py", "modeling_rar.py"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "export" / name).read_bytes()
    config = json.loads((tmp_path / "copy" / "transformer" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_rar.RARConfig",
        "AutoModel": "modeling_rar.RARModel",
        "AutoModelForCausalLM": "modeling_rar.RARForCausalLM",
    }


def test_the_card_says_how(pipe, tmp_path):
    save_with_code(pipe, tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert 'subfolder="transformer", trust_remote_code=True' in card and "import randar_hf" not in card


def test_wrong_input(pipe, tmp_path):
    with pytest.raises(TypeError, match="`pipeline` must be a pipeline of randar_hf, got str"):
        save_with_code("pipe", tmp_path / "export")
    with pytest.raises(TypeError, match="`save_directory` must be a path, got None"):
        save_with_code(pipe, None)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="`save_directory` must be empty or new"):
        save_with_code(pipe, tmp_path)
