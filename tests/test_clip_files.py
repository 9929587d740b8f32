"""CLIP by every name that people type, and in the files of OpenAI, open_clip and transformers."""

import json
import os
import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from nada.clip import CLIP, OpenCLIP, Unclear, load_clip, openai_clip, split_names
from nada.clip import names as naming
from nada.clip import open_clip as ours
from nada.clip.imports import open_clip
from nada.clip.transformers import translate
from nada.experiments.evaluate import first_clip
from nada.formats.files import CheckpointError
from tests.clip_files import config, save_training, theirs, towers

OPENAIS = openai_clip().clip._MODELS
SPELT = {
    "ViT-B-32": "ViT-B/32",
    "vit-b/32": "ViT-B/32",
    "VIT_B_32": "ViT-B/32",
    "ViTB32": "ViT-B/32",
    "openai/clip-vit-base-patch32": "ViT-B/32",
    "openai/clip-vit-base-patch16": "ViT-B/16",
    "clip-vit-large-patch14": "ViT-L/14",
    "ViT-B-32-quickgelu": "ViT-B/32",
    "ViT-B-32-quickgelu:openai": "ViT-B/32",
    "ViT-B-16:openai": "ViT-B/16",
    "openai:ViT-L-14": "ViT-L/14",
    "RN50": "RN50",
    "rn50x64": "RN50x64",
    "RN50-quickgelu:openai": "RN50",
    "ViT-L/14@336px": "ViT-L/14@336px",
    "ViT-L-14-336": "ViT-L/14@336px",
    "openai/clip-vit-large-patch14-336": "ViT-L/14@336px",
    "ViT-B-32:laion2b_e16": None,
    "ViT-B-32:openai.pt": None,
    "ViT-H-14": None,
    "ViT-B/23": None,
    "./ViT-B-32": None,
    "/models/vit/b/32": None,
    "openai": None,
    "": None,
}


@pytest.mark.parametrize("spelt, name", SPELT.items())
def test_openais_models_by_every_name(spelt, name):
    assert naming.openai_name(spelt, OPENAIS) == name


def test_each_of_openais_models_has_a_name_of_its_own():
    assert [naming.openai_name(name, OPENAIS) for name in OPENAIS] == list(OPENAIS)
    architectures = list(ours.tags())
    assert len({naming.folded(name) for name in architectures}) == len(architectures)


OF_OPEN_CLIP = {
    "ViT-B-32:laion2b_s34b_b79k": "ViT-B-32:laion2b_s34b_b79k",
    "open_clip:ViT-B-32/laion2b_s34b_b79k": "ViT-B-32:laion2b_s34b_b79k",
    "open_clip:vit-b/32:LAION2B-s34B-b79K": "ViT-B-32:laion2b_s34b_b79k",
    "vit-h-14/laion2b_s32b_b79k": "ViT-H-14:laion2b_s32b_b79k",
    "convnext_base_w:laion2b_s13b_b82k": "convnext_base_w:laion2b_s13b_b82k",
    "ViT-H-14": "ViT-H-14",
    "ViT-H-14:laion9": "ViT-H-14:laion9",
    "ViT-H-14:/some/where/file.pt": "ViT-H-14:file.pt",
    "ViT-L-14/datacomp_xl_s13b_b90k:file.bin": "ViT-L-14:datacomp_xl_s13b_b90k:file.bin",
    "ViT-X/99": "None",
    "laion/CLIP-ViT-B-32": "None",
    "a/b/c/d": "None",
}


@pytest.mark.parametrize("spelt, meant", OF_OPEN_CLIP.items())
def test_open_clips_models_by_name(spelt, meant):
    assert str(naming.open_clip_name(spelt, ours.tags())) == meant


def test_an_unknown_name_gets_the_list_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"“ViT-B/23”: use a file or one of demo, .* Similar: ViT-B"
    ):
        load_clip("ViT-B/23")
    with pytest.raises(ValueError, match=r"Similar: .*xlm-roberta-base-ViT-B-32:laion5b_s13b_b90k"):
        load_clip("xlm-roberta-bse-vit-b-32:laion5b_s13b_b90k")
    with pytest.raises(ValueError, match=r"There is no CLIP file “none\.pt”: check"):
        load_clip("openai:none.pt")


def test_models_are_joined_by_plus_or_comma(tmp_path, monkeypatch):
    assert split_names("ViT-B/32, ViT-B/16+ RN50") == ["ViT-B/32", "ViT-B/16", "RN50"]
    assert first_clip("RN50, ViT-B/32") == "RN50"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b+c.pt").touch()
    assert split_names(" a,b+c.pt") == ["a,b+c.pt"]
    assert split_names("openai:a,b+c.pt") == ["openai:a,b+c.pt"]
    assert split_names("demo,openai:a,b+c.pt") != ["demo,openai:a,b+c.pt"]


