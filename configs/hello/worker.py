"""A worker with a bug: it does its rounds against the api and crashes in about every tenth."""

import random
import time
from urllib.request import urlopen

print("worker: at work", flush=True)
for number in range(1, 1_000_000):
    time.sleep(1)
    with urlopen("http://api:8000/healthz", timeout=5) as response:
        print(f"worker: round {number}: the api says {response.read().decode().strip()}", flush=True)
    if random.random() < 0.1:
        raise RuntimeError("worker: a bug that shows now and then")
