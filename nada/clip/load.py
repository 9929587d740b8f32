"""From a name or a file to a CLIP: OpenAI's, open_clip's, transformers' of the same architecture.

What weights leave open (activation, heads, how images are made ready) is taken from whoever wrote
them, from a configuration beside them or from what the user says, and never guessed.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nada.clip import open_clip, transformers
from nada.clip.encoder import ClipModule, Preprocessing, Unclear
from nada.clip.imports import PACKAGE, NotInstalled, has_open_clip, openai_clip
from nada.clip.names import (
    BUNDLED,
    FILES,
    HUB,
    OpenClipName,
    nearest,
    open_clip_name,
    openai_name,
    split_names,
)
from nada.clip.openai import CLIP, build
from nada.clip.reach import read_reach
from nada.clip.weights import ANCHOR, OPEN_CLIP, TRANSFORMERS, Weights, read_weights
from nada.formats.downloads import download
from nada.formats.files import CheckpointError, bundled_file, file_digest
from nada.formats.hub import HubError, Report, fetch_first
from nada.formats.messages import brief, first_line, quote

LARGEST_CONFIG = 1 << 20  # bytes; those of models have a few thousand
CONFIG, THEIR_CONFIG, THEIR_IMAGES = (
    "open_clip_config.json",
    "config.json",
    "preprocessor_config.json",
)  # open_clip's, and transformers'
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)  # what open_clip and transformers call weights in a repository or a folder, the best first


def load_clip(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    progress: Report | None = None,
) -> ClipModule:
    """A frozen CLIP in evaluation mode.

    Args:
        name_or_path: "demo" or "demo-vit" (bundled); one of OpenAI's in any spelling, such as
            "ViT-B/32" (downloaded once, its sha256 checked); one of open_clip's and its weights,
            such as "ViT-B-32:laion2b_s34b_b79k"; a repository of the Hub, "hf-hub:ORG/NAME"; a file
            or a folder with its configuration. "openai:FILE" says that a file's weights are
            OpenAI's, "ViT-H-14:FILE" that they are of that architecture of open_clip's.
        device: where to put it.
        progress: called while downloading, as `nada.formats.downloads.download` says.

    Raises:
        Unclear: a file that fits several models.
        ValueError: there is no such model, or it cannot be read.
    """
    clip = _load(str(name_or_path).strip(), progress)
    return clip.requires_grad_(False).eval().to(device)


def load_clips(
    spec: str, device: str | torch.device = "cpu", progress: Report | None = None
) -> list[ClipModule]:
    """The models of an ensemble, frozen and in evaluation mode.

    Args:
        spec: names or paths as `load_clip` takes them, joined by "+" or commas; "demo" stands for
            all bundled ones. A file may have such a sign in its name, but only where it is the one
            model.
        device, progress: as `load_clip` takes them.

    Raises:
        ValueError: there is no such model, or it cannot be read.
    """
    names: list[str] = []
    for name in split_names(str(spec)):
        names += _bundled_names() if name == "demo" else [name]
    return [load_clip(name, device, progress) for name in dict.fromkeys(names)]


def bundled_path(name: str) -> Path:
    """Where the bundled model `name` of BUNDLED lies."""
    return bundled_file(BUNDLED[name])


def _bundled_names() -> list[str]:
    """The bundled models that are here; "demo" where none is, for an error that says so."""
    return [name for name in BUNDLED if bundled_path(name).is_file()] or ["demo"]


def _load(name: str, progress: Report | None) -> ClipModule:
    """The model that a name means; what is on the disk comes before other spellings of names."""
    path = Path(name).expanduser()
    models = openai_clip().clip._MODELS
    if name in BUNDLED:
        return _of_file(_there(bundled_path(name)), name)
    if os.path.isfile(path) and name not in models:
        return _of_file(path, path.name)
    if name and os.path.isdir(path) and name not in models:
        return _of_shelf(Shelf(path), path.resolve().name)
    if own := openai_name(name, models):
        return _of_file(_downloaded(own, models[own], progress), own, openai=True)
    if name.lower().startswith("openai:") and (file := name.partition(":")[2].strip()):
        path = _there(Path(file).expanduser())
        return _of_file(path, path.name, openai=True)
    if name.lower().startswith(HUB):
        return _of_shelf(Shelf(repo=name[len(HUB) :].strip("/ "), progress=progress), name)
    wanted = open_clip_name(name, open_clip.tags()) if has_open_clip() else None
    if wanted:
        return _of_open_clip(wanted, progress)
    raise _unknown(name)


def _there(path: Path) -> Path:
    if not os.path.isfile(path):
        raise ValueError(f"There is no CLIP file {quote(str(path))}: check the name or path.")
    return path


def _unknown(name: str) -> ValueError:
    """For what is no model: the list of them, and the nearest."""
    if name.lower().endswith(FILES) and ":" not in name:
        return ValueError(f"There is no CLIP file {quote(name)}: check the name or path.")
    if page := re.match(r"https?://huggingface\.co/([\w.-]+/[\w.-]+)", name):
        return ValueError(f"{quote(name)} is a page of the Hub: give “{HUB}{page[1]}”.")
    models, more = [*BUNDLED, *openai_clip().clip._MODELS], f"or, after `{PACKAGE}`, open_clip's"
    others: list[str] = []
    if has_open_clip():
        others = [f"{one}:{tag}" for one, tags in open_clip.tags().items() for tag in tags]
        more = "or of open_clip's, as NAME:WEIGHTS"
    close = nearest(name, [*models, *others])
    like = f" Similar: {', '.join(close)}." if close else ""
    return ValueError(
        f"There is no CLIP model {quote(name)}: use a file or one of {', '.join(models)}, {more}, "
        f"or {HUB}ORG/NAME.{like}"
    )


def _downloaded(name: str, url: str, progress: Report | None) -> Path:
    """OpenAI's file, whose address holds its checksum; its own package may have left it here."""
    sha256, file = url.split("/")[-2:]
    left = Path.home() / ".cache" / "clip" / file
    if left.is_file() and file_digest(left) == sha256:
        return left
    return download(url, sha256, f"CLIP model {name}", progress)


