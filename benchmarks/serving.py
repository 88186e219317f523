"""Compare `relearn serve` with a bare loop of Pillow and onnxruntime over the same photos: images a second, latency.

    python benchmarks/serving.py MODEL FOLDER [N_IMAGES]

The loop reads, decodes and resizes each file with Pillow, and runs the model with one image. For the throughput two
threads do that, each with a session of one thread. For the latency one thread does, with a session on all cores.
The clients run in a process of their own, on the same cores. All parts take turns, and the medians of the rounds are
compared, so that other work on the machine hits all of them alike. The last table is of the model alone: does a batch
gain anything over single images in as many threads as there are cores?
"""

import io
import multiprocessing
import re
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from relearn.images.decoding import RESIZE_FILTERS
from relearn.inference.exported import MODEL, read_export_record
from relearn.runtime.threads import count_threads
from relearn.serving.running import make_server, open_socket
from relearn.serving.settings import Settings

N_ROUNDS = 5
N_CLIENTS = 8


def serve_forever(folder: Path, listening: socket.socket):
    make_server(folder, Settings()).run(sockets=[listening])


class Loop:
    """What an answer takes without a server."""

    def __init__(self, folder: Path, n_threads: int, *, spins: bool = True):
        self.record = read_export_record(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
        self.session = onnxruntime.InferenceSession(folder / MODEL, options, providers=["CPUExecutionProvider"])

    def answer(self, content: bytes):
        """Decode, resize, run."""
        size_px = self.record.image_size_px
        with Image.open(io.BytesIO(content)) as image:
            if self.record.jpeg_draft:
                image.draft(None, (size_px, size_px))
            rgb = image.convert("RGB").resize((size_px, size_px), RESIZE_FILTERS[self.record.resize_filter])
        return self.session.run(["probabilities"], {"image": np.asarray(rgb)[None]})


class Client:
    """One connection, kept. It reads the socket itself, because Python's `http.client` takes 0.2 ms a request."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self, content: bytes):
        """Send, receive."""
        head = (
            f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}"
        )
        self.socket.sendall(head.encode() + b"\r\n\r\n" + content)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        n_bytes = int(re.search(rb"\r\ncontent-length: ([0-9]+)", head)[1])
        while len(body) < n_bytes:
            body += self._receive()

    def _receive(self):
        received = self.socket.recv(1 << 16)
        assert received
        return received


def time_each(answer, contents):
    """Return the seconds of each answer."""
    seconds = []
    for content in contents:
        start = time.perf_counter()
        answer(content)
        seconds.append(time.perf_counter() - start)
    return seconds


def time_all(askers, contents):
    """Return the images a second of several threads, each with an asker of its own; each takes the next image."""
    with ThreadPoolExecutor(len(askers)) as executor:
        waiting = iter(contents)
        start = time.perf_counter()
        list(executor.map(lambda asker: time_each(asker.answer, waiting), askers))
        return len(contents) / (time.perf_counter() - start)


def measure_clients(port, contents, pipe):
    """Answer `one` with the seconds of each request of one client, a number of clients with their images a second."""
    time_each(Client(port).answer, contents[:20])
    while (wanted := pipe.recv()) is not None:
        clients = [Client(port) for _ in range(wanted)]
        pipe.send(time_each(clients[0].answer, contents) if wanted == 1 else time_all(clients, contents))


def measure_batches(loop: Loop):
    """Print the images a second of the model alone: single images in one or all threads, and batches."""
    size_px, n_threads = loop.record.image_size_px, count_threads()
    image = np.random.default_rng(0).integers(0, 256, (1, size_px, size_px, 3), np.uint8)

    def run(batch, n_callers):
        inputs = {"image": np.repeat(image, batch, axis=0)}
        n_runs = 64 // batch
        with ThreadPoolExecutor(n_callers) as executor:
            start = time.perf_counter()
            list(executor.map(lambda _: loop.session.run(["probabilities"], inputs), range(n_runs)))
            return n_runs * batch / (time.perf_counter() - start)

    ways = {"one image at a time": (1, 1), f"single images in {n_threads} threads": (1, n_threads)}
    ways |= {f"batches of {batch}": (batch, 1) for batch in (2, 4, 8)}
    rounds = [[run(*way) for way in ways.values()] for _ in range(2 * N_ROUNDS)]
    print("\n| the model alone | images/s |\n|---|---|")
    for name, *found in zip(ways, *rounds, strict=True):
        print(f"| {name} | {statistics.median(found):.0f} |")
    print()


def measure_start(folder: Path, contents):
    """Return the seconds of the imports alone, those until the server answers, and its memory after 400 requests."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import onnxruntime, fastapi"], check=True)
    imports_s = time.perf_counter() - start
    start = time.perf_counter()
    command = [sys.executable, "-m", "relearn", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    port = int(re.search(r":(\d+) answers", process.stderr.readline())[1])
    start_s = time.perf_counter() - start
    time_all([Client(port) for _ in range(N_CLIENTS)], list(islice(cycle(contents), 400)))
    n_kilobytes = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])
    process.kill()
    process.wait()
    return imports_s, start_s, n_kilobytes / 1024