def test_what_is_on_the_disk_comes_before_another_spelling(tmp_path, monkeypatch, clip_tiny):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vitb32").mkdir()
    with pytest.raises(ValueError, match="vitb32 cannot be used as a CLIP model"):
        load_clip("vitb32")
    state = {**clip_tiny.model.state_dict(), "input_resolution": torch.tensor(16)}
    torch.save(state, tmp_path / "rn50")
    assert load_clip("rn50").resolution == 16


# Bare files


def test_a_file_that_leaves_it_open_is_asked_about(tmp_path, clip_tiny):
    """LAION's weights have the names and shapes of OpenAI's, and another activation."""
    save_file(clip_tiny.model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(Unclear) as error:
        load_clip(tmp_path / "w.safetensors")
    assert str(error.value) == (
        "w.safetensors does not say which activation and how many heads its layers have, in which "
        "models of the same shapes differ: give it as openai:w.safetensors if OpenAI trained it, "
        "as ViT-B-32:w.safetensors with open_clip's name of its architecture, or with its "
        "open_clip_config.json beside it."
    )
    assert type(load_clip(f"openai:{tmp_path}/w.safetensors")) is CLIP


def test_a_training_file_may_be_openais(tmp_path, clip_tiny):
    path = save_training(tmp_path / "epoch.pt", clip_tiny.model)
    loaded, images = load_clip(f"openai:{path}"), torch.randn(1, 3, 16, 16)
    assert torch.equal(loaded.encode_image(images), clip_tiny.encode_image(images))


def test_towers_that_openai_never_made_are_not_taken_for_theirs(tmp_path):
    model = open_clip().CustomTextCLIP(**config()).eval()
    torch.save(model.state_dict(), tmp_path / "c.pt")
    for name in (f"{tmp_path}/c.pt", f"openai:{tmp_path}/c.pt"):
        with pytest.raises(Unclear, match=r"differ: give it as ViT-B-32:c\.pt with"):
            load_clip(name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_an_archive_of_open_clip_is_not_taken_for_openais(tmp_path):
    inputs = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long))
    torch.jit.trace(towers(config()), inputs).save(tmp_path / "c.pt")
    with pytest.raises(Unclear, match="does not say which activation"):
        load_clip(tmp_path / "c.pt")


def test_files_of_something_else_get_a_sentence(tmp_path, clip_tiny):
    state = clip_tiny.model.state_dict()
    torch.save({"one": dict(state), "two": dict(state)}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match="holds several CLIP models, “one” and “two”: save the"):
        load_clip(tmp_path / "two.pt")
    torch.save({"weight": torch.ones(3)}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"none\.pt cannot .* no CLIP model, which has a"):
        load_clip(tmp_path / "none.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty cannot .* neither open_clip_config\.json"):
        load_clip(tmp_path / "empty")


def test_nothing_in_a_file_is_run(tmp_path):
    class Program:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "c.pt").write_bytes(pickle.dumps({"logit_scale": Program()}))
    with pytest.raises(CheckpointError, match=r"asks for '(posix|nt)\.system', which only"):
        load_clip(f"openai:{tmp_path}/c.pt")
    assert not (tmp_path / "ran").exists()


# transformers


def layers(state, tower, x, heads, act, mask=None):
    """A tower of transformers, from [L, W] to [L, W], as its `CLIPEncoderLayer` computes it."""

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    for layer in range(2):
        place = f"{tower}.encoder.layers.{layer}"
        y = norm(f"{place}.layer_norm1", x)
        q, k, v = (
            linear(f"{place}.self_attn.{name}_proj", y).unflatten(1, (heads, -1)).transpose(0, 1)
            for name in "qkv"
        )  # [heads, L, W / heads]
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        scores = scores if mask is None else scores + mask
        seen = (scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1)
        x = x + linear(f"{place}.self_attn.out_proj", seen)
        y = norm(f"{place}.layer_norm2", x)
        x = x + linear(f"{place}.mlp.fc2", act(linear(f"{place}.mlp.fc1", y)))
    return x


