"""CLIP in the names of the package transformers → OpenAI's names, and what its configuration says.

The package is not needed. Sources: its `CLIPModel` and `CLIPConfig`, whose defaults a configuration
leaves out.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from nada.clip.encoder import MEAN, STD, Preprocessing
from nada.clip.openai import VOCABULARY
from nada.formats.messages import brief, quote

ONES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # their spelling
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
PROJECTIONS = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
IN_LAYERS = re.compile(
    r"(text_model|vision_model)\.encoder\.layers\.(\d{1,4})\.(.+)\.(weight|bias)"
)
JOINED = ("q", "k", "v")  # one matrix in OpenAI's layers, in this order
ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # whether it is QuickGELU
HEADS = {"text_config": 8, "vision_config": 12}  # where a configuration leaves them out
FILTERS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in transformers' names → one in OpenAI's.

    Raises:
        ValueError: a name that CLIP does not have there, or a third of a matrix that is missing.
    """
    ours: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        layer = IN_LAYERS.fullmatch(name)
        if name.endswith("position_ids"):  # a counter
            continue
        if name in ONES:
            ours[ONES[name]] = value
        elif name in PROJECTIONS:
            ours[PROJECTIONS[name]] = value.T.contiguous()
        elif layer and layer[3] in LAYER:
            place = f"{TOWERS[layer[1]]}.resblocks.{int(layer[2])}"
            ours[f"{place}.{LAYER[layer[3]]}.{layer[4]}"] = value
        elif layer and (third := re.fullmatch(r"self_attn\.([qkv])_proj", layer[3])):
            place = f"{TOWERS[layer[1]]}.resblocks.{int(layer[2])}"
            thirds.setdefault(f"{place}.attn.in_proj_{layer[4]}", {})[third[1]] = value
        else:
            raise ValueError(f"{brief(name)} is no tensor of CLIP in transformers' names")
    for name, parts in thirds.items():
        if len(parts) < len(JOINED):
            raise ValueError(f"{brief(name)} has but {', '.join(sorted(parts))} of q, k, v")
        ours[name] = torch.cat([parts[third] for third in JOINED])
    return ours


def architecture(config: Mapping, state: Mapping[str, Tensor]) -> dict | None:
    """What is no weight, as open_clip's configurations have it; None for what OpenAI's models are.

    Args:
        config: `config.json`.
        state: in OpenAI's names.

    Raises:
        ValueError: it is of another model, or one that cannot be computed here.
    """
    if config.get("model_type", "clip") != "clip":
        raise ValueError(f"its config.json is of {brief(config['model_type'])} and not of 'clip'")
    act = {str(_of(config, part, "hidden_act", "quick_gelu")) for part in HEADS}
    if len(act) > 1 or not act <= ACTIVATIONS.keys():
        names = " and ".join(sorted(map(quote, act)))
        raise ValueError(f"its activation is {names}; quick_gelu or gelu in both towers is known")
    for part in HEADS:
        if (eps := _of(config, part, "layer_norm_eps", 1e-5)) != 1e-5:
            raise ValueError(f"its layer_norm_eps is {brief(eps)}; 1e-05 is known")
    vocabulary = len(state["token_embedding.weight"])
    if vocabulary != VOCABULARY:
        raise ValueError(
            f"its vocabulary has {vocabulary} tokens and is not OpenAI's of {VOCABULARY}: prompts "
            "would be read wrongly"
        )
    quick = ACTIVATIONS[act.pop()]
    text, vision = _tower(state, "transformer"), _tower(state, "visual.transformer")
    heads = {part: _heads(config, part) for part in HEADS}
    widths = {"text_config": text["width"], "vision_config": vision["width"]}
    usual = all(64 * heads[part] == widths[part] for part in HEADS)
    if quick and usual and text["mlp_ratio"] == vision["mlp_ratio"] == 4:
        return None
    patch, places = (
        state["visual.conv1.weight"].shape[-1],
        len(state["visual.positional_embedding"]),
    )
    return {
        "embed_dim": state["text_projection"].shape[1],
        "quick_gelu": quick,
        "vision_cfg": {
            **vision,
            "head_width": vision["width"] // heads["vision_config"],
            "patch_size": patch,
            "image_size": patch * round((places - 1) ** 0.5),
        },
        "text_cfg": {
            **text,
            "heads": heads["text_config"],
            "context_length": len(state["positional_embedding"]),
            "vocab_size": vocabulary,
        },
    }


def preprocessing(config: Mapping) -> Preprocessing:
    """What `preprocessor_config.json` says.

    Raises:
        ValueError: a filter that is not known here.
    """
    resample = config.get("resample", 3)
    if resample not in FILTERS:
        raise ValueError(f"its images are resized with filter {brief(resample)}; use 2 or 3")
    crop = config.get("do_center_crop", True)
    mean, std = (config.get(f"image_{key}", usual) for key, usual in (("mean", MEAN), ("std", STD)))
    return Preprocessing(tuple(mean), tuple(std), FILTERS[resample], bool(crop))


def _of(config: Mapping, part: str, key: str, default: object) -> object:
    """A value of one tower's configuration, which older files have under another name too."""
    inner = {**(config.get(part) or {}), **(config.get(f"{part}_dict") or {})}
    return inner.get(key, default)


def _heads(config: Mapping, part: str) -> int:
    heads = _of(config, part, "num_attention_heads", HEADS[part])
    if not isinstance(heads, int) or not 0 < heads < 1000:
        raise ValueError(f"its num_attention_heads is {brief(heads)}")
    return heads


def _tower(state: Mapping[str, Tensor], place: str) -> dict:
    """Width, depth and the ratio of the widths in a tower's layers."""
    inner = [
        name for name in state if re.fullmatch(rf"{place}\.resblocks\.\d+\.mlp\.c_fc\.weight", name)
    ]
    if not inner:
        raise ValueError(f"{place!r} has no layers")
    hidden, width = state[inner[0]].shape
    return {"width": width, "layers": len(inner), "mlp_ratio": hidden / width}
