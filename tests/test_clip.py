"""CLIP against OpenAI's own text tower and the reference features, and prompts of every kind."""

import copy
import json
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from nada import clip as clip_module
from nada.clip import CLIP, Encoder, PromptError, load_clip, load_clips, openai_clip, save_clip
from nada.experiments.measure import Ensemble
from nada.formats import files
from nada.formats.files import file_digest
from nada.guidance import DirectionalLoss, GlobalLoss, text_direction
from tests.helpers import equal, fill_clip, golden, make_clip

GOLDEN = golden("guidance")
PROMPTS = ["a photo", "pencil sketch", "an oil painting of a sad, sad robot in the rain"]


def test_image_features_are_the_reference_programs(clip_a):
    features = clip_a.encode_image(GOLDEN["clip/a/dst"])
    torch.testing.assert_close(features, GOLDEN["clip/a/image_features_target"], rtol=0, atol=1e-5)


def test_text_features_of_trimmed_prompts_are_those_of_the_full_context(clip_a):
    tokens = openai_clip().tokenize(PROMPTS)  # [3, 77]
    expected = F.normalize(clip_a.model.encode_text(tokens), dim=-1)
    assert clip_a.tokenize(PROMPTS).shape[1] < 20
    torch.testing.assert_close(clip_a.encode_text(PROMPTS), expected, rtol=0, atol=1e-6)


def test_a_prompt_has_the_same_features_alone_and_in_company(clip_a):
    together = clip_a.encode_text(PROMPTS)
    alone = torch.cat([clip_a.encode_text([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


class Colours:
    """An encoder of a few lines: an image is its mean colour, a prompt the colour that it names."""

    name, resolution = "colours", 1

    def encode_image(self, images):
        return F.normalize(images.mean((2, 3)) + 1.1, dim=-1)

    def encode_text(self, prompts):
        rows = [[prompt.count(c) + 0.1 for c in ("red", "green", "blue")] for prompt in prompts]
        return F.normalize(torch.tensor(rows), dim=-1)

    def check_prompt(self, prompt):
        if not prompt:
            raise PromptError("The prompt is empty.")


def test_whatever_fulfils_the_protocol_guides(clip_a):
    assert isinstance(clip_a, Encoder) and isinstance(Ensemble([clip_a, clip_a]), Encoder)
    clip = Colours()
    assert isinstance(clip, Encoder) and not isinstance(object(), Encoder)
    red, blue = (torch.zeros(2, 3, 8, 8) - 1 for _ in range(2))
    red[:, 0], blue[:, 2] = 1, 1
    loss = DirectionalLoss(clip, text_direction(clip, "a red thing", "a blue thing", ("{}",)))
    assert loss(red, blue) < 0.01 < 1.9 < loss(blue, red)
    assert GlobalLoss(clip, "blue")(blue) < 0.1 < GlobalLoss(clip, "blue")(red)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (48, 100), (100, 40), (8, 8), (65, 64)])
def test_preprocessing_takes_any_size(clip_a, size):
    images = torch.rand(2, 3, *size) * 2 - 1
    out = clip_a.preprocess(images)
    assert out.shape == (2, 3, 64, 64)
    grey = clip_a.preprocess(torch.zeros(1, 3, *size))
    torch.testing.assert_close(grey, ((0.5 - clip_a.mean) / clip_a.std).expand_as(grey))


def test_preprocessing_is_openais_transform_up_to_eight_bits(clip_a):
    from torchvision.transforms.functional import to_pil_image

    images = F.interpolate(torch.rand(1, 3, 12, 12), (96, 128), mode="bicubic").clamp(0, 1)
    expected = openai_clip().clip._transform(64)(to_pil_image(images[0]))
    got = clip_a.preprocess(images * 2 - 1)[0]
    assert (got - expected).abs().mean() < 0.01  # of about 4: rounding to bytes, twice


def test_gradients_reach_the_pixels(clip_tiny):
    images = torch.randn(2, 3, 24, 24, requires_grad=True)
    clip_tiny.encode_image(images)[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "prompt",
    ["зомби", "僵尸", "🧟‍♀️ 😀", "{} {0} {name}", "100% \\d+ %s", "x <|endoftext|> y", "ﷺ", "a\x00b",
     "&lt;b&gt;", "'s", "…"],
)  # fmt: skip
def test_any_prompt_with_something_to_read_gets_a_unit_vector(clip_a, prompt):
    features = clip_a.encode_text([prompt])
    assert features.isfinite().all()
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1))


