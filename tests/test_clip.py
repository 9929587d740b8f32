"""CLIP against OpenAI's own text tower and the reference features, and prompts of every kind."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from nada import clip as clip_module
from nada.clip import CLIP, PromptError, load_clip, load_clips, openai_clip, save_clip
from nada.files import file_digest
from tests.helpers import fill_clip, golden, make_clip

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
     "\ud800 lone", "&lt;b&gt;", "'s", "…"],
)  # fmt: skip
def test_any_prompt_with_something_to_read_gets_a_unit_vector(clip_a, prompt):
    features = clip_a.encode_text([prompt])
    assert features.isfinite().all()
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1))


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
    for key, value in load_clip(path).model.state_dict().items():
        assert torch.equal(value, clip_tiny.model.state_dict()[key]), key


def test_an_openai_file_loads_by_its_path(tmp_path):
    clip = make_clip("tiny", 16, 32, 1, 64, 8, 77, 49408, 64, 1, 1)
    path = tmp_path / "clip.pt"
    torch.save({key: value.half() for key, value in clip.model.state_dict().items()}, path)
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
        with pytest.raises(ValueError, match=r"(OpenAI's tensor names|could not be read)"):
            load_clip(tmp_path / name)
    partial = clip_tiny.model.state_dict()
    partial.pop("ln_final.bias")
    save_file(partial, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"part\.safetensors is not a CLIP model"):
        load_clip(tmp_path / "part.safetensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_an_openai_archive_loads_and_nothing_in_it_is_run(tmp_path):
    clip = make_clip("tiny", 16, 32, 1, 64, 8, 77, 49408, 64, 1, 1)
    inputs = (torch.zeros(1, 3, 32, 32), clip.tokenize(["a photo"]).new_zeros(1, 77))
    torch.jit.trace(clip.model, inputs).save(tmp_path / "clip.pt")
    expected = torch.jit.load(tmp_path / "clip.pt").state_dict()
    loaded = load_clip(tmp_path / "clip.pt").model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


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
    monkeypatch.setattr(clip_module, "CHECKPOINTS", tmp_path)
    save_clip(clip_tiny.model, tmp_path / clip_module.BUNDLED["demo"], {320}, {"a"})
    assert [clip.name for clip in load_clips("demo")] == ["demo"]
    save_clip(clip_tiny.model, tmp_path / clip_module.BUNDLED["demo-vit"], {320}, {"a"})
    assert [clip.name for clip in load_clips("demo")] == ["demo", "demo-vit"]
    assert [clip.name for clip in load_clips(" demo-vit + demo")] == ["demo-vit", "demo"]
    with pytest.raises(ValueError, match="no CLIP model “”"):
        load_clips("demo+")


def test_importing_the_library_imports_neither_openais_package_nor_torchvision():
    code = "import nada.adapt, sys; print({'clip', 'torchvision'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
