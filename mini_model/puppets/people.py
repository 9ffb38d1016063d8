"""Drawn people: who somebody is, apart from pose and place.

A puppet is a handful of measures (shares of standing height) and RGB colours, all from one seed; clothes
and hair colours are few, have plain names and lie far apart, so that a caption and a loss can both tell them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (204, 48, 46),
    "orange": (232, 128, 40),
    "yellow": (236, 200, 62),
    "green": (58, 148, 74),
    "turquoise": (52, 170, 172),
    "blue": (48, 92, 190),
    "purple": (124, 70, 168),
    "pink": (232, 130, 170),
    "brown": (122, 80, 52),
    "grey": (128, 130, 136),
    "white": (236, 236, 232),
    "black": (40, 40, 46),
}
HAIR: dict[str, Colour] = {
    "black": (34, 28, 28),
    "brown": (92, 58, 36),
    "blond": (222, 184, 106),
    "red": (170, 74, 36),
    "grey": (170, 170, 172),
}
SKIN: list[Colour] = [
    (246, 214, 190),
    (232, 190, 156),
    (210, 158, 120),
    (172, 118, 82),
    (128, 82, 56),
    (94, 60, 42),
]
PATTERNS = ("plain", "striped", "pinstriped", "checked", "dotted", "two-coloured")
LEGWEAR = ("trousers", "shorts", "skirt", "dress")
FROM_SKIN = 80.0  # how far, in RGB, a piece of clothing is from the skin beside it
HAIR_STYLES = ("short", "long", "curly", "tied", "no")


@dataclass(frozen=True)
class Puppet:
    """A person to draw. Widths are radii as shares of standing height; colours are RGB 0..255."""

    subject: str  # woman, girl, man, boy or person
    width: float  # of limbs and trunk, 1 is the mean
    skin: Colour
    hair: Colour
    hair_name: str
    hair_style: str
    fringe: float  # how far the hair comes down the forehead, 0..1
    beard: bool
    glasses: bool
    hat: Colour | None
    shirt: Colour
    shirt_name: str
    shirt_second: Colour
    pattern: str
    sleeves: float  # how far they reach: 0 no sleeves, 1 to the elbow, 2 to the wrist
    legwear: str
    legs: Colour
    legs_name: str
    shoes: Colour
    eyes: Colour

    @classmethod
    def sample(cls, seed: int) -> Puppet:
        """The puppet of that seed, always the same."""
        random = np.random.default_rng([seed, 101])
        subject = str(
            random.choice(["woman", "girl", "man", "boy", "person"], p=[0.3, 0.12, 0.3, 0.12, 0.16])
        )
        female = subject in ("woman", "girl") or (subject == "person" and random.uniform() < 0.5)
        skin = _varied(random, SKIN[random.integers(len(SKIN))], 5)
        shirt_name, second_name, legs_name, shoes_name = _clothes_colours(random, skin)
        legwear = _legwear(random, female)
        if legwear == "dress":
            legs_name = shirt_name
        hair_name = str(random.choice(list(HAIR), p=[0.3, 0.3, 0.2, 0.12, 0.08]))
        return cls(
            subject=subject,
            width=float(np.clip(random.normal(0.96 if female else 1.06, 0.12), 0.78, 1.4)),
            skin=skin,
            hair=_varied(random, HAIR[hair_name], 8),
            hair_name=hair_name,
            hair_style=_hair_style(random, female, subject),
            fringe=float(random.uniform(0, 1)),
            beard=not female and subject != "boy" and bool(random.uniform() < 0.25),
            glasses=bool(random.uniform() < 0.15),
            hat=COLOURS[str(random.choice(list(COLOURS)))] if random.uniform() < 0.14 else None,
            shirt=_varied(random, COLOURS[shirt_name], 8),
            shirt_name=shirt_name,
            shirt_second=_varied(random, COLOURS[second_name], 8),
            pattern=str(random.choice(PATTERNS, p=[0.35, 0.17, 0.1, 0.13, 0.1, 0.15])),
            sleeves=float(random.choice([0.0, 0.55, 0.85, 2.0], p=[0.12, 0.38, 0.1, 0.4])),
            legwear=legwear,
            legs=_varied(random, COLOURS[legs_name], 8),
            legs_name=legs_name,
            shoes=_varied(random, COLOURS[shoes_name], 8),
            eyes=[(70, 48, 34), (52, 92, 140), (66, 110, 70)][random.integers(3)],
        )

    @property
    def description(self) -> str:
        """A noun phrase with exactly one subject word, e.g. "a woman with short brown hair in a striped red shirt and
        blue trousers"."""
        hair = "no hair" if self.hair_style == "no" else f"{self.hair_style} {self.hair_name} hair"
        shirt = self.shirt_name if self.pattern == "plain" else f"{self.pattern} {self.shirt_name}"
        clothes = _with_article(f"{shirt} dress")
        if self.legwear != "dress":
            legs = f"{self.legs_name} {self.legwear}"
            legs = _with_article(legs) if self.legwear == "skirt" else legs
            clothes = f"{_with_article(f'{shirt} shirt')} and {legs}"
        return f"a {self.subject} with {hair} in {clothes}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _clothes_colours(random: np.random.Generator, skin: Colour) -> list[str]:
    """Names of the colours of shirt, its second colour, legs and shoes: told from the skin, and from each other."""
    far = [name for name, colour in COLOURS.items() if np.linalg.norm(np.subtract(colour, skin)) > FROM_SKIN]
    shirt, second, legs = random.choice(far, 3, replace=False)
    if random.uniform() < 0.5:
        second = "white" if shirt != "white" else second
    shoes = random.choice(["white", "black", "brown", "grey", "red", "blue"])
    return [str(name) for name in (shirt, second, legs, shoes)]


def _legwear(random: np.random.Generator, female: bool) -> str:
    return str(random.choice(LEGWEAR, p=[0.45, 0.15, 0.2, 0.2] if female else [0.75, 0.25, 0, 0]))


def _hair_style(random: np.random.Generator, female: bool, subject: str) -> str:
    if female:
        return str(random.choice(HAIR_STYLES, p=[0.2, 0.45, 0.13, 0.22, 0]))
    return str(
        random.choice(
            HAIR_STYLES, p=[0.68, 0.08, 0.14, 0, 0.1] if subject != "boy" else [0.8, 0.05, 0.15, 0, 0]
        )
    )


def _varied(random: np.random.Generator, colour: Colour, spread: float) -> Colour:
    red, green, blue = np.clip(np.array(colour) + random.normal(0, spread, 3), 8, 247).astype(int).tolist()
    return red, green, blue
