"""What happens on the page, event by event, in plain data.

Each event takes the visitor's session and the values of components, by their names, and returns
what changes: a value, or a `Change` of more than the value, by the name of the component. What is
not named stays as it is.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from nada.presets import SERVED
from nada.serve.generators import GeneratorChoices
from nada.serve.images import page_grid
from nada.serve.sessions import Session
from nada.serve.validate import MAX_MIX, SNAPSHOT, BadInput, check_number
from nada.serve.view import (
    cards,
    chart,
    foot,
    hint_list,
    loading,
    pairs,
    refusal,
    status,
    word_list,
)

# names of components
SETTINGS = tuple(SERVED)  # of a run, but its prompts
WEIGHTS = tuple(f"weight_{i + 1}" for i in range(MAX_MIX))  # of a mix


@dataclass(frozen=True)
class Change:
    """A component of which more than the value changes: its properties by name."""

    props: dict


HIDDEN = Change({"value": None, "visible": False})


class PageEvents:
    """The events of one server's page.

    Args:
        choices: the generators of the server, and its sessions.
    """

    def __init__(self, choices: GeneratorChoices):
        self.choices = choices

    # Opening, choosing a generator, closing

    def greet(self, session: Session, seeds, sample_truncation) -> Iterator[dict]:
        """The page opens: what is awaited, then the base's images and what is served."""
        worker = session.service.worker
        while not worker.is_ready:
            yield {"foot": loading(worker.download)}
            time.sleep(0.5)
        yield {
            "foot": foot(session.service.info()),
            "k": Change(_settings(session)["k"]),
            **self.look(session, seeds, 1.0, sample_truncation),
        }

    def choose(self, session: Session, generator, seeds, sample_truncation) -> Iterator[dict]:
        """Another generator for a visitor: its download, then the page as it suits it; or why it
        cannot be had, and the choice as it was."""
        try:
            for download in self.choices.choose(session, generator):
                yield {"loading": loading(download), "generator": generator}
        except BadInput as error:  # not raised, which would cover the choice
            chosen = self.choices.name_of(session.service)
            yield {"loading": refusal(error), "generator": chosen}
        else:
            arrived = self._arrive(session, seeds, sample_truncation)
            yield {"loading": "", "generator": generator, **arrived}

    def _arrive(self, session: Session, seeds, sample_truncation) -> dict:
        """The page of a generator just chosen."""
        base = session.service.options.base
        settings = _settings(session)
        return {
            "foot": foot(session.service.info()),
            "run": "",
            "snapshot": _snapshots([]),
            "strength": 1.0,
            **self.look(session, seeds, 1.0, sample_truncation),
            **_library(session),
            "strip": HIDDEN,
            "film": HIDDEN,
            **{name: Change(settings[name]) for name in SETTINGS},
            **{f"examples_{one}": Change({"visible": one == base}) for one in self.choices.bases},
        }

    def leave(self, session: Session) -> None:
        """The page closes."""
        self.choices.sessions.leave(session)

    # A run

    def unfold(self, session: Session, **settings) -> dict:
        """Opens the folded settings where one of them is what is wrong."""
        wrong = session.service.problem(settings)
        return {"settings": Change({"open": True})} if wrong and wrong.field in SERVED else {}

    def hint(self, session: Session, **settings) -> dict:
        """What is worth knowing about the prompts as they stand."""
        service = session.service
        if not service.worker.is_ready:
            return {"hint": ""}
        return {
            "hint": hint_list(service.hints(settings)) + word_list(service.known_words(settings))
        }

    def train(
        self, session: Session, start, seeds, sample_truncation, **settings
    ) -> Iterator[dict]:
        """A run, while it goes on."""
        job = session.job(settings, start, seeds, sample_truncation)
        hints = session.service.hints(settings)
        run, drawn = session.train(job), None
        for state in run.follow():
            changes = {"status": status(run, state, hints), "run": chart(run, state, hints)}
            if run.after is not drawn:
                before = run.before if drawn is None else None
                drawn = run.after
                changes["pairs"] = pairs(job.preset.config.preview_seeds, before, drawn)
            yield changes

    def settle(self, session: Session, seeds, sample_truncation) -> dict:
        """After a run, also a stopped one: what there is of it."""
        run = session.settle()
        if run is None:
            return {}
        return {
            "status": status(run, run.state),
            "run": chart(run, run.state),
            "snapshot": _snapshots(list(run.snapshots)),
            "strength": 1.0,
            **self.look(session, seeds, 1.0, sample_truncation),
            **_library(session),
        }

    # Looking

    def look(self, session: Session, seeds, strength, sample_truncation) -> dict:
        """Pairs of what the visitor looks at."""
        return {"pairs": pairs(*session.explore(seeds, strength, sample_truncation))}

    def more(self, session: Session, seeds, strength, sample_truncation) -> dict:
        """The next eight seeds, and their pairs."""
        last = max(session.explore(seeds, strength, sample_truncation)[0])
        seeds = f"{last + 1}-{last + 8}"
        return {"seeds": seeds, **self.look(session, seeds, strength, sample_truncation)}

    def back(self, session: Session, snapshot, seeds, strength, sample_truncation) -> dict:
        """Pairs of a snapshot of the run, the first being 1."""
        session.back_to(check_number("snapshot", SNAPSHOT, snapshot))
        return self.look(session, seeds, strength, sample_truncation)

    def strip(self, session: Session, seeds, sample_truncation) -> dict:
        """The images from the source to the domain."""
        strip = page_grid(*session.strip(seeds, sample_truncation))
        return {"strip": Change({"value": strip, "visible": True})}

    def film(self, session: Session, seeds, strength, sample_truncation) -> dict:
        """The film of seeds and strengths."""
        path = session.film(seeds, strength, sample_truncation)
        return {"film": Change({"value": str(path), "visible": True})}

    # Kept domains

    def act(self, session: Session, event, seeds, strength, sample_truncation) -> dict:
        """A card's button: open, on (open, and the next run starts there), forget."""
        event = event if isinstance(event, dict) else {}
        act, id = event.get("act"), event.get("id")
        session.forget(id) if act == "forget" else session.open(id)
        changes = {**self.look(session, seeds, strength, sample_truncation), **_library(session)}
        if act == "on":
            changes["start"] = Change({**changes["start"].props, "value": id})
        return changes

    def load(self, session: Session, load, seeds, strength, sample_truncation) -> dict:
        """A domain file of the visitor's own."""
        session.load(load[0] if isinstance(load, list) and load else load)
        return {**self.look(session, seeds, strength, sample_truncation), **_library(session)}

    def weigh(self, session: Session, chosen) -> dict:
        """A weight for each domain that is chosen, called by its name."""
        domains = map(session.domains.get, chosen if isinstance(chosen, list) else [])
        titles = [domain.title for domain in domains if domain][:MAX_MIX]
        shown = [Change({"label": title, "visible": True}) for title in titles]
        shown += [Change({"visible": False})] * (MAX_MIX - len(shown))
        return dict(zip(WEIGHTS, shown))

    def mix(self, session: Session, seeds, strength, sample_truncation, chosen, **weights) -> dict:
        """A mix of kept domains."""
        session.mix(chosen, [weights.get(name) for name in WEIGHTS])
        return {**self.look(session, seeds, strength, sample_truncation), **_library(session)}

    def keep_mix(self, session: Session) -> dict:
        """The mix as a domain of its own."""
        session.keep_mix()
        return _library(session)