def test_half_a_character_gets_a_sentence(clip_a):
    with pytest.raises(PromptError, match=r"holds half a character .* type it anew"):
        clip_a.encode_text(["\ud800 lone"])


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\x00\x07", "\u200b", "<|endoftext|>"])
def test_an_empty_prompt_gets_a_sentence(clip_a, prompt):
    with pytest.raises(PromptError, match="prompt is empty: describe"):
        clip_a.encode_text(["a photo", prompt])


@pytest.mark.parametrize("prompt", ["word " * 76, "x" * 10_000, "僵" * 999, "a b c " * 10_000])
def test_a_long_prompt_gets_a_sentence_not_a_cut(clip_a, prompt):
    with pytest.raises(PromptError, match=r"shorten it") as error:
        clip_a.encode_text([prompt])
    assert len(str(error.value)) < 200


def test_the_longest_prompt_that_fits_is_read_to_its_end(clip_a):
    longest = "word " * 74
    features = clip_a.encode_text([longest + "cat", longest + "dog"])
    assert (features[0] - features[1]).norm() > 1e-3


def test_a_prompt_that_is_no_text_gets_a_sentence(clip_a):
    with pytest.raises(PromptError, match="must be text, got NoneType"):
        clip_a.check_prompt(None)


def test_marker_strings_inside_a_prompt_do_not_end_it(clip_a):
    one, two = clip_a.encode_text(["red <|endoftext|> cat", "red <|ENDOFTEXT|> dog"])
    assert (one - two).norm() > 1e-3
    assert END_IDS.isdisjoint(clip_a.check_prompt("<|startoftext|> red cat <|endoftext|>"))


END_IDS = {clip_module.START, clip_module.END}


def test_unknown_words_are_told_in_any_script(clip_tiny):
    small = CLIP(clip_tiny.model, "small", frozenset({"pencil", "sketch", "of", "a"}))
    assert small.unknown_words("A Pencil   SKETCH, of a robot robot!") == ["robot"]
    assert small.unknown_words("эскиз 🧟") == ["эскиз", "🧟"]
    assert small.unknown_words("a pencil's sketch...") == []
    assert clip_tiny.unknown_words("anything goes") == []


# Files


def resnet():
    """A ResNet CLIP of 32 pixels with batch statistics that are not the trivial ones."""
    model = openai_clip().model.CLIP(16, 32, (1, 1, 1, 1), 4, None, 24, 49408, 64, 1, 1)
    model = fill_clip(model, "clip/resnet")
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.abs_().add_(0.5)
    return CLIP(model.eval(), "resnet")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_small_clip_keeps_its_features_through_the_compact_file(tmp_path, clip_tiny, kind):
    clip = copy.deepcopy(clip_tiny) if kind == "vit" else resnet()
    for parameter in clip.parameters():
        parameter.data = parameter.data.half().float()  # what fp16 on disk can hold
    for buffer in clip.model.buffers():
        buffer.data = buffer.data.half().to(buffer.dtype)
    ids = {int(token) for token in clip.tokenize(PROMPTS).flatten()}
    path = tmp_path / "clip.safetensors"
    save_clip(clip.model, path, ids, {"photo", "sketch"}, {"made": "by a test"})
    loaded = load_clip(path)

    images = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(loaded.encode_image(images), clip.encode_image(images))
    torch.testing.assert_close(loaded.encode_text(PROMPTS), clip.encode_text(PROMPTS))
    assert loaded.words == {"photo", "sketch"}
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert path.stat().st_size < 1_000_000
    with safe_open(path, "pt") as file:
        assert file.metadata()["made"] == "by a test"


def test_words_that_were_not_stored_all_read_alike(tmp_path, clip_tiny):
    save_clip(clip_tiny.model, tmp_path / "clip.safetensors", {320}, {"a"})
    loaded = load_clip(tmp_path / "clip.safetensors")
    rows = loaded.model.token_embedding.weight
    torch.testing.assert_close(rows[1000], rows[[320, 49406, 49407]].mean(dim=0))
    assert torch.equal(rows[1000], rows[2000]) and not torch.equal(rows[1000], rows[320])


