"""Draws the samples that the web page offers: `python mini_model/page_samples.py`.

Both are puppets, so they are the project's own; the person of the picture is another than the one who
dances. They are small enough to lie beside the page.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mini_model.puppets import Puppet, Scene, motion_of, reference, render
from posegen.video import save_video

FOLDER = Path(__file__).parent.parent / "serving" / "page" / "samples"
SIZE, RATE, SECONDS = (240, 360), 12.0, 7
PERSON, DANCER, DANCE = 23, 26, 1  # seeds


def main() -> None:
    """Writes person.jpg and dance.mp4."""
    FOLDER.mkdir(exist_ok=True)
    person = reference(Puppet.sample(PERSON), Scene.sample(PERSON), DANCE, SIZE)
    Image.fromarray(person).save(FOLDER / "person.jpg", quality=90)
    poses = motion_of("dance", DANCE, round(SECONDS * RATE), RATE, SIZE, framing=1)
    clip = render(Puppet.sample(DANCER), Scene.sample(DANCER), poses, SIZE, RATE, "dances")
    save_video(clip.frames, FOLDER / "dance.mp4", RATE)


if __name__ == "__main__":
    main()
