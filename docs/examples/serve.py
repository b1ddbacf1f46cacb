"""
A small HTTP server: requests wait in one queue and are decoded together, in batches.

    python serve.py [MODEL] [PORT]
    curl "localhost:8000/image?label=three&seed=0" --output three.png
"""

import io
import queue
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import torch

from randar_hf import demo_checkpoint
from randar_hf.pipelines import RandARPipeline


MAX_BATCH, MAX_WAITING, SECONDS, MAX_SEED = 16, 256, 120, 2**32 - 1


class Batcher:
    """Decodes what waits in its queue, up to `MAX_BATCH` images at once, in a thread of its own."""

    def __init__(self, pipe: RandARPipeline):
        self.pipe, self.batch_sizes = pipe, []
        self.waiting: queue.Queue[tuple[int, int, Future]] = queue.Queue(MAX_WAITING)
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, class_id: int, seed: int) -> Future:
        """The image to come; raises `queue.Full` if too many wait already."""
        future: Future = Future()
        self.waiting.put_nowait((class_id, seed, future))
        return future

    def _work(self):
        while True:
            requests = [self.waiting.get()]
            while len(requests) < MAX_BATCH and not self.waiting.empty():
                requests.append(self.waiting.get())
            requests = [request for request in requests if request[2].set_running_or_notify_cancel()]
            if requests:
                self._decode(*zip(*requests, strict=True))

    def _decode(self, class_ids: tuple[int, ...], seeds: tuple[int, ...], futures: tuple[Future, ...]):
        """One call of the pipeline. With a generator per image none depends on what it is batched with."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        try:
            images = self.pipe(list(class_ids), generator=generators).images
        except Exception as error:  # whatever it is, those who wait must be told
            for future in futures:
                future.set_exception(error)
            return
        self.batch_sizes.append(len(images))
        for future, image in zip(futures, images, strict=True):
            future.set_result(image)


class Handler(BaseHTTPRequestHandler):
    """Answers `GET /image?label=...&seed=...` with a PNG; a server is given its `batcher`."""

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path != "/image":
            return self.answer(404, b"There is only /image?label=...&seed=...\n")
        try:
            class_id, seed = self.read(parse_qs(url.query))
            image = self.server.batcher.submit(class_id, seed)
        except ValueError as error:
            return self.answer(400, f"{error}\n".encode())
        except queue.Full:
            return self.answer(503, b"Too many requests are waiting: try again later.\n")
        try:
            data = io.BytesIO()
            image.result(timeout=SECONDS).save(data, "PNG")
        except WaitedTooLong:
            image.cancel()
            return self.answer(504, b"The image took too long.\n")
        except Exception as error:
            return self.answer(500, f"{error}\n".encode())
        self.answer(200, data.getvalue(), "image/png")

    def read(self, query: dict[str, list[str]]) -> tuple[int, int]:
        """The class and the seed that are asked for; raises a `ValueError` that says what is wrong."""
        label, seed = query.get("label", [""])[0], query.get("seed", ["0"])[0]
        if not seed.isdecimal() or int(seed) > MAX_SEED:
            raise ValueError(f"`seed` must be a whole number from 0 to {MAX_SEED}, got {seed!r}.")
        label = int(label) if label.isdecimal() else label
        pipe = self.server.batcher.pipe
        (class_id,) = pipe.get_label_ids([label])
        if class_id >= pipe.transformer.config.num_classes:
            raise ValueError(f"`label` must be below {pipe.transformer.config.num_classes}, got {class_id}.")
        return class_id, int(seed)

    def answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Write no line for each request."""


class Server(ThreadingHTTPServer):
    """A thread per connection, and one more that decodes."""

    request_queue_size, daemon_threads = 128, True

    def __init__(self, pipe: RandARPipeline, port: int = 8000):
        pipe.set_progress_bar_config(disable=True)
        self.batcher = Batcher(pipe)
        super().__init__(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    model, port = (sys.argv[1:] + [demo_checkpoint(), "8000"][len(sys.argv) - 1 :])[:2]
    Server(RandARPipeline.from_pretrained(model), int(port)).serve_forever()
