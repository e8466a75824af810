"""The pipes of a worker are closed once: a second time would close what a thread has opened meanwhile."""

import os
import threading
from pathlib import Path

import uvloop
from support.worker_settings import SETTINGS

from rft_reward.worker_process import WorkerProcess

WORKERS = 5_000


def test_what_threads_open_stays_open_while_workers_end():
    lost, ended = [], threading.Event()

    def open_files():
        while not ended.is_set():
            descriptor = os.open(__file__, os.O_RDONLY)
            try:
                if not os.path.samestat(os.fstat(descriptor), own):
                    lost.append(descriptor)
                os.close(descriptor)
            except OSError:
                lost.append(descriptor)

    async def attach_and_end():
        for _ in range(WORKERS):
            worker = WorkerProcess(SETTINGS)
            ends = [os.pipe() for _ in range(3)]
            (far_requests, worker._requests), (worker._replies, far_replies), (worker._log, far_log) = ends
            await worker._attach(os.getpid())
            worker._attached.close()
            if lost:
                break
            for descriptor in (far_requests, far_replies, far_log):
                os.close(descriptor)
        return len(list(Path("/proc/self/fd").iterdir()))

    own = Path(__file__).stat()
    threads = [threading.Thread(target=open_files) for _ in range(2)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for thread in threads:
        thread.start()
    try:
        after = uvloop.run(attach_and_end())
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not lost
    assert after < before + WORKERS / 100, "the pipes of workers are closed"
