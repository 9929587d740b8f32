"""What scripts may ask a server for: a method for each endpoint of the API.

Names, parameters and what is returned are frozen by a test. The docstrings are what callers read.
`session` is the caller's, which no caller has to give.
"""

import contextlib
from dataclasses import replace

from PIL import Image

from nada.facts import file_name, title
from nada.presets import SERVED
from nada.serve.images import columns_for, page_grid
from nada.serve.jobs import GOING
from nada.serve.service import Service
from nada.serve.session import Session
from nada.serve.sessions import Sessions
from nada.serve.validate import CARRY_OVER, check_file, check_flag
from nada.serve.view import status
from nada.settings import Setting


def _documented(method):
    """The method with its settings described, each in a line, from `nada.presets.SERVED`."""
    lines = (f"{name}: {_described(known)}" for name, known in SERVED.items())
    if method.__doc__:  # python -OO has none
        method.__doc__ = method.__doc__.replace("{settings}", "\n            ".join(lines))
    return method


def _described(known: Setting) -> str:
    bounds = replace(known, range=known.served).expected
    return f"{known.label}. {known.help} Give {bounds}."


class Api:
    """What scripts may ask of one generator of a server.

    Args:
        service: of that generator.
        sessions: of the server.
    """

    def __init__(self, service: Service, sessions: Sessions):
        self.service, self.sessions = service, sessions

    @_documented
    def adapt(
        self, session: Session, domain_file=None, carry_over=False, pictures=None, **settings
    ):
        """Train the generator towards the target prompt and stream how it goes.

        Parameters:
            source: What the generator shows now, such as "photo"; "" for what CLIP sees of it.
            target: What it should show, such as "pencil sketch".
            {settings}
            domain_file: A domain to go on from; none for the generator itself.
            carry_over: Whether that may be a domain of styles of another generator of the family.
            pictures: Of what it should show, 1 to 16 files; then target may be "".
        Returns:
            pairs: A picture, above the frozen generator, below the adapted one, the same seeds.
            status: state, step, steps, seconds, eta, loss, terms, way, collapsing (people become
                alike), layers, before_it (runs that have their turn earlier), message, hints.
            domain_file: At the end, the safetensors file with the changed weights.
        """
        start = None if domain_file is None else check_file("domain_file", domain_file)
        if check_flag("carry_over", CARRY_OVER, carry_over) and start is not None:
            carried = self.service.uploaded("domain_file", domain_file, carry_over)
            carried.save(start := session.shown(file_name(title(carried.metadata))))
        job, hints = self.service.job(settings, start, pictures), self.service.hints(settings)
        run, drawn, grid = session.train(job, self.service, hints, keep=False), None, None
        try:
            for state in run.follow():
                if run.after is not drawn and (images := run.pairs()) is not None:
                    drawn = run.after
                    with contextlib.suppress(OSError):  # a full disk costs a picture, not the run
                        grid = _shown(session, page_grid(images, len(images) // 2), "pairs.png")
                ended = state not in GOING and run.domain and run.domain.exists()
                yield grid, status(run, state), str(run.domain) if ended else None
        finally:
            run.stop.set()
            run.let_go_of_images()

    def adapt_once(
        self, session: Session, domain_file=None, carry_over=False, pictures=None, **settings
    ):
        *_, last = self.adapt(session, domain_file, carry_over, pictures, **settings)
        return last

    adapt_once.__doc__ = adapt.__doc__ and adapt.__doc__.replace(
        "stream how it goes", "answer once, at the end"
    )

    def sample(
        self, session: Session, seeds, domain_file=None, strength=1.0, truncation=0.7,
        carry_over=False,
    ):  # fmt: skip
        """Pictures of seeds, by the base generator or by a domain at some strength.

        Parameters:
            seeds: "1-8" or "3, 7, 12", 36 at most.
            domain_file: A file that an adaptation made; none for the base generator.
            strength: 0 the source, 1 the domain, from -0.5 to 1.5; or by the resolution of the
                layers, {"coarse": 1, "middle": 0.5, "fine": 0}.
            truncation: 0.7 usually; lower is safer, higher more varied.
            carry_over: Whether it may be a domain of styles of another generator of the family.
        Returns:
            samples: The pictures in one grid.
        """
        images = self.service.sample(seeds, domain_file, strength, truncation, carry_over)
        return _shown(session, page_grid(images, columns_for(len(images))), "samples.png")

    def blend(
        self, session: Session, domain_files=None, weights="", seeds="1-8", truncation=0.7,
        carry_over=False,
    ):  # fmt: skip
        """Mix up to three domains into one.

        Parameters:
            domain_files: The files, a list of one to three.
            weights: A number for each, "0.5, 0.5"; equal shares when empty. A list may hold
                objects as the strength of a sample instead of numbers.
            seeds: "1-8" or "3, 7, 12", 36 at most.
            truncation: 0.7 usually; lower is safer, higher more varied.
            carry_over: Whether they may be domains of styles of other generators of the family.
        Returns:
            samples: Pictures of the seeds by the mix, in one grid.
            domain_file: The mix as a domain file.
        """
        images, mixed = self.service.blend(domain_files, weights, seeds, truncation, carry_over)
        mixed.save(path := session.shown(file_name(title(mixed.metadata))))
        grid = page_grid(images, columns_for(len(images)))
        return _shown(session, grid, "samples.png"), str(path)

    def domain(self, domain_file=None):
        """Describe a domain file.

        Parameters:
            domain_file: A file that an adaptation made.
        Returns:
            domain: Prompts, seed, settings, layers, loss, quality, diversity, the fingerprint of
                the base, and in "fits" whether that is the generator that is served; in "kind"
                whether it changes styles, weights or both, in "bytes" how large it is.
        """
        return self.service.describe(domain_file)

    def forget(self, session: Session):
        """Stop your run and remove all that this session keeps on the server.

        Returns:
            forgotten: true.
        """
        self.sessions.drop(session)
        return True

    def info(self):
        """What this server runs, what may be asked for, and what it holds now.

        Returns:
            info: generator, size, fingerprint, clip, words, device, layers, limits, examples,
                visitors, domains, runs, bytes.
        """
        return self.service.info(self.sessions.usage())


def _shown(session: Session, picture: Image.Image, name: str) -> str:
    picture.save(path := session.shown(name))
    return str(path)
