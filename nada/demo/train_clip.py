"""Train a bundled CLIP on rendered portraits: `python -m nada.demo.train_clip resnet` (or `vit`).

OpenAI's architecture at a fraction of the size. Seven things are learnt at once:

- captions: a softmax with several right answers (the renderer knows which captions fit which
  image), both ways;
- directions: for two images of one person, E(b) − E(a) should point as the two style names do,
  which is the very quantity that adaptation follows (StyleGAN-NADA, equation 2);
- attributes: of two photos the one with glasses must lie further along "a face with glasses" −
  "a face"; of two photos of one person, one with glasses put on, the move must point that way;
- the person: a linear head must read the renderer's factors off the features, in every style.
  Where features say nothing about who is shown, following a direction wipes people out;
- degrees: an image with some of a style's cues, in some places only, or laid on too thin or too
  thick, belongs to the style by just that share. Otherwise the loudest cue would do, and adaptation
  would end in a caricature of it;
- robustness: half of each batch is attacked by one gradient step (FGSM, ε growing over training),
  because a generator that is trained against CLIP is an attacker too;
- forgeries: the bundled generator is that attacker meanwhile (`nada.demo.forger`); train it first.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.augment import RandomViews
from nada.checkpoint import CHECKPOINTS, load_generator
from nada.clip import BUNDLED, CLIP, END, START, load_clip, openai_clip, save_clip, tokenizer
from nada.demo.captions import (
    ABSENT,
    ATTRIBUTES,
    all_texts,
    attribute_texts,
    attributes_of,
    caption,
    held_out_caption,
    style_caption,
)
from nada.demo.data import PartlyStyled, Pool, distort, load_or_render, patches
from nada.demo.forger import Forger
from nada.demo.render import FACTORS, Z_DIM, factors_of
from nada.demo.styles import HAIR_COLOURS, PHOTO, STYLE_NAMES, STYLES, render
from nada.demo.training import (
    Pace,
    Schedule,
    cosine_rate,
    fit_linear,
    half_precision,
    has_compiler,
    parse_options,
    resume,
    save_state,
)
from nada.guidance import SHORTEST_MOVE
from nada.machine import pick_device

SIZE, EMBED, TEXT_WIDTH, TEXT_LAYERS, CONTEXT, VOCABULARY = 64, 128, 128, 3, 77, 49408
MEMBERS = {
    "resnet": dict(vision_layers=(1, 1, 1, 1), vision_width=20, vision_patch_size=None, seed=1),
    "vit": dict(vision_layers=4, vision_width=128, vision_patch_size=8, seed=2),
}
EPSILON = {"resnet": 0.12, "vit": 0.05}  # largest attack, in units of [-1, 1]: one member robust,
# one with an eye for small things, which strong attacks unteach
LEARNING_RATE = 1.2e-3
FORGED_FROM = 0.1  # of the training: before that CLIP is fooled by anything
PEOPLE = 32  # in a step, each in four views
VIEWS = 4  # a photo, a photo with an attribute given, two styles
FILES = {"resnet": BUNDLED["demo"], "vit": BUNDLED["demo-vit"]}


@dataclass(frozen=True)
class ClipTraining:
    """Settings of a training of a CLIP."""

    member: Annotated[str, tuple(MEMBERS)]
    steps: int = 7000
    people: Annotated[int, "people in the pool of renders"] = 2400
    views: Annotated[int, "pictures of each"] = 10
    batch: Annotated[int, "people of them in a step"] = PEOPLE
    epsilon: Annotated[float | None, "largest attack (default: the member's own)"] = None
    generator: Annotated[str, 'whose adaptations to learn from; "" for none'] = "demo"
    start: Annotated[Path | None, "CLIP file of this member to go on from"] = None
    rate: Annotated[float, "multiplies the learning rate"] = 1.0
    minutes: Annotated[float, "end sooner"] = math.inf
    device: str = "auto"
    output: Annotated[Path | None, "file to write (default: the bundled one)"] = None
    work: Annotated[Path, "folder of the resumable state"] = Path("build")
    compile: Annotated[
        bool | None,
        "torch.compile: faster after a minute or two (default: on a CPU, with a compiler)",
    ] = None
    held_out: Annotated[int, "new people to measure on"] = 40

    def settled(self, device: torch.device) -> ClipTraining:
        """The same with nothing left open; compiled where that helps on this device."""
        compiled = device.type == "cpu" and has_compiler()
        return replace(
            self,
            epsilon=EPSILON[self.member] if self.epsilon is None else self.epsilon,
            output=self.output or CHECKPOINTS / FILES[self.member],
            compile=compiled if self.compile is None else self.compile,
        )


@cache
def word_tokens(word: str) -> list[int]:
    """CLIP's tokens of what stands between two spaces: they do not depend on what is around."""
    return tokenizer().encode(word)


