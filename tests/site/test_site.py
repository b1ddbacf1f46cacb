"""The site of the documentation: built strictly, every link checked, and opened in Chromium."""

import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pytest
from playwright.sync_api import expect


pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
GROUPS = ("Use", "Train", "Understand", "Reference")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` does; a warning fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The site on a server of its own."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class Page(HTMLParser):
    """What a page links to and shows, and the anchors that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[key] for key in ("id", "name") if key in attributes}
        self.links += [attributes[key] for key in ("href", "src") if attributes.get(key)]


def test_every_link_and_anchor_leads_somewhere(site):
    pages = {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 60
    checked = 0
    for name, page in pages.items():
        for link in page.links if name != "404.html" else ():
            target = urlsplit(urljoin(f"http://site/{name}", link))
            if target.netloc != "site" or target.scheme != "http":
                continue
            path = unquote(target.path).lstrip("/")
            path = f"{path}index.html" if path.endswith("/") or not path else path
            assert (site / path).is_file(), f"{name} links to {link}"
            assert not target.fragment or unquote(target.fragment) in pages[path].anchors, f"{name} links to {link}"
            checked += 1
    assert checked > 5000


def public_names(package: str) -> set[str]:
    """All that a package names as public, or, for one module, all its own functions without a leading underscore."""
    module = import_module(package)
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == package and name[0] != "_"
    ]
    return {name for name in names if not isinstance(getattr(module, name), ModuleType)}


def test_every_public_name_has_signature_and_source(site):
    packages = ["randar_hf", *(f"randar_hf.{name}" for name in ("pipelines", "training", "conversion", "evaluation"))]
    packages += [f"randar_hf.{name}" for name in ("space", "orders", "schedules", "vq")]
    names = set().union(*(public_names(package) for package in packages))
    assert len(names) > 50
    pages = {package: (site / "api" / package / "index.html").read_text() for package in packages}
    sections = [
        part for page in pages.values() for part in re.split(r'<h2 id="[\w.]+" class="doc doc-heading">', page)
    ]
    found = {re.sub(r"<[^>]+>", "", part.split("</h2>")[0]).replace("¶", "").split()[0]: part for part in sections[1:]}
    for name in names:
        assert name in found, name
        assert "doc-signature" in found[name] and ">Source: randar_hf" in found[name], name
    assert "of shape (B,)" in found["RandARForCausalLM"]


def test_the_site_in_the_browser(address, open_url, keep):
    page = open_url(address)
    tabs = [text.strip() for text in page.locator(".md-tabs__item").all_inner_texts()]
    assert tabs == ["Documentation", *GROUPS]
    page.keyboard.press("/")
    page.locator("[data-md-component=search-query]").fill("spatial guidance")
    first = page.locator(".md-search-result__item a").first
    expect(first).to_contain_text("uidance")
    first.click()
    expect(page.locator("h1")).to_be_visible()
    page.goto(address + "gallery/")
    images = page.locator("article img")
    assert images.count() >= 7
    widths = images.evaluate_all("images => images.map(image => image.naturalWidth)")
    assert all(width > 100 for width in widths)
    followed = page.evaluate(
        """() => [...document.querySelectorAll('article img')].map(image => {
            let next = image.closest("p");
            while (next && !next.matches('.highlight, h2')) next = next.nextElementSibling;
            return next?.matches('.highlight') ?? false })"""
    )
    assert all(followed)  # the code under each image
    assert keep(page, "site-gallery").std() > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_light_and_dark_wide_and_narrow(address, open_url, keep, scheme, width):
    page = open_url(address, width=width, color_scheme=scheme)
    for name in ("", "gallery/", "api/randar_hf/", "command-line/"):
        page.goto(address + name)
        pixels = keep(page, f"site-{scheme}-{width}-{name.strip('/').replace('/', '-') or 'index'}", full_page=False)
        assert (np.median(pixels[..., :3]) < 100) == (scheme == "dark"), name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
