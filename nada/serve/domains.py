"""The domains that a visitor keeps: files in a folder, bounded in number and bytes."""

import contextlib
import json
import secrets
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nada.delta import Delta, DeltaError
from nada.facts import file_name, title
from nada.serve.disk import linked

MAX_DOMAINS = 12  # of a visitor
MAX_BYTES = 512 * 2**20  # of one visitor's domains
CARD = "card.json"  # beside each domain, what else its card shows


@dataclass(frozen=True)
class KeptDomain:
    """A domain that is kept.

    Args:
        id: by which a page asks for it.
        path: its file.
        base_fingerprint: the fingerprint of the generator it was made from.
        metadata: what the file says of itself.
        thumbnails: images of its card, as data URLs.
        kind: "styles", "weights" or "both"; see `nada.delta.Delta.kind`.
        layers: in how many something changed.
    """

    id: str
    path: Path
    base_fingerprint: str
    metadata: dict
    thumbnails: tuple[str, ...] = ()
    kind: str = "weights"
    layers: int = 0

    @classmethod
    def of(cls, id: str, path: Path, delta: Delta, thumbnails: Sequence[str]) -> "KeptDomain":
        """The domain that lies in a file."""
        base, facts = delta.base_fingerprint, delta.metadata
        return cls(id, path, base, facts, tuple(thumbnails), delta.kind, len(delta.layers))

    @property
    def size(self) -> int:
        """Of its file in bytes; 0 when that has gone."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def title(self) -> str:
        """What to call it: the target, or what was mixed."""
        return title(self.metadata)


class KeptDomains:
    """The domains of one visitor by their ids, the oldest first.

    Args:
        folder: where their files lie; made with the first.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._domains: dict[str, KeptDomain] = {}
        self._lock = threading.Lock()

    def find(self) -> None:
        """Keep what an earlier server left; what cannot be read goes."""
        for card in sorted(self.folder.glob(f"*/{CARD}"), key=lambda card: card.stat().st_mtime):
            try:
                (path,) = card.parent.glob("*.safetensors")
                thumbnails = tuple(json.loads(card.read_text())["thumbnails"])
                delta = Delta.load(path)
            except (DeltaError, OSError, ValueError, LookupError):
                continue
            id = card.parent.name
            self._domains[id] = KeptDomain.of(id, path, delta, thumbnails)
        for folder in self.folder.glob("*/"):
            if folder.name not in self._domains:
                shutil.rmtree(folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._domains)

    def __iter__(self):
        return iter(list(self._domains.values()))

    def get(self, id) -> KeptDomain | None:
        """The domain of an id, which may be anything; None if it is not kept."""
        return self._domains.get(id) if isinstance(id, str) else None

    @property
    def files(self) -> list[Path]:
        """The files that are kept."""
        return [domain.path for domain in self]

    def add(
        self,
        delta: Delta,
        thumbnails: Callable[[Path], Sequence[str]] = lambda path: (),
        file: Path | None = None,
    ) -> KeptDomain:
        """Keep a domain; the oldest go where there are too many or they are too large.

        Args:
            delta: the domain.
            thumbnails: draws the images of its card from its file; nothing is kept if it fails.
            file: where it is saved already and never changed, so that it takes no room twice.
        """
        id = secrets.token_hex(8)
        path = self.folder / id / file_name(title(delta.metadata))
        try:
            if file is None:
                delta.save(path)
            else:
                path.parent.mkdir(parents=True)
                linked(file, path)
            images = tuple(thumbnails(path))
            (path.parent / CARD).write_text(json.dumps({"thumbnails": images}))
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            with contextlib.suppress(OSError):  # there are others in it
                self.folder.rmdir()
            raise
        domain = KeptDomain.of(id, path, delta, images)
        with self._lock:
            self._domains[id] = domain
            sizes = [file.stat().st_size for file in self.files]
            while len(sizes) > 1 and (len(sizes) > MAX_DOMAINS or sum(sizes) > MAX_BYTES):
                self._drop(next(iter(self._domains)))
                sizes.pop(0)
        return domain

    def forget(self, id: str) -> None:
        """Let go of a domain, if it is there."""
        with self._lock:
            if id in self._domains:
                self._drop(id)

    def _drop(self, id: str) -> None:
        shutil.rmtree(self._domains.pop(id).path.parent, ignore_errors=True)
