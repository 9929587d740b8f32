"""What happens on the page, event by event, in plain data.

Each event takes the visitor's session and the values of components, by their names, and returns
what changes: a value, or a `Change` of more than the value, by the name of the component. What is
not named stays as it is.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from nada.delta import BANDS, Strength
from nada.presets import SERVED
from nada.serve.generators import GeneratorChoices
from nada.serve.images import page_grid
from nada.serve.jobs import TrainingRun
from nada.serve.session import Session
from nada.serve.validate import (
    MAX_MIX,
    SNAPSHOT,
    STRENGTH,
    TRUNCATION,
    BadInput,
    check_number,
    check_seeds,
    check_setting,
)
from nada.serve.view import (
    cards,
    chart,
    foot,
    hint_list,
    loading,
    pairs,
    refusal,
    status,
    taken,
    word_list,
)

# names of components
SETTINGS = tuple(SERVED)  # of a run, but its prompts
WEIGHTS = tuple(f"weight_{i + 1}" for i in range(MAX_MIX))  # of a mix, by a handle on three each
WEIGHTS_BY_BAND = {name: {band: f"{name}_{band}" for band in BANDS} for name in WEIGHTS}
WEIGHT_PARTS = tuple(f"{name}_part" for name in WEIGHTS)  # with all that there is of each

SHOWN = {**dict.fromkeys(BANDS, STRENGTH), "sample_truncation": TRUNCATION}
# of a page that just opened; the strength of each band, that of all being a handle on the three
LOOK = {"seeds": "1-8", **dict.fromkeys(BANDS, 1.0), "sample_truncation": 0.7}


@dataclass(frozen=True)
class Visit:
    """A page: the id that lasts as long as it does, and from where it was opened."""

    id: str
    address: str | None


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

    # Opening, choosing a generator, forgetting

    def greet(self, visit: Visit, key, link) -> Iterator[dict]:
        """The page opens: what is awaited, then the page as its visitor left it.

        key: the browser's secret. link: JSON of what the page's address asks for, see `page.js`.
        """
        session = self.choices.sessions.come_back(visit.id, key, visit.address)
        session.recover()
        for download in self.choices.return_to(session):
            yield {"foot": loading(download)}
        session.recover_runs()
        changes, is_back = self._arrive(session), bool(session.form)
        if is_back:
            for name, value in (form := _form(session)).items():
                props = changes[name].props if name in SETTINGS else {}
                changes[name] = Change({**props, "value": value})
            changes |= _strengths(**{band: form.get(band, LOOK[band]) for band in BANDS})
        yield {**changes, **_last_run(session), **_asked(link, is_back)}

    def choose(self, session: Session, generator) -> Iterator[dict]:
        """Another generator for a visitor: its download, then the page as it suits it; or why it
        cannot be had, and the choice as it was."""
        try:
            for download in self.choices.choose(session, generator):
                yield {"loading": loading(download), "generator": generator}
        except BadInput as error:  # not raised, which would cover the choice
            chosen = self.choices.name_of(session.service)
            yield {"loading": refusal(error), "generator": chosen}
        else:
            yield {"loading": "", **_at_full_strength(session), **self._arrive(session)}

    def _arrive(self, session: Session) -> dict:
        """The page as it suits a visitor's generator, without a run."""
        base = session.service.options.base
        settings = _settings(session)
        return {
            "foot": foot(session.service.info()),
            "taken": taken(session.service.worker.loaded().origin),
            "generator": self.choices.name_of(session.service),
            "status": None,
            "run": "",
            "snapshot": _snapshots([]),
            **self._look(session),
            **_library(session),
            "strip": HIDDEN,
            "film": HIDDEN,
            **{name: Change(settings[name]) for name in SETTINGS},
            **{f"examples_{one}": Change({"visible": one == base}) for one in self.choices.bases},
        }

    def forget_all(self, session: Session, visit: Visit, key) -> dict:
        """All that is the visitor's goes, and the page is as new, with a new key; nothing happens
        without one."""
        if not key:
            return {}
        sessions, service = self.choices.sessions, session.service
        sessions.drop(session)
        session = sessions.come_back(visit.id, key, visit.address)
        session.service = service
        return {**_at_full_strength(session), **self._arrive(session)}

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
        self, session: Session, start, seeds, sample_truncation, pictures=None, **settings
    ) -> Iterator[dict]:
        """A run, from its place in the line to its end."""
        job = session.job(settings, start, seeds, sample_truncation, pictures)
        session.train(job, hints=session.service.hints(settings))
        yield from self.watch(session)

    def watch(self, session: Session) -> Iterator[dict]:
        """The run that goes on, if one does, for who just came too; and the one that another page
        of the visitor's starts meanwhile."""
        if not session.is_training:
            yield {}
            return
        run = None
        while session.run and session.run is not run:
            run = session.run
            yield from self._follow(session, run)

    def _follow(self, session: Session, run: TrainingRun) -> Iterator[dict]:
        drawn = failure = None
        try:
            for state in run.follow():
                changes = {"status": status(run, state), "run": chart(run, state)}
                if run.after is not None and run.after is not drawn:
                    before = run.before if drawn is None else None
                    drawn = run.after
                    changes["pairs"] = pairs(run.job.preset.config.preview_seeds, before, drawn)
                yield changes
        except Exception as error:  # told once all the rest has been
            failure = error
        if session.run is run:
            run.let_go_of_images()
            yield {
                **_last_run(session),
                **_at_full_strength(session),
                **self._look(session),
                **_library(session),
            }
        if failure:
            raise failure

    def stop(self, session: Session) -> None:
        """The run ends with what it has."""
        session.stop()

    # Looking

    def look(self, session: Session, **look) -> dict:
        """Pairs of what the visitor looks at; `look` here and below: the fields of LOOK."""
        return {"pairs": pairs(*session.explore(*_seen(look)))}

    def even(self, session: Session, seeds, strength, sample_truncation) -> dict:
        """Pairs at one strength of all resolutions."""
        session.remember(dict.fromkeys(BANDS, strength))
        return {"pairs": pairs(*session.explore(seeds, strength, sample_truncation))}

    def _look(self, session: Session) -> dict:
        """Pairs as the fields of the visitor's page say, or as those of a new one."""
        look = {name: session.form.get(name, value) for name, value in LOOK.items()}
        try:
            return self.look(session, **look)
        except BadInput:
            return self.look(session, **LOOK)

    def more(self, session: Session, **look) -> dict:
        """The next eight seeds, and their pairs."""
        last = max(check_seeds(look["seeds"]))
        look["seeds"] = f"{last + 1}-{last + 8}"
        session.remember({"seeds": look["seeds"]})
        return {"seeds": look["seeds"], **self.look(session, **look)}

    def back(self, session: Session, snapshot, **look) -> dict:
        """Pairs of a snapshot of the run, the first being 1."""
        session.back_to(check_number("snapshot", SNAPSHOT, snapshot))
        return self.look(session, **look)

    def strip(self, session: Session, **look) -> dict:
        """The images from the source to the domain."""
        strip = page_grid(*session.strip(*_seen(look)))
        strip.save(path := session.shown("strip.png"))
        return {"strip": Change({"value": str(path), "visible": True})}

    def film(self, session: Session, **look) -> dict:
        """The film of seeds and strengths."""
        path = session.film(*_seen(look))
        return {"film": Change({"value": str(path), "visible": True})}

    # Kept domains

    def act(self, session: Session, event, carry_over, **look) -> dict:
        """A card's button: open, on (open, and the next run starts there), forget."""
        event = event if isinstance(event, dict) else {}
        act, id = event.get("act"), event.get("id")
        if act == "forget":
            session.forget(id)
        else:
            id = session.open(id, carry_over)
        changes = {**self.look(session, **look), **_library(session)}
        if act == "on":
            changes["start"] = Change({**changes["start"].props, "value": id})
        return changes

    def load(self, session: Session, load, carry_over, **look) -> dict:
        """A domain file of the visitor's own."""
        session.load(load[0] if isinstance(load, list) and load else load, carry_over)
        return {**self.look(session, **look), **_library(session)}

    def weigh(self, session: Session, chosen) -> dict:
        """A weight for each domain that is chosen, called by its name."""
        domains = map(session.domains.get, chosen if isinstance(chosen, list) else [])
        titles = [domain.title for domain in domains if domain][:MAX_MIX]
        labels = {name: Change({"label": title}) for name, title in zip(WEIGHTS, titles)}
        shown = {n: Change({"visible": i < len(titles)}) for i, n in enumerate(WEIGHT_PARTS)}
        return {**labels, **shown}

    def mix(self, session: Session, chosen, carry_over, **fields) -> dict:
        """A mix of kept domains."""
        weights = [{b: fields[n] for b, n in names.items()} for names in WEIGHTS_BY_BAND.values()]
        session.mix(chosen, weights, carry_over)
        return {**self.look(session, **fields), **_library(session)}

    def keep_mix(self, session: Session, **look) -> dict:
        """What is shown as a domain of its own, which is shown at full strength from then on."""
        _, strength, _ = _seen(look)
        session.keep_mix(strength)
        return {**_at_full_strength(session), **_library(session)}


