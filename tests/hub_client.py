"""The downloading process (tests/hub_worker.py) as the tests talk to it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.served import ROOT


class HubWorker:
    """The downloading process; `call` gives its answer as a dict."""

    def __init__(self, home: Path, endpoint: str):
        self.cache = home / "hub"
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        environment |= {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_token_of_the_tests",
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "stderr").open("w"),
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait(60) == 0

    def call(self, function: str, **arguments) -> dict:
        self.process.stdin.write(json.dumps({"call": function, **arguments}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert arguments.get("cancel") or "crash" not in answer, answer.get("crash")
        return answer

    def sentence(self, function: str, **arguments) -> str:
        """The one sentence that a call ends in."""
        answer = self.call(function, **arguments)
        error = answer.get("error", "")
        assert error.endswith(".") and "\n" not in error and len(error) < 400, answer
        return error

    def sound(self) -> bool:
        """Whether all in the cache is whole: contents by their checksums, and nothing half."""
        blobs = [p for p in self.cache.glob("*/blobs/*") if p.is_file()]
        names = {"sha256": 64, "sha1": 40}
        for blob in blobs:
            data = blob.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if blob.name not in (hashlib.sha256(data).hexdigest(), git):
                return False
            assert len(blob.name) in names.values()
        links = [p for p in self.cache.glob("*/snapshots/*/*") if not p.exists()]
        return not links