def _settings(session: Session) -> dict[str, dict]:
    """The settings that suit a visitor's generator, as properties of their components."""
    worker = session.service.worker
    preset, generator = worker.preset, worker.models().generator
    values = {name: {"value": value} for name, value in preset.served().items()}
    layers = preset.config.layers(generator, to_rgb=True)
    k = preset.fitted(generator).selection.k
    return {**values, "k": {"maximum": len(layers), "value": k}}


def _library(session: Session) -> dict:
    """Cards, where to start, what to mix, and the file of what is looked at."""
    paths = [path for path, _ in session.looked_at]
    domains = list(session.domains)
    choices = [(f"{domain.title} · {domain.id[:4]}", domain.id) for domain in reversed(domains)]
    file = str(paths[0]) if len(paths) == 1 else None
    return {
        "cards": cards(domains, paths),
        "start": Change({"choices": [("—", ""), *choices]}),
        "chosen": Change({"choices": choices}),
        "file": Change({"value": file, "visible": file is not None}),
    }


def _snapshots(steps: list[int]) -> Change:
    """The slider over the snapshots of a run, by number: their steps are not evenly spaced, and
    stand beside it. Hidden where there is no choice."""
    if len(steps) < 2:
        return Change({"visible": False})
    info = " · ".join(map(str, steps))
    return Change({"maximum": len(steps), "value": len(steps), "info": info, "visible": True})