# Files


@dataclass(frozen=True)
class Shelf:
    """Where the files of a model lie: a folder, or a repository of the Hub."""

    folder: Path | None = None
    repo: str = ""
    progress: Report | None = None

    def first(self, *names: str) -> Path | None:
        """The first of these files that is there, downloaded if need be; None if none is.

        Raises:
            CheckpointError: the Hub cannot say.
        """
        if self.folder is None:
            repo, _, revision = self.repo.partition("@")
            return fetch_first(repo, names, revision or None, self.progress)
        return next((p for name in names if (p := self.folder / name).is_file()), None)

    def weights(self) -> Path:
        """The file of weights.

        Raises:
            ValueError: none, or several that nobody calls like this.
        """
        found = self.first(*WEIGHTS)
        if found is None and self.folder is not None:
            files = [path for path in self.folder.iterdir() if path.suffix.lower() in FILES]
            found = files[0] if len(files) == 1 else None
        if found is None:
            raise ValueError(f"it has no weights called {', '.join(WEIGHTS)}")
        return found


def _of_file(path: Path, name: str, openai: bool = False) -> ClipModule:
    """The model in a file.

    Args:
        path: of the file.
        name: what to call the model.
        openai: whether it is known to be OpenAI's.
    """
    with _sound(name):
        weights = _in_openais_names(read_weights(path))
        if weights.by_openai or (openai and weights.spelling != OPEN_CLIP):
            return _from(path, _openais(weights, name))
        found = _of_config(Shelf(path.parent), weights, name)
        if found:
            return _from(path, found)
    raise Unclear(_question(path.name, weights))


def _from(path: Path, clip: ClipModule) -> ClipModule:
    """The model with what is known of the file that its weights came from."""
    reach = read_reach(path)
    clip.file, clip.reach = path, reach and reach.share
    return clip


def _of_shelf(shelf: Shelf, name: str) -> ClipModule:
    """The model in a folder or a repository, which has to hold a configuration."""
    with _sound(name):
        if shelf.first(CONFIG, THEIR_CONFIG) is None:
            raise ValueError(
                f"it has neither {CONFIG} nor {THEIR_CONFIG}, and weights do not say all"
            )
        path = shelf.weights()
        weights = _in_openais_names(read_weights(path))
        found = _of_config(shelf, weights, name)
        if found:
            return _from(path, found)
    raise Unclear(_question(path.name, weights))


def _of_config(shelf: Shelf, weights: Weights, name: str) -> ClipModule | None:
    """The model as the configuration beside its weights says, open_clip's or, where the names are
    transformers', theirs; None if there is none."""
    if path := shelf.first(CONFIG):
        config = _json(path)
        how = open_clip.preprocessing(config.get("preprocess_cfg") or {})
        model = config.get("model_cfg", config)
        return open_clip.make(model, how, weights.state, name, shelf.folder)
    path = shelf.first(THEIR_CONFIG) if weights.spelling == TRANSFORMERS else None
    if path is None:
        return None
    images = shelf.first(THEIR_IMAGES)
    how = transformers.preprocessing(_json(images)) if images else Preprocessing()
    theirs = transformers.architecture(_json(path), weights.state)
    if theirs is None:
        return _openais(weights, name, how)
    return open_clip.make(theirs, how, weights.state, name)


