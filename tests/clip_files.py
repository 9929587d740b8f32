"""Small CLIPs of open_clip and transformers with random weights, and files in which they come."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from nada.clip.imports import open_clip
from tests.helpers import randn

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
BESIDE = "open_clip_config.json"


def config(quick: bool = False, head_width: int = 80, context: int = 16) -> dict:
    """Of a model like ViT-H, whose heads are of 80, but of two layers."""
    return {
        "embed_dim": 32,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 320, "head_width": head_width,
                       "patch_size": 16},
        "text_cfg": {"context_length": context, "vocab_size": 49408, "width": 64, "heads": 1,
                     "layers": 1},
    }  # fmt: skip


def towers(options: dict) -> torch.nn.Module:
    """open_clip's own model; weights so large that an activation makes a difference."""
    model = open_clip().CLIP(**options).eval().requires_grad_(False)
    for key, value in model.state_dict().items():
        if key.endswith("c_fc.weight"):
            value.mul_(4)
    return model


def image_features(model: torch.nn.Module, images: torch.Tensor, mean=MEAN, std=STD):
    """open_clip's features of images in [-1, 1] at the model's own size."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (mean, std))
    return model.encode_image(((images + 1) / 2 - mean) / std, normalize=True)


def text_features(model: torch.nn.Module, prompts: list[str]):
    """open_clip's features of prompts, by its own tokenizer."""
    tokens = open_clip().SimpleTokenizer(context_length=model.context_length)(prompts)
    return model.encode_text(tokens, normalize=True)


def save_folder(folder: Path, model: torch.nn.Module, options: dict, images: dict | None = None):
    """As open_clip writes a folder for the Hub."""
    folder.mkdir(exist_ok=True, parents=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    images = {"mean": MEAN, "std": STD} if images is None else images
    (folder / BESIDE).write_text(json.dumps({"model_cfg": options, "preprocess_cfg": images}))
    return folder


def save_training(path: Path, model: torch.nn.Module) -> Path:
    """As open_clip's training writes a file."""
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    state["module.logit_bias"] = torch.tensor(-10.0)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": optimizer}, path)
    return path


def theirs(width: int = 128, hidden: int = 512) -> dict[str, torch.Tensor]:
    """Weights in transformers' names: 2 layers, images of 32 in patches of 16, 12 tokens."""
    shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, 64),
        "text_model.embeddings.position_embedding.weight": (12, 64),
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, 16, 16),
        "vision_model.embeddings.position_embedding.weight": (5, width),
        "text_projection.weight": (24, 64),
        "visual_projection.weight": (24, width),
    }
    norms = [("text_model.final_layer_norm", 64), ("vision_model.pre_layrnorm", width),
             ("vision_model.post_layernorm", width)]  # fmt: skip
    for tower, size, inner in (("text_model", 64, 256), ("vision_model", width, hidden)):
        for layer in range(2):
            place = f"{tower}.encoder.layers.{layer}"
            norms += [(f"{place}.layer_norm{i}", size) for i in (1, 2)]
            maps = {f"self_attn.{x}_proj": (size, size) for x in ("q", "k", "v", "out")}
            for name, shape in {**maps, "mlp.fc1": (inner, size), "mlp.fc2": (size, inner)}.items():
                shapes |= {f"{place}.{name}.weight": shape, f"{place}.{name}.bias": shape[:1]}
    state = {key: randn(key, shape) * (shape[-1] ** -0.5) for key, shape in shapes.items()}
    for name, size in norms:
        state[f"{name}.weight"] = 1 + 0.1 * randn(f"{name}.w", (size,))
        state[f"{name}.bias"] = 0.1 * randn(f"{name}.b", (size,))
    state["logit_scale"] = torch.tensor(2.6592)
    state["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    return state
