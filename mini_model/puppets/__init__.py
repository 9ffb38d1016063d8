"""Drawn people with exactly known pose, identity, silhouette and background: training data and ground truth."""

from mini_model.puppets.calm import calm_start
from mini_model.puppets.clips import PuppetClip, reference, render
from mini_model.puppets.leaving import leave
from mini_model.puppets.motions import ACTIONS, KINDS, kind_of, motion, motion_of
from mini_model.puppets.people import Puppet
from mini_model.puppets.retarget import retarget
from mini_model.puppets.scenes import Scene

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
