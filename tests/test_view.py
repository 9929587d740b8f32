"""What a page is told of a domain and of words, whoever wrote them."""

import json
from pathlib import Path

from nada.delta import BANDS
from nada.serve.domains import KeptDomain
from nada.serve.view import cards, word_list

FACTS = {
    "source": "photo", "target": "zombie", "steps_done": 60, "loss": 0.5, "quality": 0.625,
    "layers": ["conv1", "convs.0"], "method": "gradient", "k": 2, "started_from": "elf",
    "config": {"seed": 7, "batch": 8, "lr": 0.006},
    "guidance": {"directional": 1.0, "global_": 0.5, "in_domain": 0.0},
    "generator": {"name": "g.pt", "used": "a PyTorch file with 'g_ema'", "unusual": []},
}  # fmt: skip


def card(facts: dict) -> dict:
    (shown,) = json.loads(cards([KeptDomain("1", Path("a"), "b" * 64, facts)], []))
    return shown["facts"]


def test_a_card_tells_prompts_seed_settings_layers_measures_and_base():
    assert card(FACTS) == {
        "prompts": "photo → zombie",
        "seed": "7",
        "steps": "60",
        "settings": "k 2 · batch 8 · lr 0.006 · directional 1 · global 0.5 · gradient · from elf",
        "loss": "0.500",
        "quality": "0.625",
        "layers": "conv1, convs.0",
        "base": "b" * 12,
        "generator": "g.pt",
        "used": "a PyTorch file with 'g_ema'",
    }


def test_the_card_of_a_mix_tells_its_weights():
    mix = [{"weight": 0.5, "target": "zombie"}, {"weight": -0.25, "target": "elf"}]
    assert card({"blend": mix}) == {
        "prompts": "zombie + elf",
        "weights": "0.5 + -0.25",
        "base": "b" * 12,
    }
    mix[0]["by_resolution"] = {"coarse": 1.0, "middle": 0.5, "fine": 0.0}
    told = card({"blend": mix})
    assert [told[band] for band in BANDS] == ["1 + -0.25", "0.5 + -0.25", "0 + -0.25"]
    assert "weights" not in told
    mix[0]["by_resolution"] = {"coarse": 1.0, "nothing": 0.5}  # by anyone
    assert card({"blend": mix})["weights"] == "0.5 + -0.25"
    assert card({"blend": [{"target": "elf"}]}) == {"prompts": "elf", "base": "b" * 12}


def test_a_card_leaves_out_what_its_file_does_not_say():
    assert card({"source": "photo"}) == {"prompts": "photo → domain", "base": "b" * 12}
    assert card({"target": "zombie", "loss": 0.5}) == {
        "prompts": "zombie",
        "loss": "0.500",
        "base": "b" * 12,
    }


def test_words_of_others_are_text_on_the_page():
    assert word_list([]) == ""
    assert "&lt;b&gt;, zombie" in word_list(["<b>", "zombie"]) and "2 words" in word_list(
        ["a", "b"]
    )
