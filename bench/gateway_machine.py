"""Gives the processes of the gateway's benches cores of their own, and waits until they answer."""

import os
import time

import httpx
import psutil


def pin(process, core):
    """Have all threads of a process run on one core."""
    psutil.Process(process).cpu_affinity([core])
    for thread in psutil.Process(process).threads():
        os.sched_setaffinity(thread.id, {core})


def wait_for(address):
    """Wait until something answers at an address."""
    while True:
        try:
            httpx.get(address, trust_env=False)
            return
        except httpx.TransportError:
            time.sleep(0.1)
