"""Small CLIPs of open_clip with random weights, and the files in which people have them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from nada.clip.imports import open_clip

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