def _seen(look: dict) -> tuple:
    """Seeds, strength and truncation of the fields of LOOK, which may hold anything."""
    return look["seeds"], {band: look[band] for band in BANDS}, look["sample_truncation"]


def _strengths(**bands) -> dict:
    """The strengths of the page by what each band's is; they unfold where they differ."""
    strength = Strength(**bands)
    fold = {} if strength.is_even else {"by_resolution": Change({"open": True})}
    return {"strength": round(strength.mean, 2), **bands, **fold}


def _at_full_strength(session: Session) -> dict:
    """The strengths as on a page that just opened, and noted so."""
    bands = dict.fromkeys(BANDS, 1.0)
    session.remember(bands)
    return _strengths(**bands)


def _form(session: Session) -> dict:
    """What the fields of the form held when the visitor left, as far as it can be used."""
    fields = {}
    for name, value in session.form.items():
        with contextlib.suppress(BadInput):
            if name in SETTINGS:
                fields[name] = check_setting(name, value)
            elif name in SHOWN:
                fields[name] = check_number(name, SHOWN[name], value)
            elif name in ("source", "target", "seeds"):
                fields[name] = str(value)
    return fields


def _asked(link, is_back: bool) -> dict:
    """The fields that a page's address asks for; one that the page itself wrote asks for nothing
    where the visitor's form is there."""
    try:
        asked = json.loads(link) if isinstance(link, str) and len(link) < 10_000 else None
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict) or (asked.get("own") and is_back):
        return {}
    texts = {name: asked[name] for name in ("source", "target") if isinstance(asked.get(name), str)}
    with contextlib.suppress(BadInput):
        return {**texts, "seed": check_setting("seed", asked.get("seed"))}
    return texts


def _last_run(session: Session) -> dict:
    """What is left of a run, if there is one."""
    run = session.run
    if run is None:
        return {}
    return {
        "status": status(run, run.state),
        "run": chart(run, run.state),
        "snapshot": _snapshots(list(run.snapshots)),
    }


def _settings(session: Session) -> dict[str, dict]:
    """The settings that suit a visitor's generator, as properties of their components."""
    worker = session.service.worker
    preset, generator = worker.preset, worker.models().generator
    values = {name: {"value": value} for name, value in preset.served().items()}
    layers = preset.config.chosen_among(generator)
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
