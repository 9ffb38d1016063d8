"""Drawn people with exactly known pose, identity, silhouette and background: training data and ground truth."""

from posegen.puppets.calm import calm_start
from posegen.puppets.clips import PuppetClip, reference, render
from posegen.puppets.leaving import leave
from posegen.puppets.motions import ACTIONS, KINDS, kind_of, motion, motion_of
from posegen.puppets.people import Puppet
from posegen.puppets.retarget import retarget
from posegen.puppets.scenes import Scene

__all__ = [
    "ACTIONS",
    "KINDS",
    "Puppet",
    "PuppetClip",
    "Scene",
    "calm_start",
    "kind_of",
    "leave",
    "motion",
    "motion_of",
    "reference",
    "render",
    "retarget",
]
