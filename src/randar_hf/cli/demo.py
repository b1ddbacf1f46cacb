"""`randar-hf demo`."""

from .images import check_output
from .options import Output, Overwrite


def demo(output: Output = "demo.png", seed: int = 0, overwrite: Overwrite = False):
    """Show on one sheet what the shipped model can do."""
    path = check_output(output, overwrite)
    from .demo_sheet import draw_demo

    draw_demo(seed).save(path)
    print(f"wrote {path}")
