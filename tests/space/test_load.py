"""Many visitors at once: everyone gets their own images, nobody is lost, and memory stays where it is."""

import random
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from gradio_client import Client
from PIL import Image


PATIENT = {"timeout": 60}  # seconds; a client gives up after 5, a browser later


class Visitor(threading.Thread):
    """Asks for images, one request after another, with seeds of its own, until the time is over."""

    def __init__(self, app, index, until):
        super().__init__()
        self.app, self.index, self.until = app, index, until
        self.images, self.errors, self.waits = {}, [], []

    def run(self):
        try:
            client, number = Client(self.app.local_url, verbose=False, httpx_kwargs=PATIENT), 0
            while not self.images or time.monotonic() < self.until:
                seed, began = 10_000 * self.index + number, time.monotonic()
                images = client.predict([self.index % 2], 1, seed, 2.0, "raster", 4, 0, api_name="/generate")[3]
                self.waits.append(time.monotonic() - began)
                self.images[seed] = np.asarray(Image.open(images[0]["image"]))
                number += 1
        except Exception as error:
            self.errors.append(error)


def visit(app, count, seconds):
    """So many visitors for so long, while others come, ask and leave without waiting."""
    until = time.monotonic() + seconds
    visitors = [Visitor(app, index, until) for index in range(count)]
    for visitor in visitors:
        visitor.start()
    while any(visitor.is_alive() for visitor in visitors):
        leaving = Client(app.local_url, verbose=False, httpx_kwargs=PATIENT)
        job = leaving.submit([0], 8, random.randrange(1000), 2.0, "raster", 16, 0, api_name="/generate")
        time.sleep(0.5)
        job.cancel()
        leaving.close()
        time.sleep(min(2, seconds / 4))
    return visitors


def check(visitors, pipe, images_of):
    assert not [error for visitor in visitors for error in visitor.errors]
    settings = {"guidance_scale": 2.0, "order": "raster", "num_inference_steps": 4}
    for visitor in visitors:
        for seed, image in list(visitor.images.items())[:3]:
            expected = images_of(pipe, [visitor.index % 2], [seed], **settings)[0]
            assert np.array_equal(image, np.asarray(expected)), f"visitor {visitor.index}, seed {seed}"


def test_visitors_at_once(app, app_pipe, images_of):
    check(visit(app, count=6, seconds=1), app_pipe, images_of)


@pytest.fixture
def served():
    """The app in a process of its own, so that its memory is not that of the visitors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = subprocess.Popen([sys.executable, "-m", "randar_hf", "space", "--port", str(port)])
    url = f"http://127.0.0.1:{port}/"
    for _ in range(120):
        try:
            urlopen(url).close()
            break
        except OSError:
            time.sleep(1)
    yield SimpleNamespace(local_url=url, process=psutil.Process(app.pid))
    app.terminate()
    app.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "seconds"), [(20, 60), (50, 300)])
def test_visitors_for_long(served, shipped, images_of, capsys, count, seconds):
    process = served.process
    visit(served, count, 10)  # what is made once
    before = process.memory_info().rss
    visitors = visit(served, count, seconds)
    grown = process.memory_info().rss - before
    waits = sorted(wait for visitor in visitors for wait in visitor.waits)
    with capsys.disabled():
        print(
            f"\n{count} visitors, {seconds} s: {len(waits)} requests, waits of {waits[len(waits) // 2]:.1f} s "
            f"(median) and {waits[-1]:.1f} s (longest), memory {grown / 2**20:+.0f} MiB"
        )
    shipped.set_progress_bar_config(disable=True)
    check(visitors, shipped, images_of)
    assert grown < 150 * 2**20
