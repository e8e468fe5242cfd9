"""The logger is killed under load, again and again: no byte is lost, doubled or moved.

The same check must catch two variants that look as good: one that reads and writes, and one that copies with tee and
consumes what it copied once that is on disk.
"""

import ctypes
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.launch import logger
from tests.kernel.logger.rig import Output, Rig, flooding

SEGMENT = 1 << 20


def write_until(stop: int, output: Output, seed: int, result: int) -> None:
    """In a child: write bursts to both streams until told to stop, then tell what was written."""
    chance = random.Random(seed)
    block = chance.randbytes(1 << 16)
    hashes, sizes = [hashlib.sha256(), hashlib.sha256()], [0, 0]
    os.set_blocking(stop, False)
    for count in range(1 << 30):
        try:
            os.read(stop, 1)
            break
        except BlockingIOError:
            pass
        stream = chance.random() < 0.3
        start = chance.randrange(len(block) - 1)
        burst = b"%d " % count + block[start : start + chance.choice((3, 80, 80, 1000, 20000))] + b"\n"
        hashes[stream].update(burst)
        sizes[stream] += len(burst)
        while burst:
            burst = burst[os.write(output.writers[stream], burst) :]
        if chance.random() < 0.01:
            time.sleep(0.001)
    told = [(size, digest.hexdigest()) for size, digest in zip(sizes, hashes, strict=True)]
    os.write(result, json.dumps(told).encode())


def survive(root: Path, kills: int, main: Callable[[int], int] = logger.main) -> bool:
    """Kill the logger of three busy containers so many times; whether every byte is where it should be."""
    chance = random.Random(kills)
    with Rig(root, main) as rig:
        outputs = [rig.output(f"c{number}", SEGMENT, 100_000) for number in range(3)]
        results, writers = [os.pipe() for _ in outputs], []
        stop, stopper = os.pipe()
        for seed, (output, (_, result)) in enumerate(zip(outputs, results, strict=True)):
            pid = os.fork()
            if not pid:
                try:
                    write_until(stop, output, seed, result)
                finally:
                    os._exit(0)
            writers.append(pid)
        rig.start()
        for _ in range(kills):
            time.sleep(chance.expovariate(1 / 0.02))
            rig.kill()
            # One in three dies while it adopts.
            hurry = chance.random() < 1 / 3
            rig.start(wait=not hurry)
            if hurry:
                time.sleep(chance.uniform(0, 0.005))
                rig.kill()
                rig.start()
        os.write(stopper, b"." * len(outputs))
        wanted: list[list[Any]] = [json.loads(os.read(result, 1000)) for result, _ in results]
        for pid in writers:
            os.waitpid(pid, 0)
        for fd in (stop, stopper, *(fd for pipe in results for fd in pipe)):
            os.close(fd)
        for output in outputs:
            rig.flush(output)
        exact = all(
            [[len(data), hashlib.sha256(data).hexdigest()] for data in map(output.kept, (0, 1))] == told
            and well_indexed(output)
            for output, told in zip(outputs, wanted, strict=True)
        )
    if exact:
        shutil.rmtree(root)  # hundreds of megabytes that nobody needs to look at
    return exact


def well_indexed(output: Output) -> bool:
    """Every record holds, times never decrease, and every byte has its record."""
    records = output.records()
    times = [record.time_ns for record in records if record]
    return None not in records and times == sorted(times) and output.unindexed() == 0


def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    assert survive(tmp_path, 15)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_hundreds_of_kills_lose_nothing(tmp_path: Path) -> None:
    assert survive(tmp_path, 250)


@pytest.mark.parametrize("max_files", [1, 3])
def test_kills_while_segments_come_and_go_keep_the_cap_and_no_hole(tmp_path: Path, max_files: int) -> None:
    chance = random.Random(max_files)
    with Rig(tmp_path) as rig:
        output = rig.output(max_size=20_000, max_files=max_files)
        with flooding(output.out):
            for _ in range(30):
                rig.start()
                time.sleep(chance.uniform(0.002, 0.02))
                rig.kill()
                assert sum(path.stat().st_size for path in tmp_path.glob("web/*")) <= 20_000 * max_files
        rig.start()
        rig.flush(output)
        assert well_indexed(output)
        counts = [int(line) for line in output.kept(0).split(b"\n")[1:-1]]
        assert counts == list(range(counts[0], counts[0] + len(counts)))
        assert len(counts) > 500


# Negative controls


class ReadThenWrite(logger._Stream):
    """What a logger without splice does: the bytes are in its memory for a moment."""

    def fill(self) -> int | None:
        data = os.read(self.source, 65536)
        return os.write(self.staging_write, data) if data else 0


class TeeThenConsume(logger._Stream):
    """Copies first and consumes when the copy is on disk: for a while the bytes are in both places."""

    def fill(self) -> int | None:
        if COPIED.get(self.source):
            return None
        copied: int = ctypes.CDLL(None).tee(self.source, self.staging_write, ctypes.c_size_t(logger.CHUNK), 2)
        COPIED[self.source] = copied
        return copied if copied >= 0 else None


COPIED: dict[int, int] = {}


class Consuming(logger._Container):
    def store(self) -> None:
        super().store()
        for stream in self.streams:
            if (copied := COPIED.pop(stream.source, 0)) > 0:
                os.read(stream.source, copied)


@pytest.mark.parametrize(
    "variant", [{"_Stream": ReadThenWrite}, {"_Stream": TeeThenConsume, "_Container": Consuming}], ids=["read", "tee"]
)
def test_the_check_catches_variants_that_lose_or_double(
    variant: dict[str, type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chance decides whether one kill hits the moment; a hundred of them would never all miss it."""
    for name, kind in variant.items():
        monkeypatch.setattr(logger, name, kind)
    for attempt in range(7):
        root = tmp_path / str(attempt)
        root.mkdir()
        if not survive(root, 15):
            return
    pytest.fail("no kill was caught")
