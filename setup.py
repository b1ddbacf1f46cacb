"""Packaging: the folders `pipelines`, `training` and `conversion` install as sub-packages of `randar_hf`."""

import re
from pathlib import Path

from setuptools import setup


HOME = "https://github.com/randar-hf/randar-hf"  # where the repository is published; see docs/releasing.md

TRAINING = [
    "accelerate>=1.15",
    "datasets>=5.2",
    "matplotlib>=3.10",
    "peft>=0.21",
    "pyyaml>=6.0",
    "tensorboard>=2.21",
]
EVALUATION = ["datasets>=5.2", "evaluate>=0.4.6", "matplotlib>=3.10"]
# gradio 6.31 takes no pillow 13.
SPACE = ["gradio>=6.31,<7", "mcp>=1.21,<2"]
TEST = [
    "ipykernel>=7.0",
    "nbclient>=0.10",
    "playwright>=1.65",
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "resvg-py>=0.5",
    "torchao>=0.18",
]
DOCS = ["matplotlib>=3.10", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0"]
ICONS = ["resvg-py>=0.5"]


def long_description() -> str:
    """The README with links and figures that lead to the repository, so that they work on a package index."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:)", rf"\g<1>{HOME}/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^\]]*\]\()(?!\w+:|#)", rf"\g<1>{HOME}/blob/main/", text)


setup(
    name="randar-hf",
    version="0.1.0",
    description="Random-order autoregressive image generation (RandAR) for transformers and diffusers",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=HOME,
    project_urls={
        "Documentation": f"{HOME}/blob/main/docs/index.md",
        "Changelog": f"{HOME}/blob/main/CHANGELOG.md",
        "Issues": f"{HOME}/issues",
    },
    author="The randar_hf authors",
    keywords=["autoregressive", "diffusers", "image generation", "RandAR", "transformers"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    package_dir={
        "": "src",
        "randar_hf": "src/randar_hf",
        "randar_hf.pipelines": "pipelines",
        "randar_hf.training": "training",
        "randar_hf.conversion": "conversion",
    },
    packages=[
        "randar_hf",
        "randar_hf.cli",
        "randar_hf.evaluation",
        "randar_hf.space",
        "randar_hf.pipelines",
        "randar_hf.training",
        "randar_hf.training.data",
        "randar_hf.training.icons",
        "randar_hf.conversion",
    ],
    package_data={
        "randar_hf": ["py.typed", "checkpoints/**/*.json", "checkpoints/**/*.safetensors", "checkpoints/**/README.md"],
        "randar_hf.conversion": ["imagenet_classes.txt"],
        "randar_hf.evaluation": ["modules/*/*"],
        "randar_hf.training": ["launch/*.yaml", "recipes/*.yaml"],
    },
    include_package_data=False,
    install_requires=[
        "accelerate>=1.15",
        "diffusers>=0.42,<0.43",
        "filelock>=3.20",
        "huggingface_hub>=2.4",
        "numpy>=2.0",
        "pillow>=11.0",
        "psutil>=6.0",
        "safetensors>=0.8",
        "torch>=2.6",
        "transformers>=5.23,<6",
        "typer>=0.29",
    ],
    extras_require={
        "training": TRAINING,
        "evaluation": EVALUATION,
        "space": SPACE,
        "test": TEST,
        "docs": DOCS,
        "icons": sorted({*ICONS, *TRAINING}),
        "dev": sorted({*TRAINING, *EVALUATION, *SPACE, *TEST, *DOCS, *ICONS, "mypy>=1.18", "ruff>=0.14"}),
    },
    entry_points={"console_scripts": ["randar-hf = randar_hf.cli:main"]},
)
