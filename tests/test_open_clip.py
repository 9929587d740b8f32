"""open_clip's models: features and gradients as the package has them, prompts, adapting."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from nada.__main__ import main
from nada.checkpoint import save_generator
from nada.clip import (
    CLIP,
    Encoder,
    OpenCLIP,
    PromptError,
    Unclear,
    english_only,
    load_clip,
    load_clips,
)
from nada.clip import imports as packages
from nada.clip import open_clip as ours
from nada.clip.imports import open_clip
from nada.delta import Delta
from nada.facts import file_facts
from nada.guidance import DirectionalLoss, text_direction
from nada.memory import clip_bytes
from nada.prompts import language_hint
from tests import clip_files
from tests.clip_files import BESIDE, config, save_folder, save_training, towers
from tests.helpers import make_clip

PROMPTS = ["a photo", "pencil sketch", "a sad robot, in the rain"]


def same(clip, model, side, **normal) -> None:
    """Features within 1e-4 and gradients within 1e-3 of open_clip's."""
    images = torch.rand(2, 3, side, side) * 2 - 1
    mine, theirs = (images.clone().requires_grad_() for _ in range(2))
    got, expected = clip.encode_image(mine), clip_files.image_features(model, theirs, **normal)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    expected_text = clip_files.text_features(model, PROMPTS)
    torch.testing.assert_close(clip.encode_text(PROMPTS), expected_text, rtol=0, atol=1e-4)
    for features, pixels in ((got, mine), (expected, theirs)):
        (features[:, :8].sum(dim=1) ** 2).sum().backward()
        assert pixels.grad.abs().max() > 0
    scale = theirs.grad.abs().max()
    torch.testing.assert_close(mine.grad / scale, theirs.grad / scale, rtol=0, atol=1e-3)


@pytest.mark.parametrize("quick", [True, False], ids=["QuickGELU", "GELU"])
@pytest.mark.parametrize("head_width", [64, 80])
def test_features_and_gradients_are_open_clips(tmp_path, quick, head_width):
    options = config(quick, head_width)
    model = towers(options)
    clip = load_clip(save_folder(tmp_path / "mine", model, options))
    assert isinstance(clip, OpenCLIP) and isinstance(clip, Encoder)
    assert (clip.name, clip.resolution, clip.context_length) == ("mine", 32, 16)
    assert not clip.training and not any(p.requires_grad for p in clip.parameters())
    same(clip, model, 32)
    told = file_facts(tmp_path / "mine")
    assert told["activation"] == ("QuickGELU" if quick else "GELU")
    assert head_width in told["heads_of"]

    for other in (config(not quick, head_width), config(quick, 144 - head_width)):
        (tmp_path / "mine" / BESIDE).write_text(json.dumps({"model_cfg": other}))
        with pytest.raises(AssertionError):  # the test would see it
            same(load_clip(tmp_path / "mine"), model, 32)


def test_a_training_file_is_read_with_a_configuration_beside_it(tmp_path):
    options = config()
    model = towers(options)
    path = save_training(tmp_path / "epoch_3.pt", model)
    with pytest.raises(Unclear, match=r"epoch_3\.pt does not say which activation .* its open"):
        load_clip(path)
    (tmp_path / BESIDE).write_text(json.dumps(options))  # a bare one, as open_clip's own
    same(load_clip(path), model, 32, mean=ours.MEAN, std=ours.STD)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
def test_a_file_of_an_architecture_by_name(tmp_path, name):
    model = towers(open_clip().get_model_config(name))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    clip = load_clip(f"{name}:{tmp_path}/w.safetensors")
    assert clip.name == f"{name}:w.safetensors"
    same(clip, model, 224, mean=ours.MEAN, std=ours.STD)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["RN50", "convnext_base", "EVA02-B-16", "MobileCLIP-S1", "ViT-B-16-SigLIP", "coca_ViT-B-32"],
)
def test_other_architectures_are_filled_as_they_are(name):
    """Also those with tables that are no weights, which are computed when they are built."""
    options = ours.config_of(name, None)
    model = ours._towers(options).eval()
    filled = ours._filled(options, model.state_dict()).eval()
    images = torch.randn(1, 3, *ours._sides(model))
    tokens = torch.randint(1, 400, (1, options["text_cfg"].get("context_length", 77)))
    with torch.no_grad():
        assert torch.equal(filled.encode_image(images), model.encode_image(images))
        assert torch.equal(filled.encode_text(tokens), model.encode_text(tokens))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resizing", ["shortest", "squash"])
def test_images_are_made_ready_as_the_configuration_says(mode, resizing):
    from torchvision.transforms.functional import to_pil_image

    images = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), (48, 96), mode="bicubic")
    images = images.clamp(0, 1)
    how = {"mean": clip_files.MEAN, "std": clip_files.STD, "interpolation": mode}
    transform = open_clip().image_transform(32, False, resize_mode=resizing, **how)
    model = towers(config())
    clip = OpenCLIP(model, "c", ours.preprocessing({**how, "resize_mode": resizing}), None, 16)
    got, expected = clip.preprocess(images * 2 - 1)[0], transform(to_pil_image(images[0]))
    assert (got - expected).abs().mean() < 0.01  # of about 4: rounding to bytes, twice


