"""The command line, `randar-hf`."""

import argparse
import sys

from .image_commands import TYPES, add_image_commands, check_output


class Parser(argparse.ArgumentParser):
    """A parser that answers wrong input with one line and exit code 2."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """
    Run `randar-hf`.

    Args:
        arguments (`list[str]`, *optional*): the words of the command line; `sys.argv` by default.

    Returns:
        `int`: 0 on success; after one line on stderr 2 for wrong input, 130 for Ctrl-C.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not hasattr(options, "training_command"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        options.run(options, rest)
    except (ValueError, TypeError, FileNotFoundError) as error:
        print(f"randar-hf {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"randar-hf {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> Parser:
    parser = Parser(prog="randar-hf", description="Autoregressive image generation in any order.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    demo = commands.add_parser("demo", help="show on one picture what the shipped model can do")
    demo.add_argument("--output", default="demo.png", help="picture to write (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    demo.set_defaults(run=_demo)

    add_image_commands(commands)

    sample = commands.add_parser("sample", help="draw the images that a model is evaluated on")
    _add_sample_options(sample)
    sample.set_defaults(run=_sample)

    convert = commands.add_parser("convert", help="turn published files, or a pipeline, into the folder of a pipeline")
    _add_convert_options(convert)
    convert.set_defaults(run=_convert)

    bench = commands.add_parser("bench", help="measure speed and memory with random weights")
    _add_bench_options(bench)
    bench.set_defaults(run=_bench)

    for name, help_text in (
        ("train-tokenizer", "train an image tokenizer"),
        ("tokenize", "turn a data set of images into a data set of tokens"),
        ("train", "train RandAR or RAR on a data set of tokens"),
    ):
        training = commands.add_parser(name, help=help_text, add_help=False)
        training.set_defaults(run=_train, training_command=name)
    return parser


def _add_sample_options(parser: argparse.ArgumentParser):
    parser.add_argument("--output-dir", required=True, help="folder to write, or that of the run to go on with")
    parser.add_argument("--model", help="folder or Hub name of a pipeline (default: the shipped digits)")
    parser.add_argument("--num-images", type=int, default=50_000, help="images in all (default: %(default)s)")
    parser.add_argument("--classes", default="balanced", help="balanced or random (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images that a process draws at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="decoding steps, up to one per token")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--guidance-schedule", help="linear, constant or power_cosine")
    parser.add_argument("--guidance-power", type=float, help="exponent of the schedule power_cosine")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--order", help="name of a decoding order")
    parser.add_argument("--dtype", choices=TYPES, default="float32")
    parser.add_argument("--device", help="a torch device (default: what accelerate finds, one for each process)")
    parser.add_argument("--no-npz", action="store_true", help="leave out samples.npz")


def _add_convert_options(parser: argparse.ArgumentParser):
    parser.add_argument("checkpoint", help="published file of a RandAR, LlamaGen or RAR model, or a pipeline's folder")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--tokenizer", help="published file of the image tokenizer; needed for a file")
    parser.add_argument("--num-attention-heads", type=int, help="heads (default: as wide as in published models)")
    parser.add_argument("--grid-size", type=int, help="tokens per side (default: the published file's, or 16)")
    parser.add_argument("--class-names", help="text file with a name a line, or JSON (default: ImageNet's for 1,000)")
    parser.add_argument("--merge-positions", action="store_true", help="merge RAR's two tables of positions into one")
    parser.add_argument("--with-code", action="store_true", help="add the code, to load without randar_hf")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder of a pipeline")


def _add_bench_options(parser: argparse.ArgumentParser):
    parser.add_argument("--model-type", default="randar", help="randar or rar (default: %(default)s)")
    parser.add_argument("--size", default="demo", help="B, L, XL, XXL or demo (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, help="decoding steps (default: RandAR 88, RAR one per token)")
    parser.add_argument("--guidance-scale", type=float, help="1 turns guidance off (default: RandAR 4, RAR by size)")
    parser.add_argument("--dtype", choices=TYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--grid-size", type=int, nargs=2, help="rows and columns of tokens (default: the trained ones)"
    )
    parser.add_argument("--known-tokens", type=int, default=0, help="tokens of each image that are given")
    parser.add_argument("--runs", type=int, default=3, help="timed runs, or steps of training, after the warm-up")
    parser.add_argument("--train", action="store_true", help="measure steps of training instead of generation")
    parser.add_argument("--compile", action="store_true", help="with --train: compile the model")
    parser.add_argument(
        "--no-activation-checkpointing", action="store_true", help="with --train: keep all activations in memory"
    )
    parser.add_argument(
        "--gradient-accumulation-steps", type=int, help="with --train: micro-steps that share the images (default: 1)"
    )
    parser.add_argument("--published", metavar="DIR", help="with --train: the published repository, timed in turn")


def _demo(options: argparse.Namespace, rest: list[str]):
    output = check_output(options.output, options.overwrite)
    from .demo import draw_demo

    draw_demo(options.seed).save(output)
    print(f"wrote {output}")


def _sample(options: argparse.Namespace, rest: list[str]):
    from accelerate import PartialState

    from .sample import sample_images

    folder = sample_images(
        options.model,
        options.output_dir,
        num_images=options.num_images,
        classes=options.classes,
        batch_size=options.batch_size,
        seed=options.seed,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        guidance_schedule=options.guidance_schedule,
        guidance_power=options.guidance_power,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        order=options.order,
        dtype=options.dtype,
        device=options.device,
        write_npz=not options.no_npz,
    )
    state = PartialState()
    if state.is_main_process:
        print(f"wrote {folder}")
    state.destroy_process_group()


def _convert(options: argparse.Namespace, rest: list[str]):
    from .convert import convert_checkpoint

    folder = convert_checkpoint(
        options.checkpoint,
        options.tokenizer,
        options.output,
        num_attention_heads=options.num_attention_heads,
        grid_size=options.grid_size,
        class_names=options.class_names,
        with_code=options.with_code,
        overwrite=options.overwrite,
        merge_positions=options.merge_positions,
    )
    print(f"wrote {folder}")


def _bench(options: argparse.Namespace, rest: list[str]):
    shared = {name: getattr(options, name) for name in ("size", "batch_size", "dtype", "device", "runs", "model_type")}
    generation = {name: getattr(options, name) for name in ("steps", "guidance_scale", "grid_size", "known_tokens")}
    training = ("compile", "no_activation_checkpointing", "gradient_accumulation_steps", "published")
    training = {name: getattr(options, name) for name in training}
    for name, value in (generation if options.train else training).items():
        if value:
            option, rule = f"--{name.replace('_', '-')}", "not go with" if options.train else "go with"
            raise ValueError(f"`{option}` must {rule} `--train`, got {value!r}.")
    if options.train:
        _bench_training(shared, training)
        return
    from .bench import measure

    generation["num_inference_steps"] = generation.pop("steps")
    for name, value in measure(**shared, **generation).items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _bench_training(shared: dict, training: dict):
    try:
        from .bench_training import format_training, measure_training
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install 'randar-hf[training]' brings it.") from error
    training["activation_checkpointing"] = not training.pop("no_activation_checkpointing")
    given = {name: value for name, value in training.items() if value is not None}
    print(format_training(measure_training(**shared, **given)))


def _train(options: argparse.Namespace, rest: list[str]):
    from . import training

    functions = {"train-tokenizer": "train_tokenizer", "tokenize": "tokenize_images", "train": "train"}
    try:
        function = getattr(training, functions[options.training_command])
        from .training.recipe_files import parse_settings
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install 'randar-hf[training]' brings it.") from error
    function(parse_settings(options.training_command, rest))


if __name__ == "__main__":
    sys.exit(main())
