"""The app in Chromium: what a visitor sees, pixel by pixel."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect


pytestmark = pytest.mark.browser
TIMEOUT = 60_000
TABS = ("Generate", "Edit", "Extend and enlarge", "Understand")


@pytest.fixture(scope="module")
def app_pipe(shipped):
    return shipped


@pytest.fixture
def open_page(app, open_url):
    """A function that opens the app."""

    def open_app(**settings):
        page = open_url(app.local_url, **settings)
        page.wait_for_selector("#generate-run")
        return page

    return open_app


def go_to(page, tab):
    page.get_by_role("tab", name=tab, exact=True).click()


def until(page, condition):
    """Wait until a condition in Python holds."""
    for _ in range(TIMEOUT // 250):
        if condition():
            return
        page.wait_for_timeout(250)
    raise AssertionError("what was waited for did not come")


def choose_example(page):
    """Choose the first example of the tab, and wait until it is the image to work on."""
    page.locator("button.thumbnail-item:visible").first.click()
    expect(page.locator("[data-testid=image]:visible img").first).to_be_visible()


def shown(page, selector, count=1):
    """The pixels (H, W, 3) of so many images that the page shows, once they are loaded, as files of the server."""
    images = page.locator(f"{selector} img")
    expect(images).to_have_count(count, timeout=TIMEOUT)
    for index in range(count):
        page.wait_for_function(
            "image => image.complete && image.naturalWidth > 0", arg=images.nth(index).element_handle()
        )
    urls = [images.nth(index).get_attribute("src") for index in range(count)]
    found = [page.request.get(url).body() for url in urls]
    return [np.asarray(Image.open(io.BytesIO(body)).convert("RGB")) for body in found]


def choose(page, names):
    """Choose classes by typing their names."""
    field = page.locator("#generate-classes input")
    for name in names:
        field.fill(name)
        page.get_by_role("option", name=name, exact=True).click()


def names_of(pipe):
    return [name.split(",")[0] for name in pipe.id2label.values()]


def test_generate_two_classes(open_page, keep, shipped, images_of):
    page, names = open_page(), names_of(shipped)
    choose(page, names[3:4])
    page.click("#generate-run")
    images = shown(page, "#generate-images", 8)
    config = shipped.transformer.generation_config
    expected = images_of(
        shipped,
        [0, 3],
        range(8),
        num_images_per_prompt=4,
        guidance_scale=config.guidance_scale,
        num_inference_steps=min(config.num_inference_steps, shipped.transformer.config.num_tokens),
    )
    assert all(np.array_equal(found, np.asarray(image)) for found, image in zip(images, expected, strict=True))
    (sheet,) = shown(page, "#generate-sheet")
    height = np.asarray(expected[0]).shape[0]
    assert np.array_equal(sheet[-height:, :height], np.asarray(expected[4]))
    with page.expect_download() as download:
        page.get_by_text("Download GIF").click()
    assert Image.open(download.value.path()).n_frames > 1
    page.get_by_text("The same in Python").click()
    expect(page.locator(".cm-content")).to_contain_text(f"'{names[3]}'")
    assert keep(page, "generate").std() > 20


def paint(page, left=0.55, right=0.9):
    """Paint strokes over a part of the editor with the mouse."""
    canvas = page.locator("#edit-editor canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    centre, side = box["x"] + box["width"] / 2, box["height"] * 0.8
    for row in (0.3, 0.5, 0.7):
        y = box["y"] + box["height"] * row
        page.mouse.move(centre + (left - 0.5) * side, y)
        page.mouse.down()
        page.mouse.move(centre + (right - 0.5) * side, y, steps=12)
        page.mouse.up()


def seen(page):
    """The pixels of the editor as they are on the screen."""
    return np.asarray(Image.open(io.BytesIO(page.locator("#edit-editor").screenshot())).convert("RGB")).astype(int)


def test_edit_with_a_brush(open_page, keep):
    """What is painted becomes new; what is erased again, and the rest, stays; each answer can be compared."""
    page = open_page()
    go_to(page, "Edit")
    page.click("#edit-run")
    expect(page.get_by_text("There is no image yet")).to_be_visible()
    page.wait_for_selector("#edit-editor canvas")
    empty = seen(page)
    choose_example(page)
    until(page, lambda: not np.array_equal(seen(page), empty))
    page.click("#edit-run")
    expect(page.get_by_text("Nothing is painted").first).to_be_visible()
    clean = seen(page)

    def painted():
        return (abs(seen(page) - clean).sum(axis=2) > 100).sum()

    paint(page, left=0.1)
    until(page, lambda: painted() > 1000)
    strokes = painted()
    page.locator("#edit-editor button[aria-label='Erase']").click()
    paint(page, left=0.05, right=0.5)
    until(page, lambda: 0.2 * strokes < painted() < 0.8 * strokes)
    page.click("#edit-run")
    answers = shown(page, "#edit-answers", 4)
    original, edited = shown(page, "#edit-slider", 2)
    factor = len(original) // len(answers[0])
    source = original[::factor, ::factor]
    changed = np.stack([(answer != source).any(axis=2) for answer in answers]).any(axis=0)
    half = source.shape[1] // 2
    assert changed[:, half:].any() and not changed[:, : half // 2].any()
    assert np.array_equal(edited[::factor, ::factor], answers[0])
    other = next(i for i, answer in enumerate(answers) if not np.array_equal(answer, answers[0]))
    before = page.evaluate("() => document.querySelectorAll('#edit-slider img')[1].src")
    page.locator("#edit-answers button.thumbnail-item").nth(other).click()
    page.wait_for_function("before => document.querySelectorAll('#edit-slider img')[1].src !== before", arg=before)
    assert np.array_equal(shown(page, "#edit-slider", 2)[1][::factor, ::factor], answers[other])
    keep(page, "edit")


def test_extend_enlarge_and_understand(open_page, keep, shipped):
    page = open_page()
    go_to(page, TABS[2])
    choose_example(page)
    page.click("#extend-run")
    page.wait_for_selector("#extend-result img")
    page.click("#enlarge-run")
    enlarged = shown(page, "#enlarge-results", 3)
    factor, (rows, columns) = shipped.image_processor.config.vae_scale_factor, shipped.transformer.config.grid
    assert [image.shape[:2] for image in enlarged] == [(2 * rows * factor, 2 * columns * factor)] * 2 + [
        (rows * factor, columns * factor)
    ]
    (wide,) = shown(page, "#extend-result")
    assert wide.shape[1] == 2 * columns * factor and wide[:, : factor * columns // 4].std() > 0
    keep(page, "extend")
    go_to(page, TABS[3])
    choose_example(page)
    page.click("#understand-run")
    page.wait_for_selector("table.bars .bar")
    widths = page.locator("table.bars .bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert len(widths) == min(10, shipped.transformer.config.num_classes)
    assert widths == sorted(widths, reverse=True) and widths[0] > 100 > widths[-1]
    once, twice = shown(page, "#understand-once")[0], shown(page, "#understand-twice")[0]
    assert once.shape == (rows, columns, 3) and not np.array_equal(once, twice)
    page.click("#order-run")
    shown(page, "#order-film")
    keep(page, "understand")


def test_a_run_is_stopped_in_the_middle(open_page, shipped, monkeypatch):
    forward, passes = type(shipped.transformer).forward, []

    def slowly(self, *args, **kwargs):
        passes.append(1)
        time.sleep(0.15)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(shipped.transformer), "forward", slowly)
    page = open_page()
    page.click("#generate-run")
    (partial,) = shown(page, "#generate-sheet")
    page.click("#generate-stop")

    def is_quiet():
        before = len(passes)
        page.wait_for_timeout(1500)
        return before == len(passes)

    until(page, is_quiet)
    assert 0 < len(passes) < shipped.transformer.generation_config.num_inference_steps
    (left,) = shown(page, "#generate-sheet")
    grey = ((left == 127) | (left == 128)).all(axis=2).mean()
    assert grey > 0.1 and page.locator("#generate-images img").count() == 0


def test_a_text_is_no_image(open_page, keep, tmp_path):
    (tmp_path / "photo.png").write_text("this is a text")
    page = open_page()
    go_to(page, "Understand")
    page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(
        tmp_path / "photo.png"
    )
    page.wait_for_timeout(1500)
    page.click("#understand-run")
    expect(page.get_by_text("This file is no image that can be read").first).to_be_visible()
    keep(page, "text")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page, keep, scheme):
    """Nothing is wider than the screen, and the page is as dark as asked for."""
    page = open_page(width=390, height=844, color_scheme=scheme, has_touch=True)
    page.click("#generate-run")
    shown(page, "#generate-images", 4)
    for tab in TABS:
        if tab != TABS[0]:
            if page.get_by_role("tab", name=tab, exact=True).is_visible():
                go_to(page, tab)
            else:  # behind the button of tabs that do not fit
                page.locator(".overflow-menu > button").click()
                page.locator(".overflow-dropdown button", has_text=tab).click()
            page.wait_for_timeout(600)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        pixels = keep(page, f"phone-{scheme}-{tab.split()[0].lower()}")
        assert (np.median(pixels[..., :3]) < 100) == (scheme == "dark"), tab


def test_by_keyboard(open_page):
    """The button is reached by Tab, and pressed by Enter."""
    page = open_page()
    page.locator("#generate-classes input").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "generate-run":
            break
    assert page.evaluate("document.activeElement.id") == "generate-run"
    page.keyboard.press("Enter")
    shown(page, "#generate-images", 4)


def test_every_control_has_a_label(open_page):
    page = open_page()
    for tab in TABS:
        go_to(page, tab)
        page.wait_for_timeout(300)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('[role=tabpanel] input, [role=tabpanel] textarea')]
            .filter(e => e.offsetParent && e.type !== 'file' && !e.labels?.length && !e.ariaLabel && !e.title
                && !e.closest('label')).map(e => e.outerHTML)"""
        )
        assert not nameless, tab


def test_the_dice_changes_the_seed(open_page):
    page = open_page()
    seed = page.get_by_label("Seed").first
    assert seed.input_value() == "0"
    page.get_by_text("Roll the dice").first.click()
    page.wait_for_function("field => field.value !== '0'", arg=seed.element_handle())
    assert 0 < int(seed.input_value()) < 2**32
