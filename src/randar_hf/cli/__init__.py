"""The command line, `randar-hf`: one module per command, which imports what it needs when it runs."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Annotated

import typer
from typer.core import TyperCommand

from randar_hf import __version__
from randar_hf.extras import missing_package

from . import (
    bench,
    classify,
    convert,
    correspondence,
    demo,
    evaluate,
    evaluate_inpainting,
    export,
    extrapolate,
    generate,
    inpaint,
    outpaint,
    probe,
    sample,
    space,
    sweep,
    tokenize,
    train,
    train_tokenizer,
)
from .interrupts import acknowledging
from .options import from_fields
from .recipes import RecipeCommand


COMMANDS = {
    "Images": (
        demo.demo,
        generate.generate,
        inpaint.inpaint,
        outpaint.outpaint,
        extrapolate.extrapolate,
        space.space,
    ),
    "Training": (train_tokenizer.train_tokenizer, tokenize.tokenize, train.train),
    "Models": (export.export, convert.convert, bench.bench),
    "Evaluation": (
        sample.sample,
        evaluate.evaluate,
        sweep.sweep,
        probe.probe,
        correspondence.correspondence,
        classify.classify,
        evaluate_inpainting.evaluate_inpainting,
    ),
}

EVALUATION, TRAINING = (
    {function.__name__.replace("_", "-") for function in COMMANDS[panel]} for panel in ("Evaluation", "Training")
)

app = typer.Typer(name="randar-hf", no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version", is_eager=True)] = False,
):
    """Autoregressive image generation in any order."""
    if version:
        typer.echo(f"randar-hf {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _answering_errors(name: str, function: Callable) -> Callable:
    """A command that tells wrong input in one line on stderr."""

    @wraps(function)
    def command(**values):
        try:
            if name in TRAINING:
                from randar_hf.memory import check_libraries_fit  # psutil takes time to import

                check_libraries_fit()
            with acknowledging(name) if name in TRAINING else nullcontext():
                function(**values)
        except ModuleNotFoundError as error:
            extra = "space" if name == "space" else "evaluation" if name in EVALUATION else "training"
            _fail(f"{name}: error: {missing_package(error, extra)}", 2)
        except (ValueError, TypeError, OSError, RecursionError) as error:  # the last of files nested without end
            _fail(f"{name}: error: {error}", 2)
        except (MemoryError, ImportError) as error:
            if isinstance(error, ImportError) and "failed to map segment" not in str(error):
                raise
            _fail(f"{name}: error: there is too little memory, or room for addresses (`ulimit -v`): {error!r}", 2)

    return command


def _fail(message: str, code: int):
    typer.echo(f"randar-hf {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


for _panel, _functions in COMMANDS.items():
    for _function in _functions:
        _name = _function.__name__.replace("_", "-")
        _class = RecipeCommand if _panel == "Training" else TyperCommand
        app.command(_name, cls=_class, rich_help_panel=_panel)(_answering_errors(_name, from_fields(_function)))


def main(arguments: list[str] | None = None) -> int:
    """
    Run `randar-hf`.

    Args:
        arguments (`list[str]`, *optional*): the words of the command line; `sys.argv` by default.

    Returns:
        `int`: 0 on success; after one line on stderr 2 for wrong input, 130 for Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments, prog_name="randar-hf", standalone_mode=False) or 0
    except KeyboardInterrupt:  # before or after typer could take it
        code = 130
    except typer.TyperException as error:  # of the words themselves
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "randar-hf"
        print(f"{command}: error: {' '.join(error.format_message().split())}", file=sys.stderr)
        return error.exit_code
    if code == 130:  # also before the command itself had begun
        sys.stderr.write(f"{' '.join(['randar-hf', *words[:1]])}: interrupted\n")
    return code
