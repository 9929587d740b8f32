"""Resolve a generator's name, path or Hub id to a file.

A source is a name of `CATALOGUE`, a path, or "org/repo[:file][@revision]" on the Hugging Face Hub;
"#" and 64 hex digits behind any of them state the SHA-256 that the file must have.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from urllib.request import url2pathname

from nada.formats.files import CheckpointError, bundled_file, file_digest
from nada.formats.hub import SUFFIXES, HubError, HubFile, Report, answers, fetch, find
from nada.formats.messages import brief, quote


@dataclass(frozen=True)
class CatalogueEntry:
    """A generator with a name of its own.

    Args:
        name: what people and the command line call it.
        title: the same for a list to choose from.
        places: where it lies, tried in this order: a path from checkpoints/, or a file on the Hub.
        licence: on what terms, in a line.
        aligned: the crop of its images.
        preset: the settings that suit it, a key of `nada.presets.PRESETS`.
        clip: the CLIP models that know its images, as `nada.clip.load_clips` takes them.
    """

    name: str
    title: str
    places: tuple[Path | HubFile, ...]
    licence: str
    aligned: str
    preset: str
    clip: str


QUOTATION_MARKS = ("''", '""', "“”", "«»", "‘’", "„“")
LONGEST = 300  # of a source on the Hub, in characters; the longest in use have some 100

# The places of FFHQ are those that other programs load it from. No revision or checksum of them is
# known here: state your own with "@" and "#", and compare what `locate` names.
CATALOGUE = {
    "demo": CatalogueEntry(
        "demo",
        "Rendered portraits (bundled)",
        (Path("generator.safetensors"),),
        "MIT",
        "head and shoulders, as this project's renderer frames them",
        "demo",
        "demo",
    ),
    "ffhq": CatalogueEntry(
        "ffhq",
        "FFHQ faces, 1024 pixels",
        (
            HubFile("akhaliq/OneshotCLIP-stylegan2-ffhq", "stylegan2-ffhq-config-f.pt"),
            HubFile("akhaliq/jojogan-stylegan2-ffhq-config-f", "stylegan2-ffhq-config-f.pt"),
        ),
        "NVIDIA Source Code License, non-commercial; FFHQ pictures CC BY-NC-SA 4.0 and others",
        "faces aligned by their landmarks as in FFHQ",
        "ffhq",
        "ViT-B/32",
    ),
}


@dataclass(frozen=True)
class ResolvedFile:
    """A file that is here.

    Args:
        name: what to call it, without folders of this machine.
        path: where it lies.
        sha256: of its contents; None for a local file whose checksum nobody asked for.
        revision: the commit on the Hub that it is from, if it is.
        entry: what the catalogue knows of it, if it was asked for by a name of `CATALOGUE`.
    """

    name: str
    path: Path
    sha256: str | None = None
    revision: str | None = None
    entry: CatalogueEntry | None = None

    def __str__(self) -> str:
        commit = f" at {self.revision[:12]}" if self.revision else ""
        return self.name + commit + (f", sha256 {self.sha256}" if self.sha256 else "")


class Choice(NamedTuple):
    """A source, and the sentence that says why it was taken ("" where a person chose)."""

    source: str
    reason: str


def locate(
    source: str | Path | ResolvedFile,
    revision: str | None = None,
    sha256: str | None = None,
    progress: Report | None = None,
) -> ResolvedFile:
    """The file of a source, downloaded into the Hub's cache if need be.

    Args:
        source: as this module's text says and `meant` understands it, or a `ResolvedFile`, which is
            given back.
        revision: branch, tag or commit on the Hub; the same as "@revision".
        sha256: what the file must hash to, 64 hex digits; the same as "#sha256".
        progress: called while downloading with bytes there, bytes in all (None if unknown) and a
            name; what it raises ends the download.

    Raises:
        CheckpointError: there is no such file, it cannot be had, or its checksum is another.
    """
    if isinstance(source, ResolvedFile):
        return source
    text, stated = _split(meant(str(source)), r"(.*)#([0-9a-fA-F]+)")
    if not os.path.isfile(text):
        _refuse_address(text)
    name, tag = _split(text, r"([^@:]*(?::[^@]*)?)@(.+)")
    sha256, revision = sha256 or stated, revision or tag
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise CheckpointError(f"The sha256 {sha256[:80]!r} is not 64 hex digits: give it in full.")
    if name in CATALOGUE:
        place = _named(CATALOGUE[name], revision, progress)
    elif os.path.isfile(text):  # False, too, for text that cannot be a path
        place = ResolvedFile(Path(text).name, Path(text))
    else:
        place = _from_hub(_hub_file(name, revision), progress)
    return _checked(place, sha256)


def meant(source: str) -> str:
    """A source as it was pasted, without the quotation marks of a file manager and "file://", and
    with the home folder for "~"."""
    if os.path.isfile(text := source.strip()):
        return text
    if len(text) > 1 and (text[0] + text[-1]) in QUOTATION_MARKS:
        text = text[1:-1].strip()
    if address := re.fullmatch(r"file:(?://(?:localhost)?)?(/(?!/).*)", text, re.IGNORECASE):
        text = url2pathname(address[1])
    return os.path.expanduser(text)


def servable(gpu: str) -> list[CatalogueEntry]:
    """The named generators that this machine serves well, the bundled one first.

    Asks the Hub, for a few seconds at most, about what is not in the cache.

    Args:
        gpu: the GPU that does the work, for people ("a GPU (cuda)"); "" for none.
    """
    return [named for named in CATALOGUE.values() if not _obstacle(named, gpu)]


def choose(wanted: str, gpu: str) -> Choice:
    """The generator to start with; "auto" takes FFHQ where it can be served, else the bundled one.

    Args:
        wanted: "auto", or any other source, which comes back as it was `meant`, unchecked and with
            no reason.
        gpu: as `servable` takes it.
    """
    if (wanted := meant(wanted)) != "auto":
        return Choice(wanted, "")
    obstacle = _obstacle(CATALOGUE["ffhq"], gpu)
    if obstacle:
        return Choice("demo", f"The bundled generator is used, since {obstacle}.")
    return Choice("ffhq", f"FFHQ is used, since there is {gpu} and it can be had.")


def _obstacle(named: CatalogueEntry, gpu: str) -> str:
    """Why `named` is not served unless it is asked for, as a clause; "" if it is."""
    wanted = [place for place in named.places if isinstance(place, HubFile)]
    if not wanted:
        return ""
    if not gpu:
        return (
            f"{named.name!r} would take minutes a run on a CPU and there is no GPU here; "
            f"ask for it with --generator {named.name}"
        )
    if not any(answers(place) for place in wanted):
        return f"{named.name!r} is not in the cache and the Hub does not give it"
    return ""


def _split(text: str, pattern: str) -> tuple[str, str | None]:
    match = re.fullmatch(pattern, text)
    return (match[1], match[2]) if match else (text, None)


def _refuse_address(text: str) -> None:
    """Say what to give instead of an address as a browser shows it."""
    pattern = r"(?:\w+://|(?=(?:www\.)?(?:huggingface\.co|hf\.co)/))(?:www\.)?([^/?]+)/?(.*)"
    if not (address := re.match(pattern, text)):
        return
    host, path = address[1].lower(), address[2]
    page = re.match(
        r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/(?:blob|resolve|raw|tree)/([^/?]+))?(?:/([^?]+))?", path
    )
    if host in ("huggingface.co", "hf.co") and page and len(text) <= LONGEST:
        repo, revision, file = page.groups()
        named = repo + (f":{file}" if file else "")
        named += f"@{revision}" if revision and revision != "main" else ""
        raise CheckpointError(f"{brief(text)} is a page of the Hub: give {quote(named, 120)}.")
    raise CheckpointError(
        f"{brief(text)} is an address, and files are not fetched from anywhere but the Hub: "
        "download the file and give its path."
    )


def _hub_file(name: str, revision: str | None) -> HubFile:
    match = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::(.+))?", name)
    if not match or len(name) > LONGEST or (match[2] is None and name.endswith(SUFFIXES)):
        raise CheckpointError(
            f"There is no generator file {brief(name)}; give {', '.join(map(repr, CATALOGUE))}, a "
            "path (.safetensors, .pt, .pkl), or org/repo:file on the Hub."
        )
    repo, file = match.groups()
    for what in filter(None, (file, revision)):
        if re.search(r"[\\:]|//|/$|^/|(^|/)\.\.?(/|$)", what):
            raise CheckpointError(
                f"There is no {brief(what)} on the Hub: names there are like folder/file.pt, "
                "relative and without '..'."
            )
    return HubFile(repo, file, revision) if file else find(repo, revision)


def _named(named: CatalogueEntry, revision: str | None, progress: Report | None) -> ResolvedFile:
    """The first of its places that gives the file."""
    unreachable, errors = False, []
    for place in named.places:
        if isinstance(place, Path):
            return ResolvedFile(named.name, bundled_file(place), entry=named)
        try:
            wanted = HubFile(place.repo, place.file, revision)
            return replace(_from_hub(wanted, progress, local=unreachable), entry=named)
        except HubError as error:
            unreachable |= error.unreachable
            errors.append(error)
    if unreachable:
        raise next(error for error in errors if error.unreachable)
    reasons = "; ".join(str(error).rstrip(".") for error in errors)
    raise CheckpointError(f"No place has {named.name!r}: {reasons}.")


def _from_hub(wanted: HubFile, progress: Report | None, local: bool = False) -> ResolvedFile:
    path, sha256 = fetch(wanted, progress, local)
    commit = re.search(r"models--[^/\\]+[/\\]snapshots[/\\](\w+)", str(path))
    return ResolvedFile(f"{wanted.repo}:{wanted.file}", path, sha256, commit and commit[1])


def _checked(place: ResolvedFile, sha256: str | None) -> ResolvedFile:
    if sha256 is None:
        return place
    found = place.sha256 or file_digest(place.path)
    if found != sha256.lower():
        raise CheckpointError(
            f"{place.name} is not the file that was asked for: its sha256 is {found}, and "
            f"{sha256.lower()} was expected; check the revision, or get it from its source again."
        )
    return replace(place, sha256=found)
