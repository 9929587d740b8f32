"""Train a bundled CLIP on rendered portraits: `python -m nada.demo.train_clip resnet` (or `vit`).

OpenAI's architecture at a fraction of the size. Five things are learnt at once:

- captions: a softmax with several right answers (the renderer knows which captions fit which
  picture), both ways;
- directions: for two pictures of one person, E(b) − E(a) should point as the two style names do,
  which is the very quantity that adaptation follows (StyleGAN-NADA, equation 2);
- the person: a linear head must read the renderer's factors off the features, in every style.
  Where features say nothing about who is shown, following a direction wipes people out;
- degrees: a picture with some of a style's cues, in some places only, or laid on too thin or too
  thick, belongs to the style by just that share. Otherwise the loudest cue would do, and adaptation
  would end in a caricature of it;
- robustness: half of each batch is attacked by one gradient step (FGSM, ε growing over training),
  because a generator that is trained against CLIP is an attacker too.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.checkpoint import CHECKPOINTS
from nada.clip import BUNDLED, CLIP, END, START, openai_clip, save_clip, tokenizer
from nada.demo.captions import (
    ATTRIBUTES,
    STYLE_NAMES,
    all_texts,
    attributes_of,
    caption,
    style_caption,
)
from nada.demo.data import Pace, PartlyStyled, Pool, cosine_rate, distort, patches
from nada.demo.render import FACTORS, Z_DIM, factors_of, render
from nada.demo.styles import STYLES

SIZE, EMBED, TEXT_WIDTH, TEXT_LAYERS, CONTEXT, VOCABULARY = 64, 128, 128, 3, 77, 49408
MEMBERS = {
    "resnet": dict(vision_layers=(1, 1, 1, 1), vision_width=20, vision_patch_size=None, seed=1),
    "vit": dict(vision_layers=3, vision_width=128, vision_patch_size=8, seed=2),
}
PEOPLE = 40  # in a batch, each in three views
FILES = {"resnet": BUNDLED["demo"], "vit": BUNDLED["demo-vit"]}


class CompactVocabulary:
    """Only the tokens that captions use, renumbered in order, so that the end marker stays last."""

    def __init__(self):
        used = {START, END}
        for text in all_texts():
            used.update(tokenizer().encode(text))
            used.update(t for word in text.split() for t in tokenizer().encode(word.strip(",.")))
        self.ids = sorted(used)
        self.index = {token: i for i, token in enumerate(self.ids)}

    def tokens(self, texts: list[str]) -> Tensor:
        rows = [[self.index[t] for t in [START, *tokenizer().encode(text), END]] for text in texts]
        table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, ids in zip(table, rows):
            row[: len(ids)] = torch.tensor(ids)
        return table


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


class Batches:
    """Random people as a photo and two other styles each, with one caption a picture."""

    def __init__(self, pool: Pool, people: int, vocabulary: CompactVocabulary, seed: int):
        self.pool, self.people, self.vocabulary = pool, people, vocabulary
        self.factors = factors_of(pool.z)
        self.partly = PartlyStyled(pool, SIZE, seed)
        self.rng, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def __call__(self) -> dict[str, Tensor]:
        """images [3P, 3, S, S] view by view, styles [3P], tokens, fits [3P, C], names [S, L]."""
        views = self.pool.styles.shape[1]
        person = torch.randint(len(self.pool), (self.people,), generator=self.generator)
        other = torch.rand(self.people, views - 1, generator=self.generator).argsort(1)[:, :2] + 1
        view = torch.cat([torch.zeros(self.people, 1, dtype=torch.long), other], 1).T.reshape(-1)
        person = person.repeat(3)
        styles, attributes = self.pool.styles[person, view], self.pool.attributes[person, view]
        captions = [
            caption(s, (a == 1).nonzero().flatten().tolist(), self.rng)
            for s, a in zip(styles.tolist(), attributes)
        ]
        named = torch.tensor([c.style for c in captions])
        fits = (styles[:, None] == named[None]) | (named[None] < 0)
        for j, c in enumerate(captions):
            for a in c.attributes:
                fits[:, j] &= attributes[:, a] == 1
        names = [style_caption(s, self.rng).text for s in range(len(STYLE_NAMES))]
        graded, shares = self._graded(person[: self.people], view[self.people : 2 * self.people])
        return {
            "graded": distort(graded),
            "shares": shares,
            "images": distort(self.pool.pictures(person, view)),
            "styles": styles,
            "fits": fits,
            "factors": self.factors[person],
            "tokens": self.vocabulary.tokens([c.text for c in captions]),
            "names": self.vocabulary.tokens(names),
        }

    def _graded(self, person: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [P, 3, S, S] with styles in part, and the shares of the styles in each [P, S].

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
        photos = self.pool.pictures(person, torch.zeros_like(view))
        styled = self.pool.pictures(person, view)
        mask = patches(third, SIZE, self.generator)
        alpha = 2.2 * torch.rand(len(rows) - third, 1, 1, 1, generator=self.generator)
        amount = torch.cat([mask, alpha.expand(-1, -1, SIZE, SIZE)])
        mixed = (photos + amount * (styled - photos)).clamp(-1, 1)
        mean = amount.mean((1, 2, 3))
        share[rows, self.pool.styles[person, view]] = torch.where(
            mean < 1, mean, (1.6 - 0.6 * mean).clamp(min=0)
        )
        share[rows, 0] = (1 - mean).clamp(min=0)
        share[rows] += (1 - share[rows].sum(1, keepdim=True)) / len(STYLE_NAMES)
        return torch.cat([self.partly.pictures(people), mixed]), share


def contrastive(images: Tensor, texts: Tensor, fits: Tensor, scale: Tensor) -> Tensor:
    """Cross entropy against "any of those that fit", both ways. Features unit, fits [N, M] bool."""
    logits = scale * images @ texts.T

    def one_way(table: Tensor, right: Tensor) -> Tensor:
        right = right.float()
        some = right.sum(1) > 0
        aim = right[some] / right[some].sum(1, keepdim=True)
        return -(aim * table[some].log_softmax(1)).sum(1).mean()

    return 0.5 * (one_way(logits, fits) + one_way(logits.T, fits.T))


def directional(images: Tensor, names: Tensor, styles: Tensor) -> Tensor:
    """1 − cos(E(b) − E(a), T(b) − T(a)) over the three pairs of views of each person."""
    losses = []
    features, style = images.chunk(3), styles.chunk(3)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        text = names[style[b]] - names[style[a]]
        losses.append(1 - F.cosine_similarity(features[b] - features[a], text).mean())
    return sum(losses) / 3


def likeness(predicted: Tensor, factors: Tensor) -> Tensor:
    """Share of the factors' variance (1/12 each, they are uniform) that is not read off."""
    return 12 * F.mse_loss(predicted, factors)


