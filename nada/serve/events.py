"""What happens on the page, event by event, in plain data: each method returns what the page's
components are to show, in their order. `owner` is the session of the visitor.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from nada.presets import SERVED
from nada.serve.generators import GeneratorChoices
from nada.serve.validate import MAX_MIX, SNAPSHOT, BadInput, check_number
from nada.serve.view import (
    cards,
    chart,
    draw,
    foot,
    hint_list,
    loading,
    pairs,
    refusal,
    status,
    word_list,
)

SETTINGS = tuple(SERVED)  # of a run, but its prompts
SAME = object()  # a component that stays as it is


@dataclass(frozen=True)
class Change:
    """A component of which more than the value changes: its properties by name."""

    props: dict


class PageEvents:
    """The events of one server's page."""

    def __init__(self, offers: GeneratorChoices):
        self.offers, self._studio = offers, offers.of

    # Opening, choosing a generator, closing

    def greet(self, owner: str | None, seeds, psi) -> Iterator[tuple]:
        """When the page opens: last line, number of layers, pairs of the base's pictures."""
        device = self._studio(owner).device
        while not device.ready:
            yield loading(device.download), SAME, SAME
            time.sleep(0.5)
        k = Change(self._values(owner)["k"])
        yield foot(self._studio(owner).info()), k, self.look(owner, seeds, 1.0, psi)

    def choose(self, owner: str | None, source, seeds, psi) -> Iterator[tuple]:
        """Another generator for a visitor: how far it is while it loads, which one is chosen;
        once it is there, the page of `_arrive`."""
        stays = (SAME,) * (11 + len(SETTINGS) + len(self.offers.bases))
        try:
            for download in self.offers.choose(owner, source):
                yield loading(download), source, *stays
        except BadInput as error:  # not raised, which would cover the choice
            yield refusal(error), self._studio(owner).options.generator, *stays
        else:
            yield "", source, *self._arrive(owner, seeds, psi)

    def _arrive(self, owner: str | None, seeds, psi) -> tuple:
        """The page of a generator just chosen: last line, account, snapshots, strength, pairs,
        library, strip, film, settings in the order of SETTINGS, examples of each base."""
        studio, values = self._studio(owner), self._values(owner)
        gone = Change({"value": None, "visible": False})
        look = self.look(owner, seeds, 1.0, psi)
        return (
            foot(studio.info()),
            "",
            _snapshots([]),
            1.0,
            look,
            *self._library(owner),
            gone,
            gone,
            *(Change(values[name]) for name in SETTINGS),
            *(Change({"visible": base == studio.options.base}) for base in self.offers.bases),
        )

    def _values(self, owner: str | None) -> dict[str, dict]:
        """The settings that suit a visitor's generator, as properties of their fields."""
        studio = self._studio(owner)
        preset, generator = studio.device.preset, studio.device.models().generator
        values = {name: {"value": value} for name, value in preset.served().items()}
        layers = preset.config.layers(generator, to_rgb=True)
        k = preset.fitted(generator).selection.k
        return {**values, "k": {"maximum": len(layers), "value": k}}

    def leave(self, owner: str | None) -> None:
        """When the page closes."""
        self._studio(owner).leave(owner)

    # A run

    def unfold(self, owner: str | None, **settings):
        """The folded settings, opened where one of them is what is wrong."""
        wrong = self._studio(owner).problem(settings)
        return Change({"open": True}) if wrong and wrong.field in SERVED else SAME

    def hint(self, owner: str | None, **settings) -> str:
        """What is worth knowing about the prompts as they stand, as HTML."""
        studio = self._studio(owner)
        if not studio.device.ready:
            return ""
        return hint_list(studio.hints(settings)) + word_list(studio.known_words(settings))

    def train(self, owner: str | None, start, seeds, psi, **settings) -> Iterator[tuple]:
        """A run, while it goes on: pairs, status, account."""
        studio, drawn = self._studio(owner), None
        job = studio.previewing(studio.job(settings, studio.kept_file(owner, start)), seeds, psi)
        hints = studio.hints(settings)
        for run, state in studio.follow(owner, job):
            told = SAME
            if run.after is not drawn:
                before = run.before if drawn is None else None
                told, drawn = pairs(job.preset.config.preview_seeds, before, run.after), run.after
            yield told, status(run, state, hints), chart(run, state, hints)

    def settle(self, owner: str | None, seeds, psi) -> tuple:
        """After a run, also a stopped one, what there is of it: status, account, snapshots,
        strength, pairs, library."""
        run = self._studio(owner).settle(owner)
        if run is None:
            return (SAME,) * 9
        look = self.look(owner, seeds, 1.0, psi)
        return (
            status(run, run.state),
            chart(run, run.state),
            _snapshots(list(run.snapshots)),
            1.0,
            look,
            *self._library(owner),
        )

    # Looking

    def look(self, owner: str | None, seeds, strength, psi) -> str:
        """Pairs of what the visitor looks at."""
        return pairs(*self._studio(owner).explore(owner, seeds, strength, psi))

    def more(self, owner: str | None, seeds, strength, psi) -> tuple:
        """The next eight seeds, and their pairs."""
        shown = self._studio(owner).explore(owner, seeds, strength, psi)[0]
        text = f"{max(shown) + 1}-{max(shown) + 8}"
        return text, self.look(owner, text, strength, psi)

    def back(self, owner: str | None, number, seeds, strength, psi) -> str:
        """Pairs of a snapshot of the run, the first being 1."""
        self._studio(owner).back_to(owner, check_number("snapshot", SNAPSHOT, number))
        return self.look(owner, seeds, strength, psi)

    def strip(self, owner: str | None, seeds, psi) -> Change:
        """The picture from the source to the domain."""
        return Change(
            {"value": draw(*self._studio(owner).strip(owner, seeds, psi)), "visible": True}
        )

    def film(self, owner: str | None, seeds, strength, psi) -> Change:
        """The film of seeds and strengths."""
        path = self._studio(owner).film(owner, seeds, strength, psi)
        return Change({"value": str(path), "visible": True})

    # The library: pairs where they change; cards, where to start, what to mix, file

    def act(self, owner: str | None, event, seeds, strength, psi) -> tuple:
        """A card's button: open, on (open, and the next run starts there), forget."""
        told = event if isinstance(event, dict) else {}
        do = self._studio(owner).forget if told.get("act") == "forget" else self._studio(owner).open
        do(owner, told.get("id"))
        look, (drawn, start, *rest) = self.look(owner, seeds, strength, psi), self._library(owner)
        if told.get("act") == "on":
            start = Change({**start.props, "value": told["id"]})
        return look, drawn, start, *rest

    def load(self, owner: str | None, file, seeds, strength, psi) -> tuple:
        """A domain file of the visitor's own."""
        self._studio(owner).load(owner, file[0] if isinstance(file, list) and file else file)
        return self.look(owner, seeds, strength, psi), *self._library(owner)

    def weigh(self, owner: str | None, numbers) -> tuple:
        """A weight for each domain that is chosen, called by its name."""
        kept = self._studio(owner).visitors.get(owner).kept
        names = [kept[n].title for n in numbers if n in kept] if isinstance(numbers, list) else []
        shown = [Change({"label": name, "visible": True}) for name in names[:MAX_MIX]]
        return *shown, *[Change({"visible": False})] * (MAX_MIX - len(shown))

    def mix(self, owner: str | None, seeds, strength, psi, numbers, *weights) -> tuple:
        """A mix of kept domains."""
        self._studio(owner).mix(owner, numbers, weights)
        return self.look(owner, seeds, strength, psi), *self._library(owner)

    def keep_mix(self, owner: str | None) -> tuple:
        """The mix as a domain of its own."""
        self._studio(owner).keep_mix(owner)
        return self._library(owner)

    def _library(self, owner: str | None) -> tuple:
        visitor = self._studio(owner).visitors.get(owner)
        paths = [path for path, _ in visitor.recipe]
        kept = list(visitor.kept.values())
        choices = [(f"{entry.title} · {entry.id[:4]}", entry.id) for entry in reversed(kept)]
        start = Change({"choices": [("—", ""), *choices]})
        file = str(paths[0]) if len(paths) == 1 else None
        shown = Change({"value": file, "visible": file is not None})
        return cards(kept, paths), start, Change({"choices": choices}), shown


def _snapshots(steps: list[int]):
    """The slider over the snapshots of a run, by number: their steps are not evenly spaced, and
    stand beside it. Hidden where there is no choice."""
    if len(steps) < 2:
        return Change({"visible": False})
    told = " · ".join(map(str, steps))
    return Change({"maximum": len(steps), "value": len(steps), "info": told, "visible": True})
