"""The app over HTTP: its endpoints, its limits, and what each visitor gets."""

import asyncio
import io
import json
import os
import socket
import time
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio.components.image_editor import EditorData
from gradio.data_classes import FileData
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image

from randar_hf.space import launch_app
from randar_hf.space.components import MAX_BYTES, MaskEditor, read_upload
from randar_hf.space.files import keep_file


ENDPOINTS = {"/generate", "/edit", "/extend", "/enlarge", "/understand", "/show_order"}


def save(image, path):
    image.save(path)
    return handle_file(str(path))


def generate(client, classes, count=1, seed=0, steps=4):
    return client.predict(classes, count, seed, 2.0, "raster", steps, 0, api_name="/generate")


def pixels(path):
    path = path["path"] if isinstance(path, dict) else path
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_endpoints_are_documented(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == ENDPOINTS
    for endpoint in endpoints.values():
        assert all(parameter["label"] for parameter in endpoint["parameters"])


def test_generate_gives_the_images_of_the_seeds(client, app_pipe, images_of):
    sheet, png, gif, images, code = generate(client, [1, 2], count=2, seed=11)
    expected = images_of(
        app_pipe,
        [1, 2],
        range(11, 15),
        num_images_per_prompt=2,
        guidance_scale=2.0,
        order="raster",
        num_inference_steps=4,
    )
    assert len(images) == 4
    for found, image in zip(images, expected, strict=True):
        assert np.array_equal(pixels(found["image"]), np.asarray(image))
    assert images[3]["caption"] == f"{app_pipe.id2label[2].split(',')[0]}, seed 14"
    assert np.array_equal(pixels(sheet), pixels(png)) and pixels(sheet).shape[0] == 2 * expected[0].height + 2
    assert Path(gif).read_bytes()[:4] == b"GIF8" and "range(11, 15)" in code


def test_images_are_streamed(client, monkeypatch):
    monkeypatch.setattr("randar_hf.space.studio.PREVIEW_FRACTION", 1000)  # however little of the time is decoding
    job = client.submit([0], 1, 0, 2.0, "raster", 16, 0, api_name="/generate")
    job.result()
    assert len(job.outputs()) > 4


def test_edit_keeps_what_is_not_under_the_mask(client, tmp_path):
    width, height = 32, 24  # of its own: the mask is brought to the tokens, the pixels come back
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    mask = Image.new("L", image.size)
    mask.paste(255, (width // 2, 0, width, height))
    arguments = save(image, tmp_path / "image.png"), save(mask, tmp_path / "mask.png")
    answers, slider = client.predict(*arguments, 1, 0, 2.0, api_name="/edit")
    assert len(answers) == 4 and len(slider) == 2
    for answer in answers:
        found = pixels(answer["image"])
        assert np.array_equal(found[:, : width // 2], np.asarray(image)[:, : width // 2])
        assert not np.array_equal(found[:, width // 2 :], np.asarray(image)[:, width // 2 :])


def test_the_other_tasks_answer(client, tmp_path):
    image = Image.new("RGB", (16, 16), "white")
    wide = client.predict(save(image, tmp_path / "i.png"), 0, 8, 0, 0, 0, 0, api_name="/extend")
    assert pixels(wide).shape == (16, 24, 3) and (pixels(wide)[:, 8:] == 255).all()
    shown = client.predict(0, 2, 1.5, 0, True, ["the trained size"], 0, api_name="/enlarge")
    assert [pixels(entry["image"]).shape[1] for entry in shown] == [32, 16]
    bars, once, twice = client.predict(save(image, tmp_path / "i.png"), [], 1, 0, api_name="/understand")
    assert bars.count('class="bar"') == 10 and "of 12 classes" in bars
    assert pixels(once).shape == (4, 4, 3) and not np.array_equal(pixels(once), pixels(twice))
    film = client.predict("spiral_out", 8, api_name="/show_order")
    assert Image.open(film).n_frames == 8


def test_tools_of_mcp(app):
    """They are listed with a description of each argument, and run."""

    async def use():
        url = f"{app.local_url}gradio_api/mcp/"
        async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = (await session.list_tools()).tools
            answer = await session.call_tool("show_order", {"name": "raster", "steps": 4})
            return {tool.name: tool for tool in tools}, answer

    tools, answer = asyncio.run(use())
    assert {f"/{name}" for name in tools} == ENDPOINTS and not answer.isError
    properties = tools["generate"].inputSchema["properties"]
    assert properties["seed"]["description"].startswith("seed of the first image")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is a text", "no image that can be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "no image that can be read"),
        (None, "too large: 4096 x 4096 pixels"),
    ],
)
def test_wrong_uploads_are_explained(client, tmp_path, content, message):
    path = tmp_path / "photo.png"
    path.write_bytes(content) if content else Image.new("1", (4096, 4096)).save(path)
    with pytest.raises(AppError, match=message) as error:
        client.predict(handle_file(str(path)), [], 1, 0, api_name="/understand")
    assert "/" not in str(error.value).replace("image/", "")  # no path of the server


def test_files_too_large_are_refused(app, tmp_path):
    files = {"files": ("photo.png", io.BytesIO(bytes(MAX_BYTES + 1)), "image/png")}
    assert httpx.post(f"{app.local_url}gradio_api/upload", files=files).status_code == 413
    (tmp_path / "large.png").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(gr.Error, match="too large: 8.0 MiB"):
        read_upload(str(tmp_path / "large.png"))


def test_wrong_settings_are_explained(client):
    with pytest.raises(AppError, match="No class is chosen"):
        generate(client, [])


def test_no_image_and_no_mask_are_explained(client, tmp_path):
    image = save(Image.new("RGB", (16, 16)), tmp_path / "image.png")
    for arguments, message in (
        ((None, None, 0, 0, 2.0), "There is no image yet"),
        ((image, None, 0, 0, 2.0), "Nothing is painted"),
        ((image, image, 0, 0, 2.0), "Nothing is painted"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(*arguments, api_name="/edit")
    with pytest.raises(AppError, match="No side is extended"):
        client.predict(image, 0, 0, 0, 0, 0, 0, api_name="/extend")


def test_files_of_the_server_stay_there(client, tmp_path):
    """Only what was uploaded is read, whatever path a client names."""
    url = f"{client.src}gradio_api/call/understand"
    Image.new("RGB", (16, 16)).save(tmp_path / "secret.png")
    payload = {"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(url, json={"data": [payload, [], 1, 0]}).json()["event_id"]
    answer = httpx.get(f"{url}/{event}", timeout=60).text
    assert "event: error" in answer and "event: complete" not in answer
    assert httpx.get(f"{client.src}gradio_api/file={tmp_path / 'secret.png'}").status_code == 403


def test_a_model_of_one_order_says_what_it_cannot(launched, rar_pipe, images_of):
    app = launched(rar_pipe)
    client = Client(app.local_url, verbose=False)
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == ENDPOINTS - {
        "/edit",
        "/extend",
        "/enlarge",
    }
    texts = [block["props"].get("value") for block in app.config["components"] if block["type"] == "markdown"]
    assert sum("Not with this model" in text for text in texts) == 2
    _, _, _, images, code = client.predict(classes=[3], count=1, seed=5, guidance=4.0, api_name="/generate")
    rar_pipe.set_progress_bar_config(disable=True)
    assert np.array_equal(pixels(images[0]["image"]), np.asarray(images_of(rar_pipe, [3], [5], guidance_scale=4.0)[0]))
    assert (
        images[0]["caption"] == "class 3, seed 5" and "RARPipeline" in code and "[3]" in code and "order" not in code
    )


def test_a_lossless_window_gives_the_images_of_one_token_a_step(client, app_pipe, images_of):
    images = client.predict([2], 1, 5, 2.0, "spiral_in", 3, 4, api_name="/generate")[3]
    settings = {"guidance_scale": 2.0, "order": "spiral_in", "num_inference_steps": 16}
    assert np.array_equal(pixels(images[0]["image"]), np.asarray(images_of(app_pipe, [2], [5], **settings)[0]))


def test_a_port_in_use_is_named():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(ValueError, match=f"`port` must be one that can be listened on, got {port}: "):
            launch_app(gr.Interface(str, "text", "text"), port=port, prevent_thread_lock=True, quiet=True)


def test_one_file_for_one_content(cache):
    image = Image.new("RGB", (3, 3), "red")
    first, changed = keep_file(image), keep_file(Image.new("RGB", (3, 3), "blue"))
    written = os.stat(first).st_ino
    assert keep_file(image) == first != changed and os.stat(first).st_ino == written
    assert len(list(Path(first).parent.iterdir())) == 1


def test_old_files_are_removed(launched, pipe, cache, monkeypatch):
    monkeypatch.setattr("randar_hf.space.app.DELETE_CACHE", (1, 1))
    client = Client(launched(pipe).local_url, verbose=False, download_files=False)
    path = Path(generate(client, [0], seed=99)[3][0]["image"]["path"])
    assert path.is_file() and path.is_relative_to(cache)
    deadline = time.monotonic() + 20
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not path.exists()


def test_no_file_of_another_host_is_asked_for(app):
    """The page works without the rest of the net: neither fonts nor scripts come from elsewhere."""
    config = httpx.get(f"{app.local_url}config").json()
    assert config["stylesheets"] == [] or not any("//" in sheet for sheet in config["stylesheets"])
    assert "fonts.googleapis" not in json.dumps(config)


def test_specks_that_an_eraser_leaves_are_not_painted(tmp_path):
    strokes = np.zeros((512, 512, 4), dtype=np.uint8)
    strokes[100:140, 300:512] = strokes[200:203, 300:400] = (230, 0, 126, 255)  # a broad and a narrow brush
    expected = strokes[..., 3].copy()
    strokes[100:102, 20:200:3] = strokes[138, :200] = (230, 0, 126, 255)
    Image.fromarray(strokes).save(tmp_path / "layer.png")
    Image.new("RGB", (512, 512), "white").save(tmp_path / "background.png")
    files = [FileData(path=str(tmp_path / f"{name}.png")) for name in ("background", "layer")]
    mask = MaskEditor(type="pil").preprocess(EditorData(background=files[0], layers=files[1:], composite=None))
    assert np.array_equal(np.asarray(mask), expected)