def features(state, pixels, ids, heads, act):
    """Unit image and text features of one image [3, 32, 32] and one prompt's tokens [L]."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    first = state["vision_model.embeddings.patch_embedding.weight"]
    patches = F.conv2d(pixels[None], first, stride=16)
    x = torch.cat([state["vision_model.embeddings.class_embedding"][None], patches[0].flatten(1).T])
    x = x + state["vision_model.embeddings.position_embedding.weight"]
    x = layers(state, "vision_model", norm("vision_model.pre_layrnorm", x), heads, act)
    image = norm("vision_model.post_layernorm", x[0]) @ state["visual_projection.weight"].T

    x = state["text_model.embeddings.token_embedding.weight"][ids]
    x = x + state["text_model.embeddings.position_embedding.weight"][: len(ids)]
    mask = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
    x = norm("text_model.final_layer_norm", layers(state, "text_model", x, 1, act, mask))
    text = x[-1] @ state["text_projection.weight"].T
    return F.normalize(image, dim=0), F.normalize(text, dim=0)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def of_transformers(**vision) -> dict:
    """A `config.json`; what is as by default is left out, as newer versions do."""
    act = {key: vision[key] for key in vision if key == "hidden_act"}
    return {
        "model_type": "clip",
        "text_config": {"num_attention_heads": 1, **act},
        "vision_config": {"num_attention_heads": 2, **vision},
    }


KINDS = {
    "OpenAI's": (128, 512, {}, 2, quick_gelu, CLIP),
    "GELU": (128, 512, {"hidden_act": "gelu"}, 2, F.gelu, OpenCLIP),
    "heads of 80": (160, 640, {"hidden_act": "gelu"}, 2, F.gelu, OpenCLIP),
    "heads of 32": (128, 512, {"num_attention_heads": 4}, 4, quick_gelu, OpenCLIP),
    "wide layers": (128, 640, {}, 2, quick_gelu, OpenCLIP),
}


@pytest.mark.parametrize("width, hidden, vision, heads, act, kind", KINDS.values(), ids=KINDS)
def test_transformers_names_and_configuration(tmp_path, width, hidden, vision, heads, act, kind):
    state = theirs(width, hidden)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"neither open_clip_config\.json nor config\.json"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(of_transformers(**vision)))
    images = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    pixels = torch.rand(3, 32, 32)
    normal = [torch.tensor(images[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std")]
    for source in (tmp_path, tmp_path / "model.safetensors"):
        clip = load_clip(source)
        assert type(clip) is kind and clip.preprocessing.mode == "bilinear"
        ids = [49406, *clip.check_prompt("a sad robot"), 49407]
        image, text = features(state, (pixels - normal[0]) / normal[1], ids, heads, act)
        got = clip.encode_image(pixels[None] * 2 - 1)[0], clip.encode_text(["a sad robot"])[0]
        torch.testing.assert_close(got[0], image, rtol=0, atol=1e-4)
        torch.testing.assert_close(got[1], text, rtol=0, atol=1e-4)


def test_a_file_of_transformers_alone_is_asked_about(tmp_path):
    torch.save({f"clip.{key}": value for key, value in theirs().items()}, tmp_path / "p.bin")
    with pytest.raises(Unclear, match=r"openai:p\.bin if OpenAI .* its config\.json beside it"):
        load_clip(tmp_path / "p.bin")
    assert type(load_clip(f"openai:{tmp_path}/p.bin")) is CLIP


UNKNOWN = {
    "another model": ({"model_type": "siglip"}, "config.json is of 'siglip' and not of 'clip'"),
    "another activation": (
        of_transformers(hidden_act="relu"),
        "activation is “relu”; quick_gelu or",
    ),
    "two activations": (
        {"vision_config": {"hidden_act": "gelu"}},
        "activation is “gelu” and “quick_gelu”",
    ),
    "a constant": ({"text_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps is 1e-06; 1e-05"),
    "no heads": (of_transformers(num_attention_heads=0), "num_attention_heads is 0"),
    "uneven heads": (of_transformers(num_attention_heads=3), "divisible"),
}


@pytest.mark.parametrize("told, complaint", UNKNOWN.values(), ids=UNKNOWN)
def test_what_a_configuration_says_and_nobody_computes_is_refused(tmp_path, told, complaint):
    save_file(theirs(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=complaint):
        load_clip(tmp_path)


def test_names_that_clip_does_not_have_are_told():
    state = theirs()
    q = state.pop("text_model.encoder.layers.0.self_attn.q_proj.weight")
    with pytest.raises(ValueError, match=r"0\.attn\.in_proj_weight' has but k, v of q, k, v"):
        translate(state)
    state["text_model.encoder.layers.0.self_attn.p_proj.weight"] = q
    with pytest.raises(ValueError, match=r"p_proj\.weight' is no tensor of CLIP"):
        translate(state)


def test_another_vocabulary_is_refused(tmp_path):
    state = theirs()
    key = "text_model.embeddings.token_embedding.weight"
    state[key] = state[key][:500].clone()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(of_transformers()))
    with pytest.raises(ValueError, match="vocabulary has 500 tokens and is not OpenAI's of 49408"):
        load_clip(tmp_path)