def test_full_precision_survives_loading(tmp_path, clip_tiny):
    path = tmp_path / "clip.safetensors"
    save_file(clip_tiny.model.state_dict(), path)
    for key, value in load_clip(f"openai:{path}").model.state_dict().items():
        assert torch.equal(value, clip_tiny.model.state_dict()[key]), key


def test_an_openai_file_loads_by_its_path(tmp_path):
    clip = make_clip("tiny", 16, 32, 1, 64, 8, 77, 49408, 64, 1, 1)
    path = tmp_path / "clip.pt"
    scalars = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}
    state = {key: value.half() for key, value in clip.model.state_dict().items()}
    torch.save({**state, **scalars}, path)  # the state dict of their archive
    loaded = load_clip(path)
    assert loaded.model.ln_final.weight.dtype == torch.float32
    torch.testing.assert_close(
        loaded.encode_text(PROMPTS), clip.encode_text(PROMPTS), rtol=0, atol=1e-2
    )


def test_unknown_names_and_broken_files_get_a_sentence(tmp_path, clip_tiny):
    with pytest.raises(ValueError, match="no CLIP model “ViT-X/99”: use a file or one of demo"):
        load_clip("ViT-X/99")
    with pytest.raises(ValueError, match=r"no CLIP file .*: check the name"):
        load_clip(tmp_path / "none.safetensors")
    for name in ("page.safetensors", "page.pt"):
        (tmp_path / name).write_text("<html>not found</html>")
        with pytest.raises(ValueError, match=rf"^{name} is a web page, not weights"):
            load_clip(tmp_path / name)
    partial = clip_tiny.model.state_dict()
    partial.pop("ln_final.bias")
    save_file(partial, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"^part\.safetensors cannot.*Missing key.*ln_final\.b"):
        load_clip(f"openai:{tmp_path}/part.safetensors")
    with pytest.raises(ValueError, match=r"no CLIP model “xxx.*…”: use a file") as error:
        load_clip("x" * 400)
    assert len(str(error.value)) < 400


def compact(clip, change) -> dict:
    """The tensors of a compact file, with a change to them."""
    state = {key: value.clone() for key, value in clip.model.state_dict().items()}
    state["token_embedding.ids"] = torch.tensor([320, 49406, 49407], dtype=torch.int32)
    state["token_embedding.weight"] = state["token_embedding.weight"][:3].clone()
    change(state)
    return state


def wide(state):
    """What would have 49408 rows of two million numbers, and a text tower that wants them."""
    state["ln_final.weight"] = torch.ones(2_000_000)
    state["positional_embedding"] = torch.ones(1, 2_000_000)
    state["token_embedding.weight"] = torch.ones(3, 2_000_000)


DAMAGED = {
    "nan": (lambda s: s["ln_final.bias"].fill_(torch.nan), "'ln_final.bias' holds nan or inf"),
    "infinity": (lambda s: s["visual.proj"][0].fill_(torch.inf), "'visual.proj' holds nan or inf"),
    "ids too high": (lambda s: s["token_embedding.ids"][2].fill_(49408), "holds 320 to 49408"),
    "ids below zero": (lambda s: s["token_embedding.ids"][0].fill_(-1), "holds -1 to 49407"),
    "ids that are no integers": (
        lambda s: s.update({"token_embedding.ids": torch.tensor([320.5, 1, 2])}),
        "ids' should hold integers",
    ),
    "ids that come twice": (lambda s: s["token_embedding.ids"].fill_(7), "each once"),
    "no ids": (
        lambda s: s.update({"token_embedding.ids": torch.arange(0)}),
        "should hold integers, each once",
    ),
    "an id too many": (
        lambda s: s.update({"token_embedding.ids": torch.arange(4)}),
        r"'token_embedding.weight' is \[3, 64\] instead of \[4, 64\]",
    ),
    "one wide row": (
        lambda s: s.update({"token_embedding.weight": torch.ones(3, 2_000_000)}),
        r"is \[3, 2000000\] instead of \[3, 64\]",
    ),
    "all wide": (wide, "prompts of 1 tokens, 2000000 numbers each; at most 4096"),
    "a wide picture tower": (
        lambda s: s.update({"visual.conv1.weight": torch.ones(2_000_000, 1, 1, 1)}),
        "size mismatch for visual",
    ),
    "half of the names": (lambda s: s.pop("positional_embedding"), "embedding' is missing"),
    "no patches": (lambda s: s.update({"visual.conv1.weight": torch.ones(64, 3, 0, 0)}), "zero"),
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("change, complaint", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_weights_get_a_sentence_and_take_no_memory(
    tmp_path, clip_tiny, suffix, change, complaint
):
    path = tmp_path / f"clip.{suffix}"
    state = compact(clip_tiny, change)
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30), hard))
    try:
        with pytest.raises(ValueError, match=complaint) as error:
            load_clip(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 300


def test_tensors_that_share_their_numbers_are_not_read_into_more_than_the_file(tmp_path):
    row = torch.zeros(1 << 16)
    state = {"logit_scale": row[0], **{f"visual.{i}": row for i in range(100)}}
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"its tensors claim 26214404 bytes, and the whole file"):
        load_clip(tmp_path / "clip.pt")


