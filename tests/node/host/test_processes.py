"""The processes of a host: what their environment switches off."""

import json
import os
import subprocess
import sys

from limn.node.host.processes import ENVIRONMENT

# As the scheduler's and the worker's process see it.
PAGES = """
import asyncio, json, urllib.error, urllib.request
from distributed import Scheduler, Worker

def status(port, page):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

async def main():
    options = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with (
        Scheduler(port=0, **options) as scheduler,
        Worker(scheduler.address, **options) as worker,
    ):
        found = {}
        for server in (scheduler, worker):
            for page in ("/health", "/metrics", "/json/identity.json", "/info/main/workers.html"):
                found[f"{server.id} {page}"] = await asyncio.to_thread(
                    status, server.http_server.port, page
                )
        print(json.dumps(found))

asyncio.run(main())
"""


def test_dask_shows_no_pages():
    """Its HTTP port stays open on loopback and answers no user of the host."""
    answered = subprocess.run(
        [sys.executable, "-c", PAGES],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    found = json.loads(answered.stdout.splitlines()[-1])
    assert len(found) == 8
    assert set(found.values()) == {404}
