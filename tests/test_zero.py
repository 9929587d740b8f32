"""A Space with shared GPUs, by a stand-in for its package: the work goes to other processes."""

import re

import pytest
from gradio_client import handle_file
from PIL import Image
from playwright.sync_api import expect

from nada.checkpoint import load_generator
from nada.delta import Delta, blend
from nada.sample import sample
from nada.serve.images import page_grid
from tests.api import LONG, adapt, connect, same, started
from tests.helpers import equal
from tests.page import adapt as page_adapt
from tests.page import begin_long, reload, visits
from tests.served import ROOT, serve


@pytest.fixture(scope="module")
def zero(tmp_path_factory, clip_tiny):
    environment = {"SPACES_ZERO_GPU": "1", "PYTHONPATH": str(ROOT / "tests" / "standin")}
    folder = tmp_path_factory.mktemp("zero")
    with serve(folder, clip_tiny, "--keep", "600", environment=environment) as server:
        yield server


@pytest.fixture(scope="module")
def client(zero):
    visitor = connect(zero)
    yield visitor
    visitor.close()


def test_runs_and_pictures_are_those_of_a_plain_server(client, zero, server):
    file = adapt(client)[2]
    plain = connect(server)
    other = Delta.load(adapt(plain)[2])
    plain.close()
    assert equal(Delta.load(file).tensors, other.tensors)
    picture = client.predict(seeds="1-4", domain_file=handle_file(file), api_name="/sample")
    base = load_generator(zero.log.parent / "generator.safetensors")
    expected = sample(blend(base, [(Delta.load(file), 1.0)]), [1, 2, 3, 4])
    assert same(Image.open(picture), page_grid(expected, 4))
    said = zero.log.read_text()
    assert re.search(r"GPU train for \d+ s", said) and "GPU draw_images for 15 s" in said
    assert client.predict(api_name="/info")["device"] == "a GPU lent for each run"


def test_a_cancelled_run_gives_the_device_back(client):
    job = client.submit(**LONG, api_name="/adapt")
    started(job)
    job.cancel()
    assert adapt(client, target="zombie")[1]["state"] == "finished"


def test_errors_come_back_as_sentences(client, tmp_path):
    Delta("0" * 64, {}, {}).save(tmp_path / "strange.safetensors")
    with pytest.raises(Exception, match="made from another generator"):
        client.predict(
            seeds="1", domain_file=handle_file(tmp_path / "strange.safetensors"), api_name="/sample"
        )


@pytest.mark.slow
def test_a_reload_loses_neither_run_nor_domains(browser, zero):
    with visits(browser, zero) as visit:
        page = visit()
        page_adapt(page, 4, "zombie")
        begin_long(page)
        reload(page)
        expect(page.locator(".run.running")).to_contain_text(re.compile(r"step \d{2,}/2000"))
        page.keyboard.press("Escape")
        expect(page.locator(".card")).to_have_count(2)
