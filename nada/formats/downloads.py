"""Files from an address whose checksum is known: resumed when cut off, in place only when whole."""

import os
from pathlib import Path

import huggingface_hub as hf
from filelock import FileLock
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get

from nada.formats.files import CheckpointError, file_digest
from nada.formats.hub import (
    Report,
    no_long_waits,
    of_disk,
    of_transport,
    progress_bar,
    when,
    worth_another_try,
)
from nada.formats.messages import first_line


def download(url: str, sha256: str, name: str, progress: Report | None = None) -> Path:
    """The file at `url`, from the Hub library's folder for such files or the network.

    What a broken connection left is kept beside its place, and the next call goes on from there.

    Args:
        url: where it is.
        sha256: of its contents, in hex.
        name: what to call it in messages.
        progress: called with bytes there, bytes in all (None if unknown) and `name`; what it raises
            ends the download.

    Raises:
        CheckpointError: it cannot be had.
    """
    path = hf.cached_assets_path("nada", "downloads") / f"{sha256[:16]}-{url.rsplit('/', 1)[-1]}"
    if path.is_file() and file_digest(path) == sha256:
        return path
    try:
        with FileLock(f"{path}.lock"):
            return _download(url, sha256, path, name, progress)
    except (HfHubHTTPError, OSError, OfflineModeIsEnabled) as error:
        raise CheckpointError(_sentence(error, name, path)) from error
    except Exception as error:
        if of_transport(error):
            raise CheckpointError(_sentence(error, name, path)) from error
        raise


def _download(url: str, sha256: str, path: Path, name: str, progress: Report | None) -> Path:
    partial = path.with_name(path.name + ".incomplete")
    bar = progress_bar(progress, name) if progress else None
    for last in (False, True):
        try:
            with partial.open("ab") as file:
                there = file.tell()
                with no_long_waits():
                    http_get(url, file, resume_size=there, displayed_filename=name, tqdm_class=bar)
        except Exception as error:
            if last or not worth_another_try(error):
                raise
            if isinstance(error, HfHubHTTPError):  # what is there is longer than the file itself
                partial.unlink()
            continue
        if file_digest(partial) == sha256:
            os.replace(partial, path)
            return path
        partial.unlink()
    raise CheckpointError(
        f"{name} arrives damaged, with another checksum than {sha256[:12]}…; nothing was kept: "
        "try another network."
    )


def _sentence(error: Exception, name: str, path: Path) -> str:
    demo = "or use the bundled “demo”"
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{name} is not here, and offline mode is on: unset HF_HUB_OFFLINE once to download "
            f"it, {demo}."
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"{name} could not be downloaded (status {status}): try again {when(error)}, {demo}."
    if of_transport(error):
        return (
            f"{name} could not be downloaded ({first_line(error)}): check the connection and try "
            f"again, which goes on where it was cut off, {demo}."
        )
    return of_disk(error, name, path.parent)