def _openais(weights: Weights, name: str, how: Preprocessing | None = None) -> CLIP:
    """A model of OpenAI's architecture; without what others need to train."""
    state = {key: value for key, value in weights.state.items() if key != "logit_bias"}
    state[ANCHOR] = state[ANCHOR].reshape(())
    return CLIP(build(state), name, weights.words, how)


def _of_open_clip(wanted: OpenClipName, progress: Report | None) -> ClipModule:
    """The model that open_clip has under a name.

    Raises:
        ValueError: no such weights.
        Unclear: a file of which the name does not say how images are made ready.
    """
    name, known = wanted.architecture, open_clip.tags()[wanted.architecture]
    tag = wanted.tag
    if tag is None and wanted.file is None and len(known) == 1:
        tag = known[0]
    if tag not in known and (tag or not wanted.file):
        lack = f"open_clip has no weights {quote(tag)} of {name}" if tag and known else ""
        if not known:
            raise ValueError(f"open_clip has no weights of {name}: give {name}:FILE.")
        raise ValueError(
            f"{lack or f'{name} has several weights'}: give {name}:TAG with one of "
            f"{', '.join(known)}."
        )
    how = open_clip.preprocessing_of(name, tag) if tag else _one_way(name, known)
    path = _there(wanted.file) if wanted.file else None
    with _sound(str(wanted)):
        path = path or _fetched(name, tag or "", progress)
        state = _in_openais_names(read_weights(path)).state
        return _from(path, open_clip.make(open_clip.config_of(name, tag), how, state, str(wanted)))


def _one_way(architecture: str, tags: list[str]) -> Preprocessing:
    """How images are made ready for any weights of an architecture.

    Raises:
        Unclear: it is done in several ways.
    """
    hows = {open_clip.preprocessing_of(architecture, tag): tag for tag in tags}
    if len(hows) > 1:
        one, other = list(hows.values())[:2]
        raise Unclear(
            f"Images are made ready in another way for {architecture}:{one} than for "
            f"{architecture}:{other}: say which the file is like, as {architecture}:{one}:FILE."
        )
    return next(iter(hows), Preprocessing())


def _fetched(architecture: str, tag: str, progress: Report | None) -> Path:
    """The weights that open_clip knows by a tag, from the Hub."""
    repo, file = os.path.split(open_clip.place_of(architecture, tag))
    names = (f"{os.path.splitext(file)[0]}.safetensors", file) if file else WEIGHTS
    path = Shelf(repo=repo, progress=progress).first(*names)
    if path is None:
        raise ValueError(f"{repo} on the Hub has no file {names[-1]}")
    return path


def _in_openais_names(weights: Weights) -> Weights:
    if weights.spelling != TRANSFORMERS:
        return weights
    return replace(weights, state=transformers.translate(weights.state))


def _question(file: str, weights: Weights) -> str:
    """What the weights of a file leave open, and how to say it."""
    beside = THEIR_CONFIG if weights.spelling == TRANSFORMERS else CONFIG
    openais = f"as openai:{file} if OpenAI trained it, " if weights.spelling != OPEN_CLIP else ""
    return (
        f"{file} does not say which activation and how many heads its layers have, in which models "
        f"of the same shapes differ: give it {openais}as ViT-B-32:{file} with open_clip's name of "
        f"its architecture, or with its {beside} beside it."
    )


def _json(path: Path) -> dict:
    """A configuration.

    Raises:
        ValueError: it is none.
    """
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"its {path.name} has more than {LARGEST_CONFIG} bytes")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {path.name} is not readable ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise ValueError(f"its {path.name} is no configuration but {brief(config)}")
    return config


@contextmanager
def _sound(name: str) -> Iterator[None]:
    """Say of which model an error is; a foreign file can be wrong in any way."""
    try:
        yield
    except (HubError, NotInstalled, Unclear):  # sentences with names of their own
        raise
    except CheckpointError as error:  # a sentence already
        if name not in str(error):
            error.args = (f"{name}: {error}",)
        raise
    except Exception as error:
        raise ValueError(
            f"{name} cannot be used as a CLIP model ({_reason(error)}): get the file again or "
            "choose another."
        ) from error


def _reason(error: Exception) -> str:
    """What an error says, in a few words; PyTorch's own begin with a line that says nothing."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = str(error).splitlines()
    return (
        first_line(ValueError(lines[1]))
        if lines[1:] and lines[0].endswith(":")
        else first_line(error)
    )