def test_a_header_without_end_is_not_read(tmp_path):
    header = json.dumps({"__metadata__": {"words": "y" * (5 << 20)}}).encode()
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"^c\.safetensors is .* at most 4194304 were expected"):
        load_clip(tmp_path / "c.safetensors")


def test_what_is_loaded_does_not_hang_on_its_file(tmp_path, clip_tiny):
    path = tmp_path / "clip.safetensors"
    save_file(clip_tiny.model.state_dict(), path)
    loaded = load_clip(f"openai:{path}")
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded.model.visual.proj, clip_tiny.model.visual.proj)
    tokens = openai_clip().tokenize(PROMPTS)[:, :24]  # OpenAI's own tower, with a mask of its own
    expected = clip_tiny.model.encode_text(tokens)
    assert torch.equal(loaded.model.encode_text(tokens), expected)


def test_a_file_may_have_a_plus_in_its_name(tmp_path, clip_tiny):
    save_file(clip_tiny.model.state_dict(), tmp_path / "a+b.safetensors")
    assert [clip.name for clip in load_clips(f" openai:{tmp_path}/a+b.safetensors ")] == [
        "a+b.safetensors"
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_an_openai_archive_loads_and_nothing_in_it_is_run(tmp_path):
    clip = make_clip("tiny", 16, 32, 1, 64, 8, 77, 49408, 64, 1, 1)
    inputs = (torch.zeros(1, 3, 32, 32), clip.tokenize(["a photo"]).new_zeros(1, 77))
    torch.jit.trace(clip.model, inputs).save(tmp_path / "clip.pt")
    expected = torch.jit.load(tmp_path / "clip.pt").state_dict()
    loaded = load_clip(tmp_path / "clip.pt").model.state_dict()
    assert equal(loaded, expected)


def test_what_openais_package_has_left_is_used(tmp_path, monkeypatch):
    clip = make_clip("tiny", 16, 32, 1, 64, 8, 77, 49408, 64, 1, 1)
    left = tmp_path / ".cache" / "clip" / "ViT-T.pt"
    left.parent.mkdir(parents=True)
    torch.save(clip.model.state_dict(), left)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"http://127.0.0.1:9/{file_digest(left)}/ViT-T.pt"
    monkeypatch.setitem(openai_clip().clip._MODELS, "ViT-T", url)
    assert load_clip("ViT-T").resolution == 32


def test_demo_stands_for_all_bundled_models_and_none_comes_twice(monkeypatch, tmp_path, clip_tiny):
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path)
    save_clip(clip_tiny.model, tmp_path / clip_module.BUNDLED["demo"], {320}, {"a"})
    assert [clip.name for clip in load_clips("demo")] == ["demo"]
    save_clip(clip_tiny.model, tmp_path / clip_module.BUNDLED["demo-vit"], {320}, {"a"})
    assert [clip.name for clip in load_clips("demo")] == ["demo", "demo-vit"]
    assert [clip.name for clip in load_clips(" demo-vit + demo")] == ["demo-vit", "demo"]
    with pytest.raises(ValueError, match="no CLIP model “”"):
        load_clips("demo+")


def test_importing_the_library_imports_no_package_of_models():
    packages = {"clip", "open_clip", "timm", "torchvision"}
    code = f"import nada.adapt, sys; print({packages} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
