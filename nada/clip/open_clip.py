"""Models of the package open_clip: any of its architectures, with the tokenizer that belongs to it.

The package makes the towers. Configurations come from it, from a folder or from the Hub, so they
are checked before anything is built; weights are read by this project's own readers.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.clip.encoder import (
    MEAN,
    STD,
    ClipModule,
    Preprocessing,
    check_text,
    nothing_to_read,
    too_long,
)
from nada.clip.imports import need_transformers, open_clip
from nada.formats.files import check_finite
from nada.formats.messages import brief, first_line

# Of a configuration: more is not of any model, and would keep the machine busy
LARGEST = {"layers": 200, "image_size": 2048, "context_length": 4096, "vocab_size": 2_000_000}
LARGEST_OTHER = 65_536
TOKENIZER_OPTIONS = {"clean", "strip_sep_token", "language", "additional_special_tokens"}
RESIZING = {"shortest": True, "squash": False}  # whether the centre of long images is taken


class OpenCLIP(ClipModule):
    """Image and text features of one model of open_clip.

    Args:
        model: its towers in float32.
        name: what to call it in messages.
        preprocessing: of images.
        tokenizer: open_clip's `SimpleTokenizer`, or its `HFTokenizer` around one of transformers.
        context_length: most tokens in a prompt, the markers included.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        preprocessing: Preprocessing,
        tokenizer: Any,
        context_length: int,
    ):
        super().__init__(model, name, preprocessing)
        self.tokenizer, self.context_length = tokenizer, context_length

    @property
    def resolution(self) -> int:
        """Side in pixels of the square images that the image tower takes."""
        return _sides(self.model)[0]

    @property
    def english(self) -> bool:
        """Whether it has OpenAI's tokenizer, whose words are English; of others nothing is known,
        and many are of many languages."""
        return isinstance(self.tokenizer, open_clip().SimpleTokenizer)

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Unit features [N, D] of N prompts.

        Raises:
            PromptError: one cannot be read.
        """
        rows = [self.check_prompt(prompt) for prompt in prompts]
        if self.english:
            tokens = torch.zeros(len(rows), self.context_length, dtype=torch.long)
            for row, ids in zip(tokens, rows, strict=True):
                ids = [self.tokenizer.sot_token_id, *ids, self.tokenizer.eot_token_id]
                row[: len(ids)] = torch.tensor(ids)
        else:
            tokens = self.tokenizer(prompts, context_length=self.context_length)
        tokens = tokens.to(self.model.logit_scale.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    def check_prompt(self, prompt: str) -> list[int]:
        """The prompt's token ids; without markers where the tokenizer is OpenAI's.

        Raises:
            PromptError: it is empty, too long, no text, or holds half a character.
        """
        check_text(prompt)
        if self.english:
            # Marker strings typed by a user come back as markers and would end the prompt early.
            room, markers = self.context_length - 2, self.tokenizer.all_special_ids
            ids = [token for token in self.tokenizer.encode(prompt) if token not in markers]
        else:
            room = self.context_length
            ids = self.tokenizer.tokenizer(self.tokenizer.clean_fn(prompt)).input_ids
        if not ids:
            raise nothing_to_read()
        if len(ids) > room:
            raise too_long(prompt, len(ids), room, self.name)
        return ids


def tags() -> dict[str, list[str]]:
    """Architecture → its weights that the package can name."""
    package = open_clip()
    return {name: package.list_pretrained_tags_by_model(name) for name in package.list_models()}


def config_of(architecture: str, tag: str | None) -> dict:
    """The configuration of an architecture, with the activation that the weights were trained
    with, which the package only warns of."""
    config = open_clip().get_model_config(architecture)
    quick = tag is not None and open_clip().get_pretrained_cfg(architecture, tag).get("quick_gelu")
    return {**config, "quick_gelu": True} if quick else config


def place_of(architecture: str, tag: str) -> str:
    """Where on the Hub the weights are: "org/repo/", or "org/repo/file"."""
    return open_clip().get_pretrained_cfg(architecture, tag)["hf_hub"]


def preprocessing_of(architecture: str, tag: str) -> Preprocessing:
    """How images are made ready for the weights that are called `tag`."""
    return preprocessing(open_clip().get_pretrained_cfg(architecture, tag))


def preprocessing(config: Mapping) -> Preprocessing:
    """What a "preprocess_cfg" says.

    Raises:
        ValueError: something that is not known here.
    """
    mode, resizing = config.get("interpolation", "bicubic"), config.get("resize_mode", "shortest")
    if mode not in ("bicubic", "bilinear") or resizing not in RESIZING:
        raise ValueError(
            f"its images are resized by {brief(mode)} and {brief(resizing)}; bicubic or bilinear "
            "and shortest or squash are known"
        )
    mean, std = config.get("mean") or MEAN, config.get("std") or STD
    return Preprocessing(tuple(mean), tuple(std), mode, RESIZING[resizing])


def make(
    config: Mapping,
    how: Preprocessing,
    state: Mapping[str, Tensor],
    name: str,
    folder: Path | None = None,
) -> OpenCLIP:
    """The model of a configuration with these weights.

    Args:
        config: a "model_cfg" of open_clip.
        how: images are made ready.
        state: weights in open_clip's names, or OpenAI's, which many of its models have.
        name: what to call it.
        folder: where its tokenizer may lie.

    Raises:
        NotInstalled: it needs a package that is not here.
        ValueError, RuntimeError: they do not belong together, or are damaged.
    """
    for key, value in state.items():
        check_finite(key, value)
    _check_numbers(config)
    if config["text_cfg"].keys() & {"hf_model_name", "hf_tokenizer_name"}:
        need_transformers()
    model = _filled(config, state)
    if len(set(_sides(model))) > 1:
        raise ValueError(f"it looks at images of {_sides(model)} and not at square ones")
    text = config["text_cfg"]
    context = text.get("context_length", 77)
    return OpenCLIP(model, name, how, _tokenizer(text, context, folder), context)


def _sides(model: Any) -> tuple[int, int]:
    """Height and width of the images that a model looks at."""
    size = model.visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


def _check_numbers(config: object, key: str = "", depth: int = 0) -> None:
    """Refuse numbers that no model has, and what is no configuration at all."""
    if depth > 4 or (not depth and not isinstance(config, Mapping)):
        raise ValueError("its configuration is none of open_clip's")
    if isinstance(config, Mapping):
        parts = (config.get("text_cfg"), config.get("vision_cfg"))
        if not depth and not all(isinstance(part, Mapping) for part in parts):
            raise ValueError("its configuration has no 'text_cfg' and 'vision_cfg'")
        for name, value in config.items():
            _check_numbers(value, str(name), depth + 1)
    elif isinstance(config, list | tuple):
        for value in config[:LARGEST_OTHER]:
            _check_numbers(value, key, depth + 1)
    elif isinstance(config, int | float):
        most = LARGEST.get(key, LARGEST_OTHER)
        if not abs(config) <= most:
            raise ValueError(f"its {brief(key)} is {brief(config)}; at most {most} was expected")


def _filled(config: Mapping, state: Mapping[str, Tensor]) -> nn.Module:
    """The towers with their weights. They are made without memory first, so that names and shapes
    are compared before anything is allocated for them."""
    with torch.device("meta"):
        model = _towers(config)
    model.load_state_dict(_fitting(model, state), assign=True)
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and key == "attn_mask":  # what is no weight: causal masks
                mask = torch.full(buffer.shape, float("-inf")).triu_(1)
                module.register_buffer(key, mask, persistent=False)
    if any(buffer.is_meta for buffer in model.buffers()):  # tables of some towers of timm
        weights = model.state_dict()
        with torch.random.fork_rng(devices=[]):
            model = _towers(config)
        model.load_state_dict(weights, assign=True)
    return model


def _towers(config: Mapping) -> nn.Module:
    """The towers of a configuration, which is left as it is; nothing is downloaded for them."""
    package, options = open_clip(), copy.deepcopy(dict(config))
    vision, text = options["vision_cfg"], options["text_cfg"]
    if ":" in str(vision.get("timm_model_name")):  # from elsewhere than the package itself
        raise ValueError(f"its image tower {brief(vision['timm_model_name'])} is not one of timm")
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    custom = options.pop("custom_text", False) or "hf_model_name" in text
    if not custom:
        return package.CLIP(**options)
    kind = package.CoCa if "multimodal_cfg" in options else package.CustomTextCLIP
    return kind(**options)


TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")


def _fitting(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the model calls them: with or without "text." before those of the text tower,
    and with numbers that only training uses where the model has some."""
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = {f"text.{k}" if k.startswith(TEXT) else k: v for k, v in state.items()}
    names = model.state_dict()
    state = {k: v for k, v in state.items() if k in names or not k.endswith("position_ids")}
    for key in ("logit_scale", "logit_bias"):
        value = state.pop(key, torch.zeros(1))
        if key in names:
            state[key] = value.reshape(names[key].shape)
    return state


def _tokenizer(text: Mapping, context: int, folder: Path | None) -> Any:
    """The tokenizer of a "text_cfg".

    Raises:
        ValueError: it cannot be had, or its options could do more than read prompts.
    """
    options = text.get("tokenizer_kwargs") or {}
    if unknown := options.keys() - TOKENIZER_OPTIONS - {"reduction_mask"}:
        raise ValueError(f"its tokenizer has the option {brief(min(unknown))}, which is unknown")
    options = {key: value for key, value in options.items() if key in TOKENIZER_OPTIONS}
    package, name = open_clip(), text.get("hf_tokenizer_name")
    if not name:
        return package.SimpleTokenizer(context_length=context, **options)
    here = folder and any((folder / f"tokenizer{end}.json").is_file() for end in ("", "_config"))
    try:
        return package.tokenizer.HFTokenizer(
            str(folder) if here else name,
            context_length=context,
            tokenizer_mode=text.get("tokenizer_mode"),
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # of many libraries
        raise ValueError(
            f"its tokenizer {brief(name)} could not be had ({first_line(error)})"
        ) from error