# Names


def test_an_activation_that_belongs_to_the_weights_is_theirs():
    """open_clip takes 'ViT-B-32' for one with GELU, and warns, whatever its weights are."""
    assert not ours.config_of("ViT-B-32", "laion2b_s34b_b79k").get("quick_gelu")
    assert ours.config_of("ViT-B-32", "laion400m_e32")["quick_gelu"]
    assert ours.preprocessing_of("ViT-L-14", "laion2b_s32b_b82k").mean == (0.5, 0.5, 0.5)


def test_names_that_leave_something_open_are_asked_about(tmp_path):
    (tmp_path / "w.pt").touch()
    with pytest.raises(ValueError, match="no weights “laion9” of ViT-H-14: give ViT-H-14:TAG with"):
        load_clip("ViT-H-14:laion9")
    with pytest.raises(ValueError, match="ViT-H-14 has several weights: give ViT-H-14:TAG"):
        load_clip("open_clip:vit-h/14")
    with pytest.raises(Unclear, match="Images are made ready in another way for ViT-L-14:"):
        load_clip(f"ViT-L-14:{tmp_path}/w.pt")
    with pytest.raises(ValueError, match=r"^There is no CLIP file “none\.safetensors”"):
        load_clip("ViT-B-32:none.safetensors")


def test_without_the_package_a_sentence_names_it(tmp_path, monkeypatch):
    options = config()
    folder = save_folder(tmp_path / "mine", towers(options), options)
    packages.open_clip.cache_clear()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    try:
        with pytest.raises(ValueError, match="needs the package open_clip: `pip install open_cl"):
            load_clip(folder)
        with pytest.raises(ValueError, match="after `pip install open_clip_torch`, open_clip"):
            load_clip("ViT-B-32:laion2b_s34b_b79k")
    finally:
        packages.open_clip.cache_clear()


def test_a_tokenizer_of_transformers_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    options = config()
    model = towers(options)
    options["text_cfg"]["hf_tokenizer_name"] = "xlm-roberta-base"
    with pytest.raises(ValueError, match="needs the package transformers: `pip"):
        load_clip(save_folder(tmp_path, model, options))


# Prompts


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    options = config()
    return load_clip(save_folder(tmp_path_factory.mktemp("c") / "mine", towers(options), options))


def test_prompts_are_checked_by_its_own_tokenizer(clip):
    assert len(clip.check_prompt("word " * 14)) == 14
    with pytest.raises(PromptError, match=r"takes 15 tokens .* model mine reads 14: shorten it"):
        clip.encode_text(["a photo", "word " * 15])
    with pytest.raises(PromptError, match="prompt is empty"):
        clip.check_prompt(" <end_of_text>")
    one, two = clip.encode_text(["red <end_of_text> cat", "red <START_OF_TEXT> dog"])
    assert (one - two).norm() > 1e-3


class Multilingual:
    """What OpenCLIP asks of an `HFTokenizer`, with a token for each letter."""

    def clean_fn(self, text):
        return text.strip()

    def tokenizer(self, text):
        class Encoded:
            input_ids = [1, *(ord(c) % 49000 for c in text), 2] if text else []

        return Encoded

    def __call__(self, texts, context_length):
        rows = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in zip(rows, texts):
            ids = self.tokenizer(text).input_ids
            row[: len(ids)] = torch.tensor(ids)
        return rows


def test_a_tokenizer_of_another_language_counts_with_its_markers(clip):
    other = OpenCLIP(clip.model, "many", clip.preprocessing, Multilingual(), 16)
    assert other.encode_text(["эскиз", "зомби"]).shape == (2, 32)
    with pytest.raises(PromptError, match=r"takes 17 tokens .* reads 16"):
        other.check_prompt("ж" * 15)
    assert not english_only(other) and english_only(clip)
    assert language_hint([other], ("photo", "эскиз")) == ""
    assert language_hint([other, clip], ("photo", "эскиз")).startswith("CLIP (mine) learnt")


# The rest of the house


def test_it_guides_and_what_it_takes_is_known(clip):
    direction = text_direction(clip, "photo", "pencil sketch")
    loss = DirectionalLoss(clip, direction)
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    loss(torch.rand(2, 3, 16, 16), images).backward()
    assert images.grad.abs().sum() > 0
    assert clip_bytes(clip) > 2 * 2 * 4 * 4 * 320  # inputs of two layers, at least


def test_adapt_by_the_command_line(tmp_path, generator, capsys):
    save_generator(generator, tmp_path / "g.safetensors")
    options = config(context=77)
    folder = save_folder(tmp_path / "mine", towers(options), options)
    other = make_clip("o", 16, 16, 1, 64, 8, 77, 49408, 64, 1, 1)
    save_file(other.model.state_dict(), tmp_path / "o")
    arguments = {
        "generator": tmp_path / "g.safetensors",
        "clip": f"{folder}, openai:{tmp_path}/o",
        "target": "эскиз",
        "steps": 3,
        "batch": 1,
        "out": tmp_path / "d.safetensors",
    }
    words = [str(word) for name, value in arguments.items() for word in (f"--{name}", value)]
    assert main(["adapt", *words]) == 0
    said = capsys.readouterr().err
    assert "CLIP (mine and o) learnt to read English and may take “эскиз”" in said
    assert "по-английски" in said
    facts = Delta.load(tmp_path / "d.safetensors").metadata
    assert (facts["clip"], facts["steps_done"]) == (["mine", "o"], 3)


