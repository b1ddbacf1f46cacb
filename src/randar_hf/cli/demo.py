"""`randar-hf demo`."""

from randar_hf.outputs import check_output_file

from .images import SHEET_SUFFIXES
from .options import Output, Overwrite


def demo(output: Output = "demo.png", seed: int = 0, overwrite: Overwrite = False):
    """Show on one sheet what the shipped model can do."""
    path = check_output_file("--output", output, SHEET_SUFFIXES, overwrite)
    from .demo_sheet import draw_demo

    draw_demo(seed).save(path)
    print(f"wrote {path}")