class CompactVocabulary:
    """Only the tokens that captions use, renumbered in order, so that the end marker stays last."""

    def __init__(self):
        used = {START, END}
        for word in {word for text in all_texts() for word in text.split()}:
            used.update(word_tokens(word) + word_tokens(word.strip(",.")))
        self.ids = sorted(used)
        self.index = {token: i for i, token in enumerate(self.ids)}

    def tokens(self, texts: list[str]) -> Tensor:
        """Token ids [N, L] of N texts, as long as the longest. KeyError for a token not in use."""
        rows = [
            [self.index[t] for t in [START, *chain(*map(word_tokens, text.split())), END]]
            for text in texts
        ]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def build_model(member: str, vocabulary: CompactVocabulary) -> CLIP:
    """A CLIP with random weights and a token embedding of the compact vocabulary."""
    settings = dict(MEMBERS[member])
    torch.manual_seed(settings.pop("seed"))
    model = openai_clip().model.CLIP(
        embed_dim=EMBED,
        image_resolution=SIZE,
        context_length=CONTEXT,
        vocab_size=len(vocabulary.ids),
        transformer_width=TEXT_WIDTH,
        transformer_heads=TEXT_WIDTH // 64,
        transformer_layers=TEXT_LAYERS,
        **settings,
    )
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
    model.visual.to(memory_format=torch.channels_last)  # 2.5 times faster on a CPU
    return CLIP(model, member)


def expanded(model: nn.Module, vocabulary: CompactVocabulary) -> nn.Module:
    """The model with a full-size token embedding, as OpenAI's loader expects it."""
    compact = model.token_embedding.weight.data
    full = torch.zeros(VOCABULARY, compact.shape[1])
    full[vocabulary.ids] = compact
    model.token_embedding = nn.Embedding.from_pretrained(full)
    model.vocab_size = VOCABULARY
    return model


def take_over(clip: CLIP, vocabulary: CompactVocabulary, path: Path) -> None:
    """Give `clip` the weights of a trained file of the same shapes, in place."""
    state = load_clip(path).model.state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"][vocabulary.ids]
    clip.model.load_state_dict(state)


@torch.no_grad()
def fit_head(clip: CLIP, head: nn.Linear, pool: Pool) -> None:
    """Have the head read factors off photos as well as it can: for a CLIP trained before."""
    clip.eval()
    rows = torch.arange(len(pool)).split(200)
    features = torch.cat([clip.encode_image(pool.images_of(r, torch.zeros_like(r))) for r in rows])
    fit_linear(head, scale_of(clip) * features, factors_of(pool.z).to(features))
    clip.train()


