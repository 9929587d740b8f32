"""A generator of FFHQ's size: how it loads, and the whole way from the Hub to an adapted one."""

import hashlib
from pathlib import Path

import pytest

from tests.hub_client import HubWorker
from tests.hub_server import Repo, cut, running_hub
from tests.loading import ffhq_shaped, measured_apart, write

pytestmark = pytest.mark.slow
FILE = "stylegan2-ffhq-config-f.pt"


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("large") / "zip.pt"
    generator = ffhq_shaped()
    write(generator, path)
    write(generator, path.with_name("nvidia.pkl"))
    write(generator, path.with_name("tensorflow.pkl"))
    write(generator, path.with_name("basicsr.pth"))
    return path


@pytest.mark.parametrize("name", ["zip.pt", "nvidia.pkl", "tensorflow.pkl", "basicsr.pth"])
def test_loading_takes_seconds_and_less_than_twice_the_weights(large, name):
    told = measured_apart(large.with_name(name))
    assert told["weights"] > 4 * 30_370_060
    assert told["ratio"] < 2, told
    assert told["seconds"] < 60, told  # some two on a machine with nothing else to do


@pytest.mark.timeout(900)  # 1024 pixels on a busy processor
def test_ffhq_from_the_hub_loads_samples_and_adapts(large, tmp_path):
    contents = large.read_bytes()
    with running_hub() as hub:
        name = "akhaliq/OneshotCLIP-stylegan2-ffhq"
        hub.repos[name] = Repo({FILE: contents}, {"data": [cut]})
        with HubWorker(tmp_path, hub.url) as worker:
            told = worker.call("whole_way", source="ffhq", piece=10 << 20)
    assert told["sha256"] == hashlib.sha256(contents).hexdigest()
    assert int(hub.requests(name)[1]["range"][6:-1]) > 50_000_000, "it went on where it was cut"
    assert told["shape"] == [1, 3, 1024, 1024] and told["spread"] > 0.01
    assert told["steps"] == 2 and told["changed"] == ["convs.15"]
