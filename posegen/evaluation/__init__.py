"""How well a generated video holds: identity, background, seams, pose, fidelity, as pure functions and one report.

`measure.py` puts the figures of a video together, `report.py` shows them; what they are made of stands in a file each.
Colours are compared in CIE Lab (D65), whose distances are near to what eyes see (CIE 1976: 2.3 is just noticed).
"""
