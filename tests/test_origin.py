"""Which generator of a file was taken, and what is unusual there, is told wherever it is used."""

import json
import re
import string

import pytest
import torch
from playwright.sync_api import expect

from nada.__main__ import main
from nada.checkpoint import read_generator
from nada.delta import Delta
from nada.facts import generator_facts
from nada.formats.metadata import write_metadata
from nada.formats.remarks import REMARKS
from nada.serve.view import taken, texts
from tests.api import adapt, connect, told_info
from tests.basicsr_files import basicsr_state
from tests.helpers import tiny_generator
from tests.nvidia_files import nvidia_generator, snapshot
from tests.page import fits, visits
from tests.served import serve_app, tiny_models


def nvidia_state(generator) -> dict:
    return nvidia_generator(generator).state_dict()


UNUSUAL = [
    "it has no mean latent, which is computed from 4096 z",
    "features are cut off at ± 2.5, as NVIDIA's program does",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """NVIDIA's pickle of a generator without a mean, whose features are cut off."""
    top = nvidia_generator(tiny_generator())
    del top.mapping.w_avg
    for module in top.modules():
        if "Layer" in module.class_name:
            module.conv_clamp = 2.5
    path = tmp_path_factory.mktemp("odd") / "snapshot.pkl"
    path.write_bytes(snapshot(top))
    return path


@pytest.fixture(scope="module")
def odd_server(odd, clip_tiny):
    _, _, *clip = tiny_models(odd.parent, clip_tiny)
    with serve_app(odd.parent, "--generator", str(odd), *clip) as running:
        yield running


@pytest.mark.slow
def test_info_and_the_domains_of_a_server_tell_it(odd, odd_server, capsys):
    assert main(["info", str(odd), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["used"].startswith("a PyTorch file with NVIDIA's G_ema: ")
    assert facts["unusual"] == UNUSUAL
    said = told_info(odd_server)
    assert (said["used"], said["unusual"]) == (facts["used"], UNUSUAL)
    client = connect(odd_server)
    *_, file = adapt(client, steps=1)
    client.close()
    told = {"name": odd.name, "used": facts["used"], "unusual": UNUSUAL}
    assert Delta.load(file).metadata["generator"] == told


def test_the_command_lines_domains_tell_it(odd, clip_tiny, tmp_path, capsys):
    _, _, *clip = tiny_models(tmp_path, clip_tiny)
    out = tmp_path / "d.safetensors"
    run = "--target zombie --steps 1 --batch 1 --k 1 --device cpu".split()
    assert main(["adapt", "--generator", str(odd), *clip, *run, "--out", str(out)]) == 0
    assert main(["domain", "--generator", str(odd), str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["generator"]
    assert told["name"] == odd.name and told["unusual"] == UNUSUAL


@pytest.mark.slow
def test_the_page_tells_it_in_both_languages(browser, odd_server):
    with visits(browser, odd_server) as visit:
        page = visit()
        file = page.locator("#taken")
        expect(file).to_contain_text("Generator file: a PyTorch file with NVIDIA's G_ema: ")
        expect(file).to_contain_text("Unusual: " + "; ".join(UNUSUAL))
        russian = visit(400, locale="ru-RU").locator("#taken")
        expect(russian).to_contain_text(
            "Файл генератора: файл PyTorch, взято G_ema в именах NVIDIA"
        )
        expect(russian).to_contain_text(re.compile(r"Необычно: .*4096 z; .*± 2\.5"))
        assert fits(russian.page)


def test_what_is_usual_is_no_remark(tmp_path):
    torch.save(
        {"g_ema": tiny_generator().state_dict(), "latent_avg": torch.zeros(16)}, tmp_path / "g"
    )
    _, origin = read_generator(tmp_path / "g")
    assert json.loads(taken(origin)) == {
        "used": [{"key": "named", "values": {"format": "PyTorch", "name": "'g_ema'"}}],
        "unusual": [],
    }


NASTY = "\x1b[31m{0}{name}\ud800<b>\u202e" + "x" * 150


@pytest.mark.parametrize("names", [lambda g: g.state_dict(), basicsr_state, nvidia_state])
def test_names_in_a_file_do_nothing_where_they_are_shown(tmp_path, capsys, names):
    torch.save({NASTY: names(tiny_generator()), f"{NASTY}.frozen": {}}, tmp_path / "g.pt")
    _, origin = read_generator(tmp_path / "g.pt")
    facts = generator_facts("g.pt", origin)
    assert json.loads(write_metadata(facts)) == facts
    assert taken(origin).encode() and len(facts["generator"]["used"]) < 300
    assert main(["info", str(tmp_path / "g.pt")]) == 0
    assert not set("\x1b\ud800\u202e") & set(capsys.readouterr().out)


@pytest.mark.parametrize("key", REMARKS)
def test_each_remark_is_said_in_russian_with_the_same_values(key):
    english, russian = (texts("components")[language][f"remark_{key}"] for language in ("en", "ru"))
    assert english == REMARKS[key] and re.search("[а-я]", russian)
    assert fields(english) == fields(russian) and len(fields(english)) <= 4


def fields(words: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(words) if name)