def total_loss(
    clip: CLIP, head: nn.Module, images: Tensor, batch: dict, texts: Tensor, names: Tensor
) -> Tensor:
    """The sum of all parts; of the last one only where `images` hold the graded pictures too."""
    count = len(batch["styles"])
    with torch.autocast(images.device.type, torch.bfloat16):
        everything = clip.encode_image(images)
    features, graded = everything[:count], everything[count:]
    scale = clip.model.logit_scale.exp().clamp(max=30)
    loss = (
        contrastive(features, texts, batch["fits"], scale)
        + 0.5 * F.cross_entropy(scale * features @ names.T, batch["styles"])
        + directional(features, names, batch["styles"])
        + 2.0 * likeness(head(features * scale), batch["factors"])
    )
    if len(graded):
        loss = loss + F.cross_entropy(scale * graded @ names.T, batch["shares"])
    return loss


def train(
    clip: CLIP, batches: Batches, steps: int, state: Path, epsilon: float, lr: float = 1.2e-3
) -> None:
    """Train in place; takes up again what `state` holds. The head that reads factors is dropped."""
    head = nn.Linear(EMBED, len(FACTORS))
    learner = nn.ModuleDict({"clip": clip, "head": head})
    decayed = [p for p in learner.parameters() if p.ndim > 1]
    plain = [p for p in learner.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
    )
    step = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        learner.load_state_dict(saved["learner"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    pace = Pace(steps, 100, step)
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine_rate(step, steps, 100)
        batch = batches()
        with torch.autocast("cpu", torch.bfloat16):
            texts, names = clip.encode_tokens(batch["tokens"]), clip.encode_tokens(batch["names"])
        images = batch["images"]
        reach = epsilon * min(1.0, 2 * step / steps) * random.Random(step).random()
        if reach > 0:
            images = attacked_half(clip, head, images, batch, texts, names, reach)
        images = torch.cat([images, batch["graded"]])
        images = images.contiguous(memory_format=torch.channels_last)
        loss = total_loss(clip, head, images, batch, texts, names)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        step += 1
        pace(step, loss.item())
        if step % 500 == 0 or step == steps:
            torch.save(
                {
                    "learner": learner.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                },
                state,
            )


def attacked_half(
    clip: CLIP,
    head: nn.Module,
    images: Tensor,
    batch: dict,
    texts: Tensor,
    names: Tensor,
    reach: float,
) -> Tensor:
    """One FGSM step of `reach` (in units of [-1, 1]; Goodfellow et al. 2015) from a random start
    (Wong et al. 2020) on the pictures of every other person."""
    people = len(images) // 3
    chosen = torch.arange(0, people, 2)
    rows = torch.cat([chosen, chosen + people, chosen + 2 * people])
    part = {key: batch[key][rows] for key in ("styles", "fits", "factors")}
    clean = images[rows]
    start = (clean + reach * (2 * torch.rand_like(clean) - 1)).requires_grad_(True)
    clip.eval()  # the attack must not count into the batch statistics
    for p in clip.parameters():
        p.requires_grad_(False)
    (gradient,) = torch.autograd.grad(
        total_loss(clip, head, start, part, texts.detach(), names.detach()), start
    )
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
    """Projected gradient descent (Madry et al. 2018) against the zero-shot style label."""
    moved = (images + epsilon * (2 * torch.rand_like(images) - 1)).clamp(-1, 1)
    for _ in range(steps):
        moved.requires_grad_(True)
        loss = F.cross_entropy(20 * clip.encode_image(moved) @ names.T, labels)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = moved.detach() + 0.25 * epsilon * gradient.sign()
        moved = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(-1, 1)
    return moved.detach()


def measure(clips: list[CLIP], people: int = 40, seed: int = 999) -> dict[str, float]:
    """Held-out figures of one CLIP or an ensemble (mean of cosines).

    style: zero-shot style on new people, with the first name of each style alone; wording: with
    sentences made of all the names; pgd: style under PGD with ε = 4/255, the first model attacked;
    a figure for each of a few attributes: how well its text separates photos with and without it.
    """
    z = torch.randn(people, Z_DIM, generator=torch.Generator().manual_seed(seed))
    images = torch.cat([render(z, name, SIZE) for name in STYLE_NAMES])
    labels = torch.arange(len(STYLE_NAMES)).repeat_interleave(people)
    rng = random.Random(seed)

    def names(sentences) -> list[Tensor]:
        return [
            F.normalize(torch.stack([c.encode_text(s).mean(0) for s in sentences]), dim=1)
            for c in clips
        ]

    def accuracy(pictures: Tensor, texts: list[Tensor]) -> float:
        scores = sum(c.encode_image(pictures) @ t.T for c, t in zip(clips, texts))
        return (scores.argmax(1) == labels).float().mean().item()

    plain = names([[STYLES[name].names[0]] for name in STYLE_NAMES])
    worded = names([[style_caption(i, rng).text] for i in range(len(STYLE_NAMES))])
    attacked = pgd(clips[0], images, labels, plain[0], 8 / 255)
    with torch.no_grad():
        figures = {
            "style": accuracy(images, plain),
            "wording": accuracy(images, worded),
            "pgd": accuracy(attacked, plain),
        }
        z = torch.randn(400, Z_DIM, generator=torch.Generator().manual_seed(seed + 1))
        photos, truth = render(z, "photo", SIZE), attributes_of(factors_of(z), "photo")
        for name in ("glasses", "hat", "beard", "smile", "blond hair", "old", "long hair"):
            label = truth[:, list(ATTRIBUTES).index(name)]
            prompts = [f"a person {ATTRIBUTES[name][0]}", "a person"]
            scores = 0
            for clip in clips:
                having, plain_person = clip.encode_text(prompts)
                scores = scores + clip.encode_image(photos) @ (having - plain_person)
            figures[name] = separation(scores[label >= 0], label[label >= 0])
    return figures


def separation(scores: Tensor, labels: Tensor) -> float:
    """Chance that a picture with the attribute scores above one without it (area under ROC)."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    return (positive[:, None] > negative[None]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("member", choices=list(MEMBERS))
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--people", type=int, default=3000, help="people in the pool of renders")
    parser.add_argument("--views", type=int, default=9, help="pictures of each")
    parser.add_argument(
        "--epsilon", type=float, default=0.12, help="largest attack, in units of [-1, 1]"
    )
    parser.add_argument("--output", type=Path, help="file to write (default: the bundled one)")
    parser.add_argument(
        "--work", type=Path, default=Path("build"), help="folder of the resumable state"
    )
    parser.add_argument("--held-out", type=int, default=40, help="new people to measure on")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    seed = MEMBERS[args.member]["seed"]
    vocabulary = CompactVocabulary()
    clip = build_model(args.member, vocabulary).train()
    pool = Pool(args.people, args.views, SIZE, seed)
    train(
        clip,
        Batches(pool, PEOPLE, vocabulary, seed),
        args.steps,
        args.work / f"clip-{args.member}.pt",
        args.epsilon,
    )
    clip.requires_grad_(False).eval()
    expanded(clip.model, vocabulary)
    clip.model.float()
    figures = measure([clip], args.held_out)
    print(json.dumps({k: round(v, 3) for k, v in figures.items()}))
    words = {word for text in all_texts() for word in clip.spoken_words(text)}
    save_clip(
        clip.model,
        args.output or CHECKPOINTS / FILES[args.member],
        vocabulary.ids,
        words,
        {
            **{k: f"{v:.3f}" for k, v in figures.items()},
            "minutes": f"{(time.time() - started) / 60:.1f}",
        },
    )


if __name__ == "__main__":
    main()
