"""What a server finds where it is started: proxies, folders, an address to listen on.

Each is made usable, or told in a sentence. `make_usable` has to come before gradio, which reads
most of it once, when it is imported.
"""

import errno
import os
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx

from nada.machine import speak_utf8
from op.backends import asked
from op.build import BACKENDS, can_be_written, library_path, missing, private_folder

INTERNET = (socket.AF_INET, socket.AF_INET6)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # upper case means the same


class CannotStart(ValueError):
    """Why a server cannot be started here, a sentence."""


@contextmanager
def ending_in_a_sentence(program: str) -> Iterator[None]:
    """Let what a start fails of be one line on stderr, and the exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def make_usable() -> None:
    """Change this process's environment so that a server starts; what is left out is told.

    Raises:
        CannotStart: no file can be written anywhere.
    """
    speak_utf8()
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # PYTHONIOENCODING=ascii must not turn a name into an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for sentence in leave_out_proxies():
        print(sentence, file=sys.stderr)
    find_folders()


# Proxies


def leave_out_proxies() -> list[str]:
    """Take proxies that cannot be used out of the environment, where any would end every client
    that is made, of this machine's own page as well; a sentence for each."""
    sentences = []
    for name in [name for name in os.environ if name.lower() in PROXIES]:
        address = os.environ[name]
        try:
            httpx.HTTPTransport(proxy=address if "://" in address else f"http://{address}").close()
        except ImportError:
            reason = 'needs a package: pip install "httpx[socks]"'
        except (ValueError, httpx.InvalidURL):
            reason = "is not the address of one: write http://host:port"
        else:
            continue
        del os.environ[name]
        sentences.append(f"{name} is left out, since that proxy {reason}.")
    return sentences


def reach_without_proxy(*hosts: str | None) -> None:
    """Let no proxy stand between a server and its own page, which it asks for when it starts."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join([*known, *filter(None, hosts)])


# Folders


def find_folders() -> None:
    """Where the usual folders cannot be written to, let libraries use temporary ones.

    Raises:
        CannotStart: there are no temporary ones either.
    """
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise CannotStart(
            "there is no folder for temporary files; set TMPDIR to one that can be written to."
        ) from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    config = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))
    usual = {
        "HF_HOME": cache / "huggingface",
        "GRADIO_TEMP_DIR": temporary / "gradio",
        "MPLCONFIGDIR": config / "matplotlib",
    }
    for name, folder in usual.items():
        if os.environ.get(name) or can_be_written(folder):
            continue
        if name == "HF_HOME" and folder.is_dir():  # models may have been put there for good
            continue
        if found := private_folder(f"nada-{name.lower()}"):
            os.environ[name] = str(found)


def why_plain(kind: str) -> str:
    """Why the compiled operations for a kind of device cannot be had, "" where they can."""
    fitting = [backend for backend in BACKENDS.values() if backend.device_type == kind]
    wanted = [one for one in fitting if asked() == "auto" and library_path(one) is None]
    reasons = [reason for one in wanted if (reason := missing(one))]
    return f"The plain operations run, which take longer: {reasons[0]}" if reasons else ""


# The address


def bare(host: str) -> str:
    """A host without the brackets that an IPv6 address has in a URL."""
    return host[1:-1] if re.fullmatch(r"\[.*\]", host) else host


def check_address(host: str, port: int | None) -> None:
    """Whether an address can be listened on.

    Args:
        host: a name or an address of this machine.
        port: to listen on; None for any.

    Raises:
        CannotStart: it cannot.
    """
    where = f"port {port} of {host}" if port else host
    try:
        found = socket.getaddrinfo(bare(host), port or 0, type=socket.SOCK_STREAM)
        family, kind, *_, address = found[0]
        with closing(socket.socket(family, kind)) as tried:
            if os.name == "posix":  # as the server does
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen()
    except (socket.gaierror, UnicodeError) as error:
        raise CannotStart(
            f"the host {host} is not known here; give --host an address of this machine, such as "
            "127.0.0.1, or 0.0.0.0 for all of them."
        ) from error
    except OSError as error:
        raise CannotStart(f"{where} cannot be listened on{_remedy(error)}") from error


def hang_up_in_forks(port: int) -> None:
    """Let processes that are forked from now on hold none of the server's connections.

    One that does keeps a connection open that the server has closed: a browser asks on by it, and
    waits as long as that process lives.

    Args:
        port: that the server listens on.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _hang_up(port))


def _hang_up(port: int) -> None:
    with open(os.devnull) as nothing, os.scandir("/dev/fd") as files:
        for number in [int(file.name) for file in files]:
            with suppress(OSError):  # the folder's own, which is closed by now
                if not stat.S_ISSOCK(os.fstat(number).st_mode):
                    continue
                with socket.socket(fileno=os.dup(number)) as line:
                    is_servers = line.family in INTERNET and line.getsockname()[1] == port
                if is_servers:  # not closed, or its number would be another file's
                    os.dup2(nothing.fileno(), number)


def _remedy(error: OSError) -> str:
    """Why an address cannot be listened on, and what to do, to go on with."""
    return {
        errno.EADDRINUSE: ", since another program does; choose another port.",
        errno.EACCES: ", since that needs more rights; choose a port from 1024 on.",
        errno.EADDRNOTAVAIL: ", since it is not an address of this machine; choose another host.",
    }.get(error.errno, f" ({error.strerror or error}); choose another.")