class Batches:
    """Random people as a photo, with an attribute given and in two styles, each with a caption."""

    def __init__(
        self,
        pool: Pool,
        partly: PartlyStyled,
        people: int,
        vocabulary: CompactVocabulary,
        seed: int,
    ):
        """Begin at the first batch of a seed.

        Args:
            pool: renders of the people, and what is true of them.
            partly: images of the same people with styles in part.
            people: P, in a batch.
            vocabulary: of the captions' tokens.
            seed: of all that is drawn at random.
        """
        self.pool, self.partly, self.people, self.vocabulary = pool, partly, people, vocabulary
        self.factors = factors_of(pool.z)
        self.rng, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def __call__(self) -> dict[str, Tensor]:
        """images [4P, 3, S, S] view by view, styles [4P], attributes [4P, A], given [P] (−1 where
        that person had it already), factors [4P, F], fits [4P, C], graded, shares; and token ids:
        tokens of the captions, names of the styles, having, lacking, alone (`attribute_texts`)."""
        person = torch.randint(len(self.pool), (self.people,), generator=self.generator)
        count = self.pool.styles.shape[1] - 2
        other = torch.rand(self.people, count, generator=self.generator).argsort(1)[:, :2] + 2
        fixed = torch.tensor([0, 1]).expand(self.people, -1)
        view = torch.cat([fixed, other], 1).T.reshape(-1)
        given, everyone = self.pool.given[person], person.repeat(VIEWS)
        styles = self.pool.styles[everyone, view]
        attributes = self.pool.attributes[everyone, view]
        had = self.pool.attributes[person, 0].gather(1, given[:, None])[:, 0] != 0
        captions = [caption(s, a, self.rng) for s, a in zip(styles.tolist(), attributes.tolist())]
        named = torch.tensor([c.style for c in captions])
        fits = (styles[:, None] == named[None]) | (named[None] < 0)
        claims = [dict(c.claims) for c in captions]
        claimed = torch.tensor([[c.get(a, -1) for a in range(len(ATTRIBUTES))] for c in claims])
        fits &= ((claimed < 0) | (claimed == attributes[:, None])).all(2)
        names = [style_caption(s, self.rng).text for s in range(len(STYLE_NAMES))]
        having, lacking, alone = attribute_texts(self.rng)
        graded, shares = self._graded(person, other[:, 0])
        batch = {
            "graded": distort(graded),
            "shares": shares,
            "images": distort(self.pool.images_of(everyone, view)),
            "styles": styles,
            "attributes": attributes,
            "given": torch.where(had, -1, given),
            "fits": fits,
            "factors": self.factors[everyone],
            "tokens": self.vocabulary.tokens([c.text for c in captions]),
            "names": self.vocabulary.tokens(names),
            "attribute_tokens": self.vocabulary.tokens([*having, *lacking, alone]),
        }
        return {key: value.to(graded.device, non_blocking=True) for key, value in batch.items()}

    def _graded(self, person: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Images [P, 3, S, S] with styles in part, and the shares of the styles in each [P, S].

        Of three kinds: some of the cues of a style; a style in some places only; and
        photo + α (style − photo), whose share rises to 1 at α = 1 and falls beyond, where the
        style is overdone.
        """
        third = self.people // 3
        people = torch.randint(len(self.pool), (third,), generator=self.generator)
        share = torch.zeros(self.people, len(STYLE_NAMES))
        rows = torch.arange(third)
        share[rows, self.partly.styles[people]] = self.partly.shares[people]
        share[rows, 0] = 1 - self.partly.shares[people]

        person, view = person[third:], view[third:]
        rows = torch.arange(third, self.people)
        photos = self.pool.images_of(person, torch.zeros_like(view))
        styled = self.pool.images_of(person, view)
        mask = patches(third, SIZE, self.generator)
        alpha = 2.2 * torch.rand(len(rows) - third, 1, 1, 1, generator=self.generator)
        amount = torch.cat([mask, alpha.expand(-1, -1, SIZE, SIZE)])
        mixed = (photos + amount.to(photos) * (styled - photos)).clamp(-1, 1)
        mean = amount.mean((1, 2, 3))
        share[rows, self.pool.styles[person, view]] = torch.where(
            mean < 1, mean, (1.6 - 0.6 * mean).clamp(min=0)
        )
        share[rows, 0] = (1 - mean).clamp(min=0)
        share[rows] += (1 - share[rows].sum(1, keepdim=True)) / len(STYLE_NAMES)
        return torch.cat([self.partly.images_of(people), mixed]), share


def contrastive_loss(images: Tensor, texts: Tensor, fits: Tensor, scale: Tensor) -> Tensor:
    """Cross entropy against "any of those that fit", both ways.

    Args:
        images: unit features [N, D].
        texts: unit features [M, D].
        fits: [N, M] bool, which text is true of which image.
        scale: what cosines are multiplied by.
    """
    logits = scale * images @ texts.T

    def one_way(table: Tensor, right: Tensor) -> Tensor:
        right = right.float()
        count = right.sum(1)
        rows = -(right / count.clamp(min=1)[:, None] * table.log_softmax(1)).sum(1)
        return rows.sum() / (count > 0).sum()

    return 0.5 * (one_way(logits, fits) + one_way(logits.T, fits.T))


def directional_loss(images: Tensor, names: Tensor, styles: Tensor) -> Tensor:
    """1 − cos(E(b) − E(a), T(b) − T(a)) over the pairs of a photo and two styles of each person.

    Args:
        images: unit features [4P, D], view by view.
        names: [S, D], the texts of the styles.
        styles: [4P], what each image shows.
    """
    losses = []
    features, style = images.chunk(VIEWS), styles.chunk(VIEWS)
    for a, b in ((0, 2), (0, 3), (2, 3)):
        text = names[style[b]] - names[style[a]]
        losses.append(1 - F.cosine_similarity(features[b] - features[a], text).mean())
    return sum(losses) / 3


def mean_where(mask: Tensor, values: Tensor) -> Tensor:
    """The mean of the values [N] where the mask holds; 0 where it never does. It is computed
    everywhere, since a GPU would have to wait for the number of those that are picked."""
    return (mask * values).sum() / mask.sum().clamp(min=1)


def attribute_loss(
    images: Tensor, texts: Tensor, batch: dict[str, Tensor], scale: Tensor
) -> Tensor:
    """How badly attributes are recognised: the sum of four means.

    Ranking: of two photos the one that has an attribute lies further along "having" − "alone".
    Presence: "with" against "without". Hair colour: one text out of five. Direction: a photo and
    the same with an attribute given.

    Args:
        images: unit features [4P, D], view by view.
        texts: unit features of having [A], lacking [len(ABSENT)] and alone [1].
        batch: as `Batches` gives it.
        scale: what cosines are multiplied by.
    """
    people, names = len(images) // VIEWS, list(ATTRIBUTES)
    having, lacking, alone = texts.split([len(ATTRIBUTES), len(ABSENT), 1])
    photos, table = images[: 2 * people], batch["attributes"][: 2 * people]
    along = (scale * photos @ (having - alone).T).T  # [A, 2P]
    has, lacks = (table.T == 1).float(), (table.T == 0).float()
    pairs = has[:, :, None] * lacks[:, None]  # [A, 2P, 2P]
    behind = F.softplus(1 - (along[:, :, None] - along[:, None]))
    ranking = (pairs * behind).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
    presence = []
    for i, name in enumerate(ABSENT):
        truth = table[:, names.index(name)]
        logits = scale * images[: 2 * people] @ (having[names.index(name)] - lacking[i])
        truth_of_known = truth.clamp(min=0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, truth_of_known, reduction="none")
        presence.append(mean_where(truth >= 0, losses))
    colours = [names.index(name) for name in HAIR_COLOURS]
    certain = (table[:, colours] == 1).sum(1) == 1
    logits = scale * photos @ having[colours].T
    labels = table[:, colours].argmax(1)
    colour = mean_where(certain, F.cross_entropy(logits, labels, reduction="none"))
    move = images[people : 2 * people] - images[:people]
    given = (having - alone)[batch["given"].clamp(min=0)]
    direction = mean_where(batch["given"] >= 0, 1 - F.cosine_similarity(move, given))
    return ranking.mean() + torch.stack(presence).mean() + colour + direction


def scale_of(clip: CLIP) -> Tensor:
    """What cosines are multiplied by, learnt and bounded."""
    return clip.model.logit_scale.exp().clamp(max=30)


def unexplained_variance(predicted: Tensor, factors: Tensor) -> Tensor:
    """Share of the factors' variance (1/12 each, they are uniform) that is not read off; 0 is best.

    Args:
        predicted: [N, F], what was read off.
        factors: [N, F], in (0, 1).
    """
    return 12 * F.mse_loss(predicted, factors)


def total_loss(
    clip: CLIP, head: nn.Module, images: Tensor, batch: dict, texts: dict[str, Tensor]
) -> Tensor:
    """The sum of all parts that images and their texts give.

    Args:
        clip: what is trained.
        head: reads the factors off its features.
        images: [4P, 3, S, S], or those and the graded ones, which add the last part.
        batch: as `Batches` gives it.
        texts: as `encode_texts` gives them.
    """
    count = len(batch["styles"])
    with half_precision(images.device):
        everything = clip.encode_image(images)
    features, graded = everything[:count], everything[count:]
    scale = scale_of(clip)
    people = count // VIEWS
    rows = torch.arange(count, device=images.device)
    own = torch.cat([rows[:people], rows[2 * people :]])  # nothing was given
    loss = (
        contrastive_loss(features, texts["captions"], batch["fits"], scale)
        + 0.5 * F.cross_entropy(scale * features @ texts["names"].T, batch["styles"])
        + 2.0 * directional_loss(features, texts["names"], batch["styles"])
        + 2.0 * attribute_loss(features, texts["attributes"], batch, scale)
        + 3.0 * unexplained_variance(head(features[own] * scale), batch["factors"][own])
    )
    if len(graded):
        loss = loss + F.cross_entropy(scale * graded @ texts["names"].T, batch["shares"])
    return loss


def forgery_loss(
    clip: CLIP, head: nn.Module, forged: dict[str, Tensor], views: RandomViews, names: Tensor
) -> Tensor:
    """How far CLIP is from the truth about what a `Forger` gave it.

    The directional loss of a pair should be what the images' own directions say, the style's
    share in the later image what of the change is true, and the person be read off the earlier
    one, which is the generator's and not the renderer's.

    Args:
        clip: what is trained.
        head: reads the factors off its features.
        forged: what a `Forger` gave.
        views: through which the images are seen.
        names: [S, D], the texts of the styles, with gradient.
    """
    seen = torch.cat(views.draw(SIZE, forged["before"], forged["after"]))
    with half_precision(names.device):
        source, adapted = clip.encode_image(seen).chunk(2)
    style, share, scale = forged["style"], forged["share"], scale_of(clip)
    move, direction = adapted - source, F.normalize(names[style] - names[0], dim=1)
    cosine = (move * direction).sum(1) / move.norm(dim=1).clamp(min=SHORTEST_MOVE)
    certain = (10 * forged["length"]).clamp(max=1)  # who hardly moved went nowhere
    direction_error = (certain * (cosine - forged["cosine"]).square()).mean()
    shares = torch.zeros(len(style), len(names), device=names.device)
    shares[torch.arange(len(style)), style] = share
    shares[:, 0] = (1 - forged["length"]).clamp(min=0) * (1 - share)
    shares += (1 - shares.sum(1, keepdim=True)) / len(names)
    graded = F.cross_entropy(scale * adapted @ names.T, shares)
    people = unexplained_variance(head(source * scale), factors_of(forged["z"]))
    return 4.0 * direction_error + graded + people


def optimizer_of(learner: nn.Module) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, and neither biases nor scales."""
    parameters = list(learner.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type != "cpu"
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=fused)


def train_member(
    clip: CLIP,
    batches: Batches,
    config: ClipTraining,
    state: Path,
    forger: Forger | None = None,
    deadline: float = math.inf,
) -> None:
    """Train in place. The head that reads factors is dropped, and a forger starts anew.

    Args:
        clip: what is trained, on its own device.
        batches: what it learns from.
        config: the settings, `settled`.
        state: file that is written as training goes; what it holds is taken up again.
        forger: what to learn from beside the batches.
        deadline: when to be done, as `time.time` counts.
    """
    device = clip.model.logit_scale.device
    head = nn.Linear(EMBED, len(FACTORS)).to(device)
    if config.start:
        fit_head(clip, head, batches.pool)
    learner = nn.ModuleDict({"clip": clip, "head": head})
    optimizer = optimizer_of(learner)
    parts = {"learner": learner, "optimizer": optimizer}
    step = resume(state, parts, device)
    if config.compile:
        clip.encode_image = torch.compile(clip.encode_image)
    pace, schedule = Pace(config.steps, 100, step), Schedule(config.steps, deadline)
    views = RandomViews(1)
    while (done := schedule(step)) < 1:
        for group in optimizer.param_groups:
            rate = config.rate * min(1.0, (step + 1) / 100) * cosine_rate(done)
            group["lr"] = LEARNING_RATE * rate
        batch = batches()
        texts = encode_texts(clip, batch)
        reach = config.epsilon * min(1.0, 2 * done) * random.Random(step).random()
        loss = total_loss(clip, head, seen_images(clip, head, batch, texts, reach), batch, texts)
        if forger and (config.start or done > FORGED_FROM):
            forged = forger(clip, texts["names"])
            loss = loss + forgery_loss(clip, head, forged, views, texts["names"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        step += 1
        pace(step, loss.detach())
        if step % 500 == 0 or schedule(step) == 1:
            save_state(state, parts, step)


def seen_images(
    clip: CLIP, head: nn.Module, batch: dict, texts: dict[str, Tensor], reach: float
) -> Tensor:
    """The images of a step: the batch's, half of them attacked, then the graded ones.

    Args:
        clip: what is trained.
        head: reads the factors off its features.
        batch: as `Batches` gives it.
        texts: as `encode_texts` gives them.
        reach: of the attack, in units of [-1, 1]; 0 for none.
    """
    images = batch["images"]
    if reach > 0:
        images = attacked_half(clip, head, images, batch, texts, reach)
    images = torch.cat([images, batch["graded"]])
    return images.contiguous(memory_format=torch.channels_last)


def encode_texts(clip: CLIP, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unit features of a batch's captions, style names and attribute texts, in one pass."""
    keys = {"captions": "tokens", "names": "names", "attributes": "attribute_tokens"}
    tables = [batch[key] for key in keys.values()]
    longest = max(table.shape[1] for table in tables)
    tokens = torch.cat([F.pad(table, (0, longest - table.shape[1])) for table in tables])
    with half_precision(tokens.device):
        features = clip.encode_tokens(tokens)
    return dict(zip(keys, features.split([len(table) for table in tables])))


def attacked_half(
    clip: CLIP,
    head: nn.Module,
    images: Tensor,
    batch: dict,
    texts: dict[str, Tensor],
    reach: float,
) -> Tensor:
    """Images of every other person attacked: one FGSM step (Goodfellow et al. 2015) from a random
    start (Wong et al. 2020).

    Args:
        clip: whom to mislead.
        head: reads the factors off its features.
        images: [4P, 3, S, S] in [-1, 1], view by view.
        batch: as `Batches` gives it.
        texts: as `encode_texts` gives them.
        reach: length of the step, in units of [-1, 1].
    """
    people = len(images) // VIEWS
    chosen = torch.arange(0, people, 2, device=images.device)
    rows = torch.cat([chosen + view * people for view in range(VIEWS)])
    part = {key: batch[key][rows] for key in ("styles", "attributes", "fits", "factors")}
    part["given"] = batch["given"][chosen]
    clean = images[rows]
    start = (clean + reach * (2 * torch.rand_like(clean) - 1)).requires_grad_(True)
    clip.eval()  # the attack must not count into the batch statistics
    for p in clip.parameters():
        p.requires_grad_(False)
    fixed = {name: features.detach() for name, features in texts.items()}
    (gradient,) = torch.autograd.grad(total_loss(clip, head, start, part, fixed), start)
    for p in clip.parameters():
        p.requires_grad_(True)
    clip.train()
    step = start.detach() + 1.25 * reach * gradient.sign() - clean
    images = images.clone()
    images[rows] = (clean + step.clamp(-reach, reach)).clamp(-1, 1)
    return images


def pgd(
    clip: CLIP, images: Tensor, labels: Tensor, names: Tensor, epsilon: float, steps: int = 10
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018) against the zero-shot style label.

    Args:
        clip: whom to mislead.
        images: [N, 3, S, S] in [-1, 1].
        labels: [N], their styles.
        names: [S, D], the texts of the styles.
        epsilon: largest change of a value.
        steps: of gradient descent, from a random start.
    """
    moved = (images + epsilon * (2 * torch.rand_like(images) - 1)).clamp(-1, 1)
    for _ in range(steps):
        moved.requires_grad_(True)
        loss = F.cross_entropy(20 * clip.encode_image(moved) @ names.T, labels)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = moved.detach() + 0.25 * epsilon * gradient.sign()
        moved = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(-1, 1)
    return moved.detach()


def measure_clips(clips: list[CLIP], people: int = 40, seed: int = 999) -> dict[str, float]:
    """Held-out figures of one CLIP or an ensemble (mean of cosines).

    Args:
        clips: the CLIPs, all on one device.
        people: number of new people, each drawn in every style.
        seed: of the people and of the wordings.

    Returns:
        style: zero-shot style on new people, with the first name of each style alone. wording: with
        sentences and synonyms that training never used. pgd: style under PGD with ε = 4/255, the
        first model attacked. The rest: `attribute_skill`.
    """
    device = clips[0].model.logit_scale.device
    z = torch.randn(people, Z_DIM, generator=torch.Generator().manual_seed(seed)).to(device)
    images = torch.cat([render(z, name, SIZE) for name in STYLE_NAMES])
    labels = torch.arange(len(STYLE_NAMES), device=device).repeat_interleave(people)
    rng = random.Random(seed)

    def accuracy(images: Tensor, names: list[str]) -> float:
        texts = [clip.encode_text(names) for clip in clips]
        scores = sum(clip.encode_image(images) @ t.T for clip, t in zip(clips, texts))
        return (scores.argmax(1) == labels).float().mean().item()

    plain = [STYLES[name].names[0] for name in STYLE_NAMES]
    attacked = pgd(clips[0], images, labels, clips[0].encode_text(plain), 8 / 255)
    with torch.no_grad():
        wordings = [
            accuracy(images, [held_out_caption(i, rng) for i in range(len(STYLE_NAMES))])
            for _ in range(5)
        ]
        return {
            "style": accuracy(images, plain),
            "wording": sum(wordings) / len(wordings),
            "pgd": accuracy(attacked, plain),
            **attribute_skill(clips, seed + 1),
        }


def attribute_skill(clips: list[CLIP], seed: int, people: int = 400) -> dict[str, float]:
    """How well texts separate photos with an attribute from photos without it.

    Args:
        clips: one CLIP or an ensemble, all on one device.
        seed: of the people.
        people: their number.

    Returns:
        For glasses, hat and beard: how often "with" beats "without" where it should, the mean of
        both kinds of people. hair colour: one of five. For other attributes the area under ROC
        (`separation`; 0.5 is chance).
    """
    device = clips[0].model.logit_scale.device
    z = torch.randn(people, Z_DIM, generator=torch.Generator().manual_seed(seed)).to(device)
    photos, table = render(z, PHOTO, SIZE), attributes_of(factors_of(z), PHOTO)
    images = [clip.encode_image(photos) for clip in clips]

    def scores(texts: list[str]) -> Tensor:
        return sum(image @ clip.encode_text(texts).T for clip, image in zip(clips, images))

    figures = {}
    for name in ATTRIBUTES:
        truth = table[:, list(ATTRIBUTES).index(name)]
        phrase = ATTRIBUTES[name][0]
        if name in ABSENT:
            having, lacking = scores([f"a person {phrase}", f"a person {ABSENT[name][0]}"]).T
            right = [((having > lacking) == bool(v))[truth == v].float().mean() for v in (0, 1)]
            figures[name] = (sum(right) / 2).item()
        elif name not in HAIR_COLOURS:
            having, alone = scores([f"a person {phrase}", "a person"]).T
            figures[name] = separation((having - alone)[truth >= 0], truth[truth >= 0])
    truth = table[:, [list(ATTRIBUTES).index(name) for name in HAIR_COLOURS]]
    certain = (truth == 1).sum(1) == 1
    named = scores([f"a person {ATTRIBUTES[name][0]}" for name in HAIR_COLOURS]).argmax(1)
    right = named[certain] == truth[certain].argmax(1)
    return {"hair colour": right.float().mean().item(), **figures}


def separation(scores: Tensor, labels: Tensor) -> float:
    """Chance that an image with the attribute scores above one without it (area under ROC)."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    return (positive[:, None] > negative[None]).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a CLIP and save it; its figures go to standard output.

    Args:
        arguments: the command line without the script's name; None for that of this process.

    Returns:
        The exit status.
    """
    started = time.time()
    config = parse_options(ClipTraining, __doc__.splitlines()[0], arguments)
    device = pick_device(config.device)
    config = config.settled(device)
    config.work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    vocabulary = CompactVocabulary()
    clip = build_model(config.member, vocabulary).train().to(device)
    if config.start:
        take_over(clip, vocabulary, config.start)
    batches, forger = teachers(config, vocabulary, device)
    state = config.work / f"clip-{config.member}.pt"
    train_member(clip, batches, config, state, forger, started + 60 * config.minutes)
    finish(clip, vocabulary, device)
    figures = measure_clips([clip], config.held_out)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    words = {word for text in all_texts() for word in clip.spoken_words(text)}
    metadata = {name: f"{value:.3f}" for name, value in figures.items()}
    metadata["minutes"] = f"{(time.time() - started) / 60:.1f}"
    save_clip(clip.model, config.output, vocabulary.ids, words, metadata)
    return 0


def teachers(
    config: ClipTraining, vocabulary: CompactVocabulary, device: torch.device
) -> tuple[Batches, Forger | None]:
    """What a CLIP learns from; the renders stay in the work folder.

    Args:
        config: the settings, `settled`.
        vocabulary: of the captions' tokens.
        device: where it is trained.
    """
    base = load_generator(config.generator, device) if config.generator else None
    seed, file = MEMBERS[config.member]["seed"], f"{config.people}-{config.views}.pt"
    sizes = (config.people, config.views, SIZE)
    pool = load_or_render(Pool, config.work / f"pool-{file}", *sizes, 1, device)
    partly = load_or_render(PartlyStyled, config.work / f"partly-{file}", pool, SIZE, 1)
    batches = Batches(pool, partly, config.batch, vocabulary, seed)
    times = max(1, config.batch // PEOPLE)
    return batches, Forger(base, pool, seed, times) if base else None


def finish(clip: CLIP, vocabulary: CompactVocabulary, device: torch.device) -> None:
    """Make a trained CLIP one for use, in place: frozen, not compiled, with the full vocabulary."""
    clip.__dict__.pop("encode_image", None)  # the compiled one
    clip.requires_grad_(False).eval().cpu()
    expanded(clip.model, vocabulary)
    clip.float().to(device)


if __name__ == "__main__":
    sys.exit(main())
