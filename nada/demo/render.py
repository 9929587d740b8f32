"""A procedural portrait: latent z → 51 factors → layered scene → image in one of many styles.

The renderer is the ground truth of the bundled world. The generator is distilled from its
"photo" style, CLIP learns its styles and attributes by name, and because every style draws the
*same* person for the same z, an adapted generator can be compared with what it should have drawn.

Everything is batched, free of resolution and made of soft signed-distance shapes, so that each
factor changes the image smoothly. Albedo, shading and part masks are kept apart: a style may
recolour a part, outline it or flatten its shading without knowing how it was drawn.

Lengths are in the head's frame: x to the right, y downwards, both in [-FRAME, FRAME] in an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Z_DIM = 96
FRAME = 0.82  # half the image's side, in units of the head's frame: how close the camera is

FACTORS = (
    "head_width head_height jaw chin skin_tone undertone blush hair_colour hair_length "
    "hair_volume fringe parting curl thinning eye_size eye_spacing eye_height iris gaze "
    "brow_weight brow_angle brow_height nose_width nose_length mouth_width lips smile "
    "mouth_open lip_colour beard moustache glasses glasses_shape hat hat_colour shirt_hue "
    "shirt_value backdrop_hue backdrop_value light turn tilt age eye_open hairdo earrings "
    "freckles collar stripes backdrop_kind warmth"
).split()

PARTS = "backdrop skin hair brow sclera iris pupil lips teeth cloth glasses hat extra".split()


def factor_basis() -> Tensor:
    """Orthonormal directions of z, one per factor: [Z_DIM, len(FACTORS)]."""
    gaussian = torch.randn(Z_DIM, len(FACTORS), generator=torch.Generator().manual_seed(39))
    return torch.linalg.qr(gaussian).Q


def factors_of(z: Tensor) -> Tensor:
    """z [N, 96] → factors [N, 51], each uniform in (0, 1) for Gaussian z.

    z is normalised to unit mean square first, as StyleGAN2's mapping network does, so that the
    factors depend on the direction of z alone.
    """
    z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    return torch.special.ndtr(z @ factor_basis().to(z))


def ramp(x: Tensor, low: float, high: float) -> Tensor:
    """Smoothstep from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def window(u: Tensor, low: float, high: float) -> Tensor:
    """1 between `low` and `high`, 0 outside, smooth at both ends."""
    return ramp(u, low, low + 0.04) - ramp(u, high - 0.04, high)


def palette(u: Tensor, colours: list[tuple[float, float, float]]) -> Tensor:
    """Walk through a list of colours as u [N, 1, 1, 1] goes from 0 to 1: [N, 3, 1, 1]."""
    table = torch.tensor(colours, dtype=u.dtype, device=u.device)
    position = u.flatten() * (len(colours) - 1)
    index = position.long().clamp(max=len(colours) - 2)
    # Smoothstep between neighbours: plateaus make each colour common and the changes quick.
    mix = ramp(position - index, 0.15, 0.85)[:, None]
    return torch.lerp(table[index], table[index + 1], mix)[:, :, None, None]


