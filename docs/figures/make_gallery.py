"""Write the images of docs/gallery.md anew, by running its code.

python docs/figures/make_gallery.py [FOLDER]
"""

import os
import re
import sys
from pathlib import Path


PAGE = Path(__file__).parents[1] / "gallery.md"


def main(folder: Path):
    """Run the page's blocks of Python in order, in the folder where its images lie."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    names: dict = {"__name__": "__main__"}
    for code in blocks:
        exec(code, names)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("gallery"))