def main():
    folder, photos = map(Path, sys.argv[1:3])
    n_images = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in islice(cycle(files), n_images)]
    listening = open_socket("127.0.0.1", 0)
    fork = multiprocessing.get_context("fork")
    server = fork.Process(target=serve_forever, args=(folder, listening), daemon=True)
    server.start()
    ours, theirs = fork.Pipe()
    client = fork.Process(target=measure_clients, args=(listening.getsockname()[1], contents, theirs), daemon=True)
    client.start()
    alone, pair = Loop(folder, count_threads()), [Loop(folder, 1) for _ in range(2)]
    still = Loop(folder, count_threads(), spins=False)
    for loop in (alone, still):
        time_each(loop.answer, contents[:20])

    theirs.close()

    def ask(wanted):
        ours.send(wanted)
        return ours.recv()

    rounds = []
    for _ in range(N_ROUNDS):
        loop, without, one = time_each(alone.answer, contents), time_each(still.answer, contents), ask(1)
        rounds.append([
            *(1000 * np.quantile(times, q) for q in (0.5, 0.99) for times in (loop, without, one)),
            len(contents) / sum(loop), len(contents) / sum(one), time_all(pair, contents), ask(N_CLIENTS),
        ])  # fmt: skip
        print(" ".join(f"{value:.1f}" for value in rounds[-1]), file=sys.stderr)
    medians = map(statistics.median, zip(*rounds, strict=True))
    p50, p50_still, p50_server, p99, p99_still, p99_server, alone_s, one_s, pair_s, many_s = medians
    print(f"{len(contents)} answers a round, medians of {N_ROUNDS} rounds, {count_threads()} cores\n")
    print("| | bare loop | relearn serve | ratio |\n|---|---|---|---|")
    print(f"| one client, p50 | {p50:.1f} ms | {p50_server:.1f} ms | {p50_server / p50:.2f} |")
    print(f"| one client, p99 | {p99:.1f} ms | {p99_server:.1f} ms | {p99_server / p99:.2f} |")
    print(f"| p50, a loop whose threads do not spin | {p50_still:.1f} ms | | {p50_server / p50_still:.2f} |")
    print(f"| p99, a loop whose threads do not spin | {p99_still:.1f} ms | | {p99_server / p99_still:.2f} |")
    print(f"| one client | {alone_s:.0f} images/s | {one_s:.0f} images/s | {one_s / alone_s:.2f} |")
    print(
        f"| {N_CLIENTS} clients, one loop | {alone_s:.0f} images/s | {many_s:.0f} images/s | {many_s / alone_s:.2f} |"
    )
    clients = f"{N_CLIENTS} clients, two loops at once"
    print(f"| {clients} | {pair_s:.0f} images/s | {many_s:.0f} images/s | {many_s / pair_s:.2f} |")
    print(f"\n{N_CLIENTS} clients: {many_s / one_s:.2f} times one client.")
    client.kill()
    server.kill()
    measure_batches(still)
    starts = [measure_start(folder, contents) for _ in range(3)]
    imports_s, start_s, n_mebibytes = map(statistics.median, zip(*starts, strict=True))
    print(f"Start: {start_s:.1f} s, {start_s / imports_s:.1f} times `import onnxruntime, fastapi` ({imports_s:.1f} s).")
    print(f"Memory after 400 requests of {N_CLIENTS} clients: {n_mebibytes:.0f} MiB.")


if __name__ == "__main__":
    main()