def test_info_says_what_a_file_is(tmp_path):
    options = config()
    model = towers(options)
    path = save_training(tmp_path / "c.pt", model)
    assert "does not say which activation" in file_facts(path)["unusual"][0]
    (tmp_path / BESIDE).write_text(json.dumps(options))
    facts = file_facts(path)
    assert (facts["kind"], facts["used"], facts["context"]) == ("CLIP", "OpenCLIP", 16)
    assert file_facts(tmp_path) == facts | {
        "file": tmp_path.name,
        "bytes": sum(file.stat().st_size for file in tmp_path.iterdir()),
    }


# Hostile configurations


def deep(options):
    inner = options["vision_cfg"]
    for _ in range(900):
        inner["act_kwargs"] = inner = {}


HOSTILE = {
    "layers": (
        lambda o: o["vision_cfg"].update(layers=10**9),
        "'layers' is 1000000000; at most",
    ),
    "width": (lambda o: o["text_cfg"].update(width=10**30), "'width' is <int>; at most 65536"),
    "nan": (lambda o: o["vision_cfg"].update(mlp_ratio=float("nan")), "'mlp_ratio' is nan"),
    "wide": (lambda o: o["vision_cfg"].update(width=64000), "size mismatch"),
    "words": (lambda o: o["text_cfg"].update(vocab_size=2_000_000), "size mismatch"),
    "deep": (deep, "configuration is none of open_clip's"),
    "no towers": (lambda o: o.pop("text_cfg"), "has no 'text_cfg' and 'vision_cfg'"),
    "unknown": (lambda o: o.update(run="x"), "unexpected keyword argument 'run'"),
    "a program": (
        lambda o: o["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}),
        "tokenizer has the option 'trust_remote_code', which is unknown",
    ),
    "elsewhere": (
        lambda o: o["vision_cfg"].update(timm_model_name="hf-hub:some/body"),
        "image tower 'hf-hub:some/body' is not one of timm",
    ),
    "not square": (
        lambda o: o["vision_cfg"].update(image_size=[16, 64]),
        r"images of \(16, 64\) and not at square ones",
    ),
}


@pytest.mark.parametrize("change, complaint", HOSTILE.values(), ids=HOSTILE)
def test_hostile_configurations_get_a_sentence(tmp_path, clip, change, complaint):
    options = config()
    folder = save_folder(tmp_path / "mine", clip.model, options)
    change(options)
    (folder / BESIDE).write_text(json.dumps({"model_cfg": options}))
    with pytest.raises(ValueError, match=complaint) as error:
        load_clip(folder)
    message = str(error.value)
    assert message.startswith("mine cannot be used") and message.endswith(".")
    assert "\n" not in message and len(message) < 300


BROKEN = {
    "no json": (b"{", "not readable"),
    "a list": (b"[]", "is no configuration but <list>"),
    "nested": (b"[" * 100_000, "not readable"),
    "huge": (b" " * (1 << 21), "more than 1048576 bytes"),
    "a number": (b'{"model_cfg": 7}', "none of open_clip's"),
}


@pytest.mark.parametrize("contents, complaint", BROKEN.values(), ids=BROKEN)
def test_broken_configurations_get_a_sentence(tmp_path, clip, contents, complaint):
    folder = save_folder(tmp_path / "mine", clip.model, config())
    (folder / BESIDE).write_bytes(contents)
    with pytest.raises(ValueError, match=complaint):
        load_clip(folder)


@pytest.mark.parametrize(
    "images",
    [{"mean": [1, 2]}, {"std": [0.1, 0.1, 0]}, {"std": ["a"] * 3}, {"interpolation": "random"},
     {"resize_mode": "longest"}],
)  # fmt: skip
def test_images_that_cannot_be_made_ready_are_refused(tmp_path, clip, images):
    folder = save_folder(tmp_path / "mine", clip.model, config(), images)
    with pytest.raises(ValueError, match="mine cannot be used as a CLIP model"):
        load_clip(folder)


def test_weights_of_another_model_are_refused(tmp_path, clip_tiny):
    options = config()
    folder = save_folder(tmp_path / "mine", towers(options), options)
    save_file(clip_tiny.model.state_dict(), folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"mine cannot be used .*(size mismatch|Missing key)"):
        load_clip(folder)


def test_a_model_in_an_ensemble_with_openais(tmp_path, clip_tiny):
    options = config()
    folder = save_folder(tmp_path / "mine", towers(options), options)
    save_file(clip_tiny.model.state_dict(), tmp_path / "o.safetensors")
    kinds = [type(clip) for clip in load_clips(f"{folder}, openai:{tmp_path}/o.safetensors")]
    assert kinds == [OpenCLIP, CLIP]