def hue(h: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """HSV → RGB for h [N, 1, 1, 1]: [N, 3, 1, 1]."""
    channels = [((h * 6 + shift) % 6 - 3).abs() - 1 for shift in (0.0, 4.0, 2.0)]
    pure = torch.cat(channels, 1).clamp(0, 1)
    return value * (1 - saturation * (1 - pure))


SKIN = [
    (0.99, 0.84, 0.75),
    (0.94, 0.75, 0.62),
    (0.84, 0.62, 0.47),
    (0.62, 0.42, 0.30),
    (0.42, 0.27, 0.19),
]
HAIR = [
    (0.07, 0.06, 0.07),
    (0.20, 0.12, 0.08),
    (0.38, 0.23, 0.13),
    (0.62, 0.25, 0.09),
    (0.90, 0.72, 0.38),
    (0.93, 0.82, 0.55),
]
IRIS = [
    (0.30, 0.17, 0.08),
    (0.42, 0.30, 0.12),
    (0.25, 0.45, 0.25),
    (0.25, 0.50, 0.75),
    (0.45, 0.55, 0.62),
]


def portrait(factors: Tensor) -> dict[str, Tensor]:
    """Factors [N, 51] in (0, 1) → lengths, amounts and colours of one portrait each.

    Numbers are [N, 1, 1, 1], colours [N, 3, 1, 1] in [0, 1]. A style edits this dictionary
    before it is drawn.
    """
    u = {name: factors[:, i, None, None, None] for i, name in enumerate(FACTORS)}

    def between(name: str, low: float, high: float) -> Tensor:
        return low + (high - low) * u[name]

    age = ramp(u["age"], 0.55, 1.0)
    # Young heads keep their colour; past the middle of the age factor hair turns grey.
    grey = torch.tensor([0.80, 0.79, 0.78]).view(1, 3, 1, 1).to(factors)
    hair = torch.lerp(palette(u["hair_colour"], HAIR), grey, 0.9 * ramp(age, 0.45, 0.9))
    skin = palette(u["skin_tone"], SKIN) * (
        1
        + 0.05
        * (u["undertone"] - 0.5)
        * torch.tensor([1.0, 0.0, -2.0]).view(1, 3, 1, 1).to(factors)
    )
    afro = ramp(u["hairdo"], 0.16, 0.10)
    backdrop = hue(u["backdrop_hue"], 0.35, between("backdrop_value", 0.35, 0.95))
    return {
        "head_width": between("head_width", 0.37, 0.47),
        "head_height": between("head_height", 0.50, 0.58),
        "jaw": between("jaw", 0.12, 0.42),
        "chin": between("chin", 2.05, 2.7),
        "skin": skin,
        "blush": between("blush", 0.0, 0.5),
        "hair": hair,
        "brow": hair * 0.6,
        "hair_length": between("hair_length", 0.0, 1.0),
        "hair_volume": between("hair_volume", 0.04, 0.20) + 0.11 * afro,
        "fringe": between("fringe", 0.0, 1.0),
        "parting": between("parting", -1.0, 1.0),
        "curl": torch.maximum(ramp(u["curl"], 0.45, 1.0), afro),
        "bun": window(u["hairdo"], 0.58, 0.78),
        "bunches": window(u["hairdo"], 0.80, 1.05),
        "bald": ramp(u["thinning"], 0.86, 0.93),
        "eye_size": between("eye_size", 0.95, 1.35),
        "eye_open": between("eye_open", 0.66, 1.10),
        "eye_spacing": between("eye_spacing", 0.155, 0.20),
        "eye_height": between("eye_height", -0.07, 0.02),
        "iris": palette(u["iris"], IRIS),
        "iris_size": torch.full_like(u["iris"], 0.052),
        "sclera": torch.tensor([0.97, 0.96, 0.95])
        .view(1, 3, 1, 1)
        .to(factors)
        .expand(len(factors), -1, -1, -1),
        "pupil": torch.full_like(u["iris"], 0.45),
        "gaze": between("gaze", -0.03, 0.03),
        "brow_weight": between("brow_weight", 0.014, 0.036),
        "brow_angle": between("brow_angle", -0.22, 0.28),
        "brow_height": between("brow_height", 0.105, 0.15),
        "nose_width": between("nose_width", 0.055, 0.095),
        "nose_length": between("nose_length", 0.17, 0.25),
        "mouth_width": between("mouth_width", 0.12, 0.19),
        "lip_height": between("lips", 0.022, 0.052),
        "smile": between("smile", -0.9, 1.5),
        "mouth_open": 0.075 * ramp(u["mouth_open"], 0.55, 1.0),
        "lips": torch.lerp(
            skin * 0.78,
            hue(torch.full_like(u["iris"], 0.98), 0.65, between("lip_colour", 0.55, 0.85)),
            0.35 + 0.6 * u["lip_colour"],
        ),
        "beard": ramp(u["beard"], 0.66, 0.74),
        "beard_colour": hair * 0.85,
        "moustache": ramp(u["moustache"], 0.72, 0.80),
        "glasses": ramp(u["glasses"], 0.66, 0.72),
        "glasses_shape": between("glasses_shape", 2.0, 5.0),
        "glasses_colour": hue(u["glasses_shape"], 0.5, 0.22),
        "hat": ramp(u["hat"], 0.74, 0.79),
        "hat_colour": hue(u["hat_colour"], 0.7, 0.75),
        "earrings": ramp(u["earrings"], 0.70, 0.75),
        "metal": palette(u["glasses_shape"], [(0.95, 0.78, 0.30), (0.85, 0.88, 0.92)]),
        "freckles": ramp(u["freckles"], 0.72, 0.95),
        "vee": window(u["collar"], 0.40, 0.72),
        "flaps": window(u["collar"], 0.74, 1.05),
        "stripes": ramp(u["stripes"], 0.70, 0.76),
        "cloth": hue(u["shirt_hue"], 0.6, between("shirt_value", 0.25, 0.9)),
        "bokeh": window(u["backdrop_kind"], 0.40, 0.70),
        "slats": window(u["backdrop_kind"], 0.72, 1.05),
        "phase": between("backdrop_hue", -1.0, 1.0),
        "warmth": between("warmth", -1.0, 1.0),
        "backdrop": backdrop,
        "backdrop_low": backdrop * 0.62,
        "light": between("light", -0.75, 0.75),
        "turn": between("turn", -1.0, 1.0),
        "tilt": between("tilt", -0.10, 0.10),
        "age": age,
    }


@dataclass
class Scene:
    """A drawn portrait before its finish. Shapes [N, C, H, W]; colours and alphas in [0, 1]."""

    x: Tensor  # [N, 1, H, W] coordinates in the head's frame
    y: Tensor
    person: dict[str, Tensor]
    albedo: Tensor  # [N, 3, H, W]
    shade: Tensor  # [N, 1, H, W], 1 = fully lit
    gloss: Tensor  # [N, 1, H, W], added highlight
    parts: Tensor  # [N, len(PARTS), H, W], sums to 1

    @property
    def pixel(self) -> float:
        """Side of a pixel in the head's frame."""
        return 2 * FRAME / self.albedo.shape[-1]

    def inside(self, distance: Tensor, softness: float = 1.0) -> Tensor:
        """Signed distance (negative inside) → coverage in [0, 1], about a pixel soft."""
        return torch.sigmoid(distance * (-3.2 / (softness * self.pixel)))

    def paint(self, part: str, alpha: Tensor, colour: Tensor, shade: Tensor | float = 1.0) -> None:
        """Lay a part over what is there."""
        self.albedo = torch.lerp(self.albedo, colour.expand_as(self.albedo), alpha)
        self.shade = self.shade + alpha * (shade - self.shade)
        self.parts = self.parts * (1 - alpha)
        index = PARTS.index(part)
        self.parts[:, index : index + 1] += alpha

    def part(self, *names: str) -> Tensor:
        """Visible coverage of some parts together: [N, 1, H, W]."""
        return sum(self.parts[:, PARTS.index(name), None] for name in names)


def ellipse(x: Tensor, y: Tensor, rx, ry, power=2.0) -> Tensor:
    """Approximate signed distance to a (super)ellipse about the origin."""
    r = ((x / rx).abs().clamp(min=1e-6) ** power + (y / ry).abs().clamp(min=1e-6) ** power) ** (
        1 / power
    )
    return (r - 1) * torch.minimum(torch.as_tensor(rx), torch.as_tensor(ry))


def bump(x: Tensor, y: Tensor, rx, ry) -> Tensor:
    """A Gaussian blob of height 1."""
    return torch.exp(-((x / rx) ** 2 + (y / ry) ** 2))


def stage(person: dict[str, Tensor], size: int) -> Scene:
    """An empty scene with the backdrop painted."""
    age = person["age"]
    n, like = len(age), dict(device=age.device, dtype=age.dtype)
    axis = ((torch.arange(size, **like) + 0.5) * (2 / size) - 1) * FRAME
    gy, gx = torch.meshgrid(axis, axis, indexing="ij")
    gx, gy = gx[None, None], gy[None, None] + 0.01
    # The head leans about the neck.
    cos, sin = person["tilt"].cos(), person["tilt"].sin()
    x = cos * gx + sin * (gy - 0.6)
    y = -sin * gx + cos * (gy - 0.6) + 0.6
    scene = Scene(
        x,
        y,
        person,
        torch.zeros(n, 3, size, size, **like),
        torch.ones(n, 1, size, size, **like),
        torch.zeros(n, 1, size, size, **like),
        torch.zeros(n, len(PARTS), size, size, **like),
    )
    glow = bump(gx - 0.5 * person["light"], gy + 0.35, 0.9, 0.9)
    colour = torch.lerp(person["backdrop"], person["backdrop_low"], ramp(gy, -1, 1))
    light = 0.82 + 0.22 * glow + backdrop_pattern(person, gx, gy)
    scene.paint("backdrop", torch.ones_like(scene.shade), colour, light)
    return scene


BOKEH = ((-0.62, -0.55, 0.16), (0.10, -0.70, 0.11), (0.66, -0.40, 0.19), (-0.70, 0.05, 0.12),
         (0.72, 0.22, 0.13), (-0.50, 0.42, 0.17), (0.42, -0.62, 0.08))  # fmt: skip


def backdrop_pattern(person: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Brightness added to the backdrop: lights out of focus, or the shadow of slats, or nothing."""
    phase = person["phase"]
    spots = sum(
        ramp(((x - cx - 0.15 * phase) ** 2 + (y - cy) ** 2).sqrt(), r, r - 0.06)
        for cx, cy, r in BOKEH
    )
    slats = torch.sin((x + 0.5 * y) * 13 + 3 * phase)
    return 0.16 * person["bokeh"] * spots + 0.09 * person["slats"] * slats


def hair_texture(s: Scene) -> Tensor:
    """Strands: shading along the hair's fall, wavier with curl."""
    p = s.person
    wave = p["curl"] * 0.10 * torch.sin(s.y * 17 + 3 * s.x)
    strands = torch.sin((s.x + wave) * 46 + 6 * p["parting"]) * 0.5 + torch.sin(
        (s.x + wave) * 23 + s.y * 5
    )
    strands = strands + 0.45 * torch.sin((s.x + wave) * 88 + 4 * torch.sin(s.y * 6))
    sheen = bump(s.x - 0.35 * p["light"], s.y + 0.42, 0.28, 0.10)
    return 0.80 + 0.075 * strands + 0.35 * sheen - 0.14 * ramp(s.y, -0.3, 0.9)


def head_distance(s: Scene) -> Tensor:
    """Signed distance to the head: a superellipse that tapers towards the chin."""
    p = s.person
    taper = 1 - p["jaw"] * ramp(s.y / p["head_height"], -0.1, 1.05)
    return ellipse(s.x / taper, s.y, p["head_width"], p["head_height"], p["chin"])


def draw_back_hair(s: Scene) -> None:
    p = s.person
    volume, curl = p["hair_volume"], p["curl"]
    bottom = 0.05 + 0.85 * p["hair_length"]
    ripple = curl * 0.030 * torch.sin(s.y * 19 + 2 * torch.sin(s.x * 9))
    centre = 0.5 * (bottom - p["head_height"] - volume)
    half = 0.5 * (bottom + p["head_height"] + volume)
    width = p["head_width"] + 0.3 * volume + 0.10 * p["hair_length"] + ripple
    back = s.inside(ellipse(s.x, s.y - centre, width, half, 2.9), 1.3)
    texture = hair_texture(s) * 0.72
    s.paint("hair", back * (1 - p["bald"]), p["hair"], texture)
    draw_tied_hair(s, texture)


def draw_tied_hair(s: Scene, texture: Tensor) -> None:
    """A bun on top, or a bunch at either side with its tie."""
    p = s.person
    haired = 1 - p["bald"]
    top = s.y + p["head_height"] + p["hair_volume"] + 0.03
    bun = s.inside(ellipse(s.x - 0.06 * p["turn"], top, 0.155, 0.125), 1.2)
    s.paint("hair", bun * p["bun"] * (1 - p["hat"]) * haired, p["hair"], texture * 1.2)
    side = s.x.abs() - p["head_width"] - 0.55 * p["hair_volume"]
    bunch = s.inside(ellipse(side - 0.10, s.y - 0.20, 0.125, 0.30, 2.4), 1.2)
    s.paint("hair", bunch * p["bunches"] * haired, p["hair"], texture * 1.15)
    tie = s.inside(ellipse(side - 0.03, s.y + 0.07, 0.045, 0.055))
    s.paint("hat", tie * p["bunches"] * haired, p["hat_colour"])


def draw_body(s: Scene) -> None:
    p = s.person
    neck = s.inside(ellipse(s.x, s.y - 0.62, 0.50 * p["head_width"], 0.42, 3.5))
    chin_shadow = 1 - 0.42 * bump(s.x, s.y - p["head_height"] - 0.04, 0.45, 0.16)
    s.paint("skin", neck, p["skin"], 0.92 * chin_shadow)
    round_ = ellipse(s.x, s.y - 0.60, 0.24, 0.24)
    pointed = 0.55 * (1.3 * s.x.abs() + s.y - 0.60) - 0.11
    collar = torch.lerp(round_, pointed, p["vee"])
    shoulders = torch.maximum(ellipse(s.x, s.y - 1.22, 0.88, 0.52, 2.6), -collar)
    folds = 0.88 + 0.10 * torch.cos(s.x * 4 - 1.2 * p["light"]) - 0.12 * ramp(s.y, 0.7, 1.0)
    bands = ramp(torch.sin(s.y * 44 + 3 * s.x**2), -0.2, 0.2) * p["stripes"]
    striped = torch.lerp(p["cloth"].expand_as(s.albedo), 0.35 + 0.6 * p["cloth"], bands)
    s.paint("cloth", s.inside(shoulders), striped, folds)
    trim = s.inside((collar - 0.025).abs() - 0.022) * s.inside(shoulders)
    s.paint("cloth", trim, p["cloth"] * 0.7, folds)
    along, across = s.x.abs() - 0.17, s.y - 0.66 + 0.5 * (s.x.abs() - 0.17)
    flap = s.inside(ellipse(along, across, 0.13, 0.085, 1.4))
    s.paint("cloth", flap * p["flaps"], 0.55 + 0.45 * p["cloth"], folds)


def face_shade(s: Scene) -> Tensor:
    """Lambert shading of an ellipsoid, with the soft hollows of a face."""
    p = s.person
    nx, ny = s.x / (1.08 * p["head_width"]), s.y / (1.12 * p["head_height"])
    nz = (1 - nx * nx - ny * ny).clamp(min=0.02).sqrt()
    lx, ly = p["light"], torch.full_like(p["light"], -0.45)
    length = (lx * lx + ly * ly + 1).sqrt()
    lambert = ((nx * lx + ny * ly + nz) / length).clamp(min=0)
    fx, eye = s.x - 0.10 * p["turn"], p["eye_height"]
    sockets = bump(fx.abs() - p["eye_spacing"], s.y - eye + 0.03, 0.11, 0.075)
    nose_y = eye + p["nose_length"]
    side = torch.sign(p["light"]) * p["light"].abs().clamp(min=0.25)
    ridge = bump(fx + 0.055 * side / side.abs(), s.y - eye - 0.55 * p["nose_length"], 0.032, 0.12)
    under_nose = bump(fx, s.y - nose_y - 0.055, 0.07, 0.028)
    under_lip = bump(fx, s.y - nose_y - 0.245, 0.10, 0.03)
    shade = (
        0.52 + 0.56 * lambert - 0.15 * sockets - 0.17 * ridge - 0.16 * under_nose - 0.10 * under_lip
    )
    return shade - p["age"] * wrinkles(s, fx)


def wrinkles(s: Scene, fx: Tensor) -> Tensor:
    """Darkening by forehead lines, folds beside the mouth and bags under the eyes."""
    p = s.person
    eye, nose_y = p["eye_height"], p["eye_height"] + p["nose_length"]
    forehead = (
        0.20
        * (0.5 + 0.5 * torch.sin(s.y * 75 + 6 * fx * fx))
        * bump(fx, s.y - eye + 0.27, 0.25, 0.085)
    )
    fold_x = 0.10 + 0.30 * (s.y - nose_y + 0.02).clamp(min=0)
    folds = 0.34 * bump(fx.abs() - fold_x, s.y - nose_y - 0.10, 0.018, 0.11)
    bags = 0.30 * bump(fx.abs() - p["eye_spacing"], s.y - eye - 0.075, 0.075, 0.020)
    return forehead + folds + bags


def draw_head(s: Scene) -> Tensor:
    """Ears and head; returns the head's coverage."""
    p = s.person
    shade = face_shade(s)
    ear_x, ear_y = s.x.abs() - 0.97 * p["head_width"], s.y - p["eye_height"] - 0.07
    s.paint(
        "skin",
        s.inside(ellipse(ear_x, ear_y, 0.060, 0.105)),
        p["skin"] * 0.95,
        shade.clamp(min=0.6),
    )
    s.paint(
        "skin",
        s.inside(ellipse(ear_x, ear_y, 0.025, 0.060), 2),
        p["skin"] * 0.75,
        shade.clamp(min=0.6),
    )
    hoop = s.inside((ellipse(ear_x - 0.005, ear_y - 0.155, 0.042, 0.050)).abs() - 0.011)
    s.paint("extra", hoop * p["earrings"], p["metal"], 0.95)
    head = s.inside(head_distance(s))
    s.paint("skin", head, p["skin"], shade)
    fx = s.x - 0.10 * p["turn"]
    cheeks = bump(fx.abs() - 0.24, s.y - p["eye_height"] - 0.20, 0.10, 0.08) * head
    rosy = p["skin"] * torch.tensor([1.0, 0.62, 0.58]).view(1, 3, 1, 1).to(p["skin"])
    s.albedo = torch.lerp(s.albedo, rosy.expand_as(s.albedo), cheeks * p["blush"])
    across, down = fx * 92 + 3 * torch.sin(s.y * 51), s.y * 95 + 2 * torch.sin(fx * 67)
    dots = torch.sin(across) * torch.sin(down)
    spread = bump(fx, s.y - p["eye_height"] - 0.16, 0.30, 0.09) * head
    s.albedo = s.albedo * (1 - 0.30 * p["freckles"] * ramp(dots, 0.35, 0.75) * spread)
    tip_y = p["eye_height"] + p["nose_length"] - 0.03
    s.gloss = s.gloss + head * (
        0.16 * bump(fx - 0.01 * p["light"], s.y - tip_y, 0.022, 0.026)
        + 0.10 * bump(fx - 0.12 * p["light"], s.y - p["eye_height"] + 0.25, 0.12, 0.07)
    )
    return head


def draw_eyes(s: Scene) -> None:
    p = s.person
    fx = s.x - 0.10 * p["turn"]
    ex, ey = fx.abs() - p["eye_spacing"], s.y - p["eye_height"]
    width, height = 0.088 * p["eye_size"], 0.044 * p["eye_size"] * p["eye_open"]
    arch = 1 - (ex / width) ** 2
    opening = torch.maximum(-(ey + height * arch), ey - 0.78 * height * arch)
    eye = s.inside(opening)
    lid_shadow = 1 - 0.30 * ramp(ey, 0.0, -0.05)
    s.paint("sclera", eye, p["sclera"], 0.95 * lid_shadow)
    gaze = p["gaze"] * torch.sign(fx)
    radius = p["iris_size"] * p["eye_size"]
    centre = ellipse(ex - gaze, ey + 0.004, radius, radius)
    rim = 0.62 + 0.45 * ramp(centre, 0.0, -0.45 * radius)  # the dark ring around an iris
    s.paint("iris", eye * s.inside(centre), p["iris"], lid_shadow * rim)
    s.paint("pupil", eye * s.inside(centre + (1 - p["pupil"]) * radius), p["iris"] * 0.08)
    glint = bump(
        fx.abs() - p["eye_spacing"] - gaze - 0.018 * torch.sign(fx), ey + 0.020, 0.013, 0.013
    )
    s.gloss = s.gloss + 0.9 * glint * eye
    lashes = s.inside((ey + height * arch).abs() - 0.013) * s.inside(ex.abs() - width)
    s.paint("brow", lashes * 0.85, p["brow"] * 0.35)
    crease = s.inside((ey + 1.45 * height * arch + 0.012).abs() - 0.006)
    s.shade = s.shade * (1 - 0.22 * crease * s.inside(ex.abs() - 0.9 * width) * s.part("skin"))


def draw_brows(s: Scene) -> None:
    p = s.person
    ex = (s.x - 0.10 * p["turn"]).abs() - p["eye_spacing"]
    rise = p["brow_angle"] * ex + 0.022 * (1 - (ex / 0.105) ** 2)
    line = s.y - p["eye_height"] + p["brow_height"] * (0.6 + 0.4 * p["eye_size"]) + rise
    taper = p["brow_weight"] * (1.05 - 3.2 * (ex + 0.02).clamp(min=0))
    brow = torch.maximum(line.abs() - taper, ex.abs() - 0.105)
    s.paint("brow", s.inside(brow, 1.2) * 0.92, p["brow"], 0.95)


def draw_nose(s: Scene) -> None:
    p = s.person
    fx, ny = s.x - 0.12 * p["turn"], s.y - p["eye_height"] - p["nose_length"]
    wing = s.inside(
        (ellipse(fx.abs() - 0.62 * p["nose_width"], ny, 0.38 * p["nose_width"], 0.034)).abs()
        - 0.006,
        1.5,
    )
    s.shade = s.shade * (1 - 0.26 * wing * ramp(ny, -0.035, 0.02))
    nostril = bump(fx.abs() - 0.45 * p["nose_width"], ny - 0.016, 0.26 * p["nose_width"], 0.014)
    s.shade = s.shade * (1 - 0.55 * nostril)


def mouth_frame(s: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """(fx, my, mx): x from the mouth's middle, y from its line, |x| relative to its half width."""
    p = s.person
    fx = s.x - 0.10 * p["turn"]
    mx = fx.abs() / p["mouth_width"]
    middle = p["eye_height"] + p["nose_length"] + 0.125 + 0.25 * (p["head_height"] - 0.50)
    curve = p["smile"] * 0.042 * (mx.clamp(max=1.3) ** 2 - 0.35)
    return fx, s.y - middle + curve, mx


def draw_mouth(s: Scene) -> None:
    p = s.person
    fx, my, mx = mouth_frame(s)
    width = 1 - mx**2
    open_, lip = p["mouth_open"] * width, p["lip_height"]
    cupid = 1 - 0.22 * torch.exp(-((fx / 0.022) ** 2))
    upper = torch.maximum(-(my + open_ * 0.4 + lip * width * cupid), my + 0.4 * open_)
    lower = torch.maximum(my - open_ - 1.25 * lip * width, -(my - open_))
    cavity = torch.maximum(-(my + 0.4 * open_), my - open_)
    s.paint("lips", s.inside(upper) * s.inside((mx - 1) * 0.1), p["lips"], 0.80)
    s.paint("lips", s.inside(lower) * s.inside((mx - 1) * 0.1), p["lips"], 0.98)
    inside = s.inside(cavity) * ramp(p["mouth_open"] * width, 0.004, 0.016)
    s.paint("lips", inside, p["lips"] * 0.22)
    teeth = inside * s.inside(my - 0.35 * open_)
    s.paint("teeth", teeth, torch.ones_like(p["lips"]) * 0.96, 0.95)
    line = bump(fx, my, p["mouth_width"] * 0.9, 0.010) * (1 - inside)
    s.shade = s.shade * (1 - 0.42 * line)
    s.gloss = s.gloss + 0.16 * bump(fx - 0.02 * p["light"], my - open_ - 0.6 * lip, 0.05, 0.010)


def draw_beard(s: Scene, head: Tensor) -> None:
    p = s.person
    fx, my, mx = mouth_frame(s)
    edge = -0.02 - 1.1 * (s.x.abs() - 0.16).clamp(min=0)  # rises towards the ears
    chin = s.inside(head_distance(s) - 0.05 * p["beard"], 1.5)
    region = (
        s.inside((edge - my) * 1.0, 2.0)
        * chin
        * s.inside(-ellipse(fx, my - 0.005, 0.15, 0.055), 1.5)
    )
    rough = 0.86 + 0.10 * torch.sin(s.x * 61 + 9 * torch.sin(s.y * 23)) * torch.sin(s.y * 57)
    s.paint(
        "hair", region * 0.94 * p["beard"], p["beard_colour"], rough * (0.55 + 0.45 * face_shade(s))
    )
    lip_top = my + 0.052 + 0.045 * mx**2
    whiskers = torch.maximum(lip_top.abs() - 0.026 * (1.15 - mx.clamp(max=1.1)), (mx - 1.1) * 0.1)
    s.paint(
        "hair",
        s.inside(whiskers, 1.4) * 0.94 * torch.maximum(p["moustache"], p["beard"]),
        p["beard_colour"],
        rough,
    )


def draw_front_hair(s: Scene) -> None:
    p = s.person
    volume, curl = p["hair_volume"], p["curl"]
    ripple = curl * 0.028 * torch.sin(s.x * 24 + 3 * torch.sin(s.y * 14))
    outer = ellipse(
        s.x,
        s.y + 0.04,
        p["head_width"] + 0.55 * volume + ripple,
        p["head_height"] + volume + ripple,
        2.25,
    )
    hairline = -0.36 + 0.16 * p["fringe"] + 0.13 * p["parting"] * s.x / 0.4 + ripple
    swept = hairline + 0.55 * (s.x - 0.16 * p["parting"]) ** 2 * (0.4 + p["fringe"])
    face_width = p["head_width"] * (0.96 - 0.13 * p["hair_length"])
    depth = 0.30 - swept  # passes through zero far out, where an ellipse would be 0 / 0
    depth = torch.where(depth.abs() < 1e-3, torch.full_like(depth, 1e-3), depth)
    opening = ellipse(s.x, s.y - 0.30, face_width, depth, 2.6)
    side_end = 0.02 + 0.55 * p["hair_length"]
    hair = torch.maximum(torch.maximum(outer, -opening), s.y - side_end)
    cover = s.inside(hair, 1.2) * (1 - p["bald"])
    under = s.inside(hair - 0.05, 3.5) * (1 - p["bald"]) * s.part("skin")
    s.shade = s.shade * (1 - 0.22 * under)  # the shadow hair casts on the face
    s.paint("hair", cover, p["hair"], hair_texture(s))


def draw_hat(s: Scene) -> None:
    p = s.person
    brim_y = -0.33 + 0.10 * s.x**2
    dome = ellipse(s.x, s.y + 0.06, p["head_width"] + 0.055, p["head_height"] + 0.13, 2.3)
    hat = s.inside(torch.maximum(dome, s.y - brim_y))
    lit = (
        0.80
        + 0.25 * bump(s.x - 0.3 * p["light"], s.y + 0.55, 0.35, 0.3)
        + 0.06 * torch.sin(s.x * 60)
    )
    s.paint("hat", hat * p["hat"], p["hat_colour"], lit)
    band = s.inside(
        torch.maximum((s.y - brim_y + 0.02).abs() - 0.055, s.x.abs() - p["head_width"] - 0.075), 1.0
    )
    s.paint("hat", band * p["hat"], p["hat_colour"] * 0.68, lit)


def draw_glasses(s: Scene) -> None:
    p = s.person
    fx, ey = s.x - 0.10 * p["turn"], s.y - p["eye_height"] - 0.008
    ex = fx.abs() - p["eye_spacing"] - 0.006
    lens = ellipse(ex, ey, 0.128, 0.098, p["glasses_shape"])
    bridge = torch.maximum((ey + 0.02).abs() - 0.012, fx.abs() - p["eye_spacing"] + 0.11)
    arms = torch.maximum(
        torch.maximum((ey + 0.02).abs() - 0.012, 0.11 - ex), s.x.abs() - p["head_width"]
    )
    frame = torch.minimum(torch.minimum(lens.abs() - 0.015, bridge), arms)
    s.gloss = s.gloss + 0.10 * p["glasses"] * s.inside(lens) * ramp(
        ex * 0.7 - ey, 0.0, 0.03
    ) * ramp(ex * 0.7 - ey, 0.09, 0.05)
    s.paint("glasses", s.inside(frame) * p["glasses"], p["glasses_colour"])


def draw(person: dict[str, Tensor], size: int, extras=()) -> Scene:
    """Draw a portrait back to front.

    Args:
        person: as `portrait` gives them, or as a style changed them.
        size: a side of the image.
        extras: functions (scene, where), called at the places "behind" (after the backdrop),
            "face" (after the face) and "front" (last).
    """
    s = stage(person, size)
    for extra in extras:
        extra(s, "behind")
    draw_back_hair(s)
    draw_body(s)
    head = draw_head(s)
    draw_nose(s)
    draw_eyes(s)
    draw_mouth(s)
    for extra in extras:
        extra(s, "face")
    draw_beard(s, head)
    draw_brows(s)
    draw_front_hair(s)
    draw_hat(s)
    draw_glasses(s)
    for extra in extras:
        extra(s, "front")
    return s


def photo(s: Scene) -> Tensor:
    """The plain finish: albedo × shading + highlights, [N, 3, H, W] in [0, 1]."""
    tone = torch.tensor([0.06, 0.0, -0.09]).view(1, 3, 1, 1).to(s.albedo)
    warm = torch.tensor([1.0, 0.985, 0.96]).view(1, 3, 1, 1).to(s.albedo)
    warm = warm + s.person["warmth"] * tone
    return (s.albedo * s.shade * warm + s.gloss * (1 - s.albedo) * 0.9).clamp(0, 1)


def luminance(rgb: Tensor) -> Tensor:
    """[N, 3, H, W] → [N, 1, H, W] (Rec. 601)."""
    return (rgb * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1).to(rgb)).sum(1, keepdim=True)


def blur(image: Tensor, radius: float) -> Tensor:
    """Gaussian blur; `radius` is the standard deviation in pixels."""
    reach = max(1, math.ceil(2 * radius))
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.softmax(-offsets.square() / (2 * radius * radius), 0)
    c = image.shape[1]
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)
