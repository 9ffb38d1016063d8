"""Which joint of a motion-capture skeleton is which: the naming of common programs and recordings.

One word means different joints to different makers: LeftShoulder is the collar bone to Mixamo and the joint of the arm
to CMU, LeftLeg the knee to one and the whole leg to another. So a skeleton is taken as a whole: the first convention
of which every limb is found. Prefixes up to a colon, case, spaces and other marks do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
"""Joints that must be there on both sides, besides the head."""

# What a limb's joint is called without its side, in the order of LIMBS, and of that the foot's front.
CONVENTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Mixamo, MotionBuilder": (("arm", "forearm", "hand", "upleg", "leg", "foot"), ("toebase", "toe")),
    "CMU, Poser, SMPL": (("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), ("toe", "foot", "toes")),
    "Biovision": (("uparm", "lowarm", "hand", "upleg", "lowleg", "foot"), ("toe", "toebase")),
    "Biped": (("upperarm", "forearm", "hand", "thigh", "calf", "foot"), ("toe0", "toe")),
    "Unreal": (("upperarm", "lowerarm", "hand", "thigh", "calf", "foot"), ("ball", "toe")),
    "Unity, VRM": (
        ("upperarm", "lowerarm", "hand", "upperleg", "lowerleg", "foot"),
        ("toes", "toe", "toebase"),
    ),
    "Blender": (("upperarm", "forearm", "hand", "thigh", "shin", "foot"), ("toe",)),
}
HEADS = ("head", "neck", "neck1", "upperneck")
"""The head's joint, or else the highest one below it."""
FINGERS = {
    "thumb": ("thumb",),
    "forefinger": ("index", "forefinger"),
    "middle_finger": ("middle",),
    "ring_finger": ("ring",),
    "pinky_finger": ("pinky", "little"),
}
_SIDES = ("left", "right")
_RIGS = ("mixamorig", "bip001", "bip01", "bip", "character1", "def", "jbip", "bone", "j")


def name_joints(names: Sequence[str], given: Mapping[str, str] | None = None) -> dict[str, int]:
    """Indices by our names: left_shoulder and the like for all LIMBS, head, and left_toe and fingers where found.

    given: our names by names of the file, which come before all conventions. Raises ValueError that lists the joints
    that are not known.
    """
    given = given or {}
    if missing := set(given) - set(names):
        raise ValueError(f"There is no joint {', '.join(sorted(missing))}; the joints are {_listed(names)}.")
    if unknown := set(given.values()) - _wanted() - _also():
        raise ValueError(
            f"{', '.join(sorted(unknown))} are no joints of a body; choose of head, {', '.join(sorted(_wanted()))}."
        )
    plain = {_plain(name): index for index, name in reversed(list(enumerate(names)))}
    told = {ours: names.index(theirs) for theirs, ours in given.items()}
    found: dict[str, int] = {}
    for limbs, toes in CONVENTIONS.values():
        found = _sided(plain, dict(zip(LIMBS, limbs, strict=True))) | told
        if len(found) - len(told.keys() - _wanted()) == 2 * len(LIMBS):
            found |= {name: index for name, index in _toes(plain, toes).items() if name not in found}
            break
    found |= _fingers(plain) | told
    if (
        "head" not in found
        and (head := next((plain[name] for name in HEADS if name in plain), None)) is not None
    ):
        found["head"] = head
    if lacking := sorted((_wanted() | {"head"}) - set(found)):
        raise ValueError(
            f"This skeleton's {', '.join(lacking)} are not known by name; map them, as in "
            f'{{"{names[-1]}": "{lacking[0]}"}}. Its joints are {_listed(names)}.'
        )
    return found


def _wanted() -> set[str]:
    return {f"{side}_{limb}" for side in _SIDES for limb in LIMBS}


def _also() -> set[str]:
    """What may be given besides."""
    fingers = {f"{side}_{finger}{number}" for side in _SIDES for finger in FINGERS for number in range(1, 5)}
    return {"head", "left_toe", "right_toe", *fingers}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name for name in names if not name.endswith(" end"))


def _plain(name: str) -> str:
    """Of "mixamorig:LeftArm", "Bip01 L UpperArm", "upper_arm.L" and the like: leftarm, leftupperarm, leftupperarm."""
    end = " end" if name.endswith(" end") else ""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name.removesuffix(" end").rpartition(":")[2])
    words = [word.lower() for word in words if word != "C"]  # VRM's mark of what is in the middle
    text = "".join(words)
    for rig in _RIGS:
        if text.startswith(rig) and len(text) > len(rig) and words and text != "joint":
            words = _without(words, rig)
            break
    side = next((word for word in words if word in ("left", "right", "l", "r")), "")
    if not side and words and words[0][:1] in "lr" and words[0][1:] in _ONE_LETTER:
        side, words[0] = words[0][0], words[0][1:]
    elif side:
        words.remove(side)
    return {"l": "left", "r": "right"}.get(side, side) + "".join(words) + end


_ONE_LETTER = {word for limbs, toes in CONVENTIONS.values() for word in (*limbs, *toes)}


def _without(words: list[str], rig: str) -> list[str]:
    """The words behind those that spell the rig's name; all of them where they do not end with it."""
    spelt = ""
    for place, word in enumerate(words):
        spelt += word
        if spelt == rig:
            return words[place + 1 :]
    return words


def _sided(plain: Mapping[str, int], wanted: Mapping[str, str]) -> dict[str, int]:
    return {
        f"{side}_{ours}": plain[f"{side}{theirs}"]
        for side in _SIDES
        for ours, theirs in wanted.items()
        if f"{side}{theirs}" in plain
    }


def _toes(plain: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The front of each foot: the end of the toes' joint where there is one."""
    toes = {}
    for side in _SIDES:
        for name in (*(f"{side}{toe} end" for toe in names), *(f"{side}{toe}" for toe in names)):
            if name in plain:
                toes[f"{side}_toe"] = plain[name]
                break
    return toes


def _fingers(plain: Mapping[str, int]) -> dict[str, int]:
    """The four joints of all five fingers, such as left_thumb1 to left_thumb4; of a hand that lacks some, none."""
    found: dict[str, int] = {}
    for side in _SIDES:
        hand: dict[str, int] = {}
        for ours, names in FINGERS.items():
            for name, middle in ((name, middle) for name in names for middle in ("hand", "")):
                joints = [f"{side}{middle}{name}{number}" for number in (1, 2, 3)]
                tip = next((tip for tip in (f"{joints[-1][:-1]}4", f"{joints[-1]} end") if tip in plain), "")
                if tip and all(joint in plain for joint in joints):
                    hand |= {f"{side}_{ours}{n}": plain[at] for n, at in enumerate((*joints, tip), 1)}
                    break
        if len(hand) == 4 * len(FINGERS):
            found |= hand
    return found
