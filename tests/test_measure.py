"""What measures an adapted generator, and what `evaluate` prints and draws of it."""

import pytest
import torch
from PIL import Image

from nada.demo.captions import ATTRIBUTES, attributes_of
from nada.demo.render import Z_DIM, factors_of
from nada.demo.styles import PHOTO, render
from nada.experiments import measure
from nada.experiments.evaluate import FORMS, first_clip, summary, table
from nada.experiments.measure import colours_kept, distance_to_truth, leak, masks
from nada.experiments.sheets import contact_sheet


def test_distance_to_truth_ignores_what_lies_within_four_pixels():
    truth = torch.zeros(1, 3, 8, 8)
    shifted = truth.clone()
    shifted[..., 0, 0], shifted[..., 0, 1] = 1.0, -1.0
    assert distance_to_truth(shifted, truth) == 0
    assert distance_to_truth(truth + 0.5, truth) == pytest.approx(0.5)


def test_colours_count_as_kept_where_the_style_leaves_them():
    z = torch.randn(24, Z_DIM, generator=torch.Generator().manual_seed(0))
    where, photos = masks(z, 32), render(z, "photo", 32)
    devil, cat = render(z, "devil", 32), render(z, "cat", 32)  # a cat keeps the backdrop
    assert colours_kept(where, photos, photos, photos, devil)["skin"] is None
    assert colours_kept(where, photos, photos, photos, cat)["backdrop"] == 1
    repainted = photos.clone()
    repainted[:12] = -photos[:12]
    kept = colours_kept(where, photos, repainted, photos, cat)["backdrop"]
    assert 0.5 <= kept < 0.7  # half of them, and the greys, which have no other side


@pytest.mark.parametrize("more, expected", [(0, 0), (5, 0.5), (-5, -0.5)])
def test_what_people_in_pictures_have_by_chance_leaks_by_its_rate(monkeypatch, more, expected):
    """Ten with glasses: more glasses than should be are a leak."""
    z = torch.randn(400, Z_DIM, generator=torch.Generator().manual_seed(1))
    labels, glasses = attributes_of(factors_of(z), PHOTO), list(ATTRIBUTES).index("glasses")
    monkeypatch.setattr(measure, "SPREADING", ("glasses",))
    many = (torch.arange(10)[:, None] < 5 + more).expand(-1, len(ATTRIBUTES))
    half = (torch.arange(10)[:, None] < 5).expand(-1, len(ATTRIBUTES))
    monkeypatch.setattr(measure, "attributes", lambda judge, seen: seen)
    for has, sign in ((1, 1), (0, -1)):
        who = z[labels[:, glasses] == has][:10]
        assert leak(None, who, many, half) == pytest.approx(sign * expected)


def test_a_table_leaves_out_what_a_style_does_not_leave():
    values = (0, 0.5, 0.7, 0.4, 0.9, 0.8, 1.0, 0.97, None, None, 1.0, 12.0)
    row = {"target": "clown", "seed": 0, **dict(zip(FORMS, values))}
    text = table([row, {**row, "seed": 1, "judged": 1.0, "backdrop": None}])
    assert "| clown | 0% ± 0% | 75% ± 25% | 0.70 ± 0.00 |" in text
    assert "| 97% | – | – |" in text
    assert "0 of 1" in summary([row])[0] and "backdrop 97%" in summary([row])[0]


def test_the_first_clip_of_an_ensemble_measures(tmp_path):
    odd = tmp_path / "a+b.safetensors"
    odd.touch()
    assert first_clip("ViT-B/32+ViT-B/16") == "ViT-B/32" and first_clip(str(odd)) == str(odd)
    assert first_clip("demo").endswith("checkpoints/clip-resnet.safetensors")


def test_a_contact_sheet_has_a_strip_for_each_label():
    strips = {name: Image.new("RGB", (48, 16), name) for name in ("black", "white", "red")}
    sheet = contact_sheet({name: [strip] for name, strip in strips.items()}, (), 2, margin=110)
    assert sheet.size == (2 * (110 + 48), 2 * 16)
    assert [sheet.getpixel(at) for at in ((120, 8), (120, 24), (278, 8))] == [
        (0, 0, 0),
        (255, 255, 255),
        (255, 0, 0),
    ]


def test_strips_beside_each_other_have_their_heads_above():
    white, black = Image.new("RGB", (40, 10), "white"), Image.new("RGB", (40, 10), "black")
    sheet = contact_sheet({"x": [white, black], "y": [black, white]}, ("one", "two"))
    assert sheet.size == (12 + 7 + 2 * 40 + 6, 18 + 2 * 10)
    assert sheet.getpixel((19 + 1, 18 + 5)) == sheet.getpixel((19 + 46 + 1, 18 + 15)) == (255,) * 3
    assert sheet.getpixel((19 + 46 + 1, 18 + 5)) == sheet.getpixel((19 + 1, 18 + 15)) == (0,) * 3
    assert len(sheet.crop((19, 0, sheet.width, 18)).getcolors()) > 1
