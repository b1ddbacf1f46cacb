"""The example server, with fifty clients at once."""

import io
import queue
import runpy
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from randar_hf.pipelines import RandARPipeline


FILE = Path(__file__).parents[1] / "docs" / "examples" / "serve.py"
CLIENTS = 50


@pytest.fixture
def server(model, vqvae, class_names):
    server = runpy.run_path(str(FILE))["Server"](RandARPipeline(model, vqvae, id2label=class_names), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, **query):
    """Status and body of an answer."""
    address = f"http://127.0.0.1:{server.server_port}/image?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(address, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_everyone_of_fifty_clients_gets_their_own_image(server):
    answers = {}
    names = ["tench", "sea snake"]

    def visit(seed):
        answers[seed] = ask(server, label=names[seed % 2], seed=seed)

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == CLIENTS and {status for status, _ in answers.values()} == {200}
    sizes = server.batcher.batch_sizes
    assert sum(sizes) == CLIENTS and max(sizes) <= 16 and len(sizes) < CLIENTS / 2  # they were decoded together
    for seed in range(0, CLIENTS, 7):
        alone = server.batcher.pipe(names[seed % 2], generator=torch.Generator().manual_seed(seed)).images[0]
        found = np.asarray(Image.open(io.BytesIO(answers[seed][1]))).astype(int)
        assert abs(found - np.asarray(alone).astype(int)).max() <= 1  # the decoder rounds by batch


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"label": "tenhc"}, "tench"),
        ({"label": "99"}, "`label` must be below 5, got 99"),
        ({"label": "0", "seed": "-1"}, "`seed` must be a whole number from 0"),
        ({"label": "0", "seed": "x"}, "`seed` must be a whole number from 0"),
    ],
)
def test_wrong_requests_are_answered_with_what_is_wrong(server, query, message):
    status, body = ask(server, **query)
    assert status == 400 and message in body.decode()


def test_too_many_are_told_to_come_again(server, monkeypatch):
    def is_full(*request):
        raise queue.Full

    monkeypatch.setattr(server.batcher, "submit", is_full)
    assert ask(server, label="0")[0] == 503
