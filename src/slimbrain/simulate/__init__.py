"""Synthetic cohorts with known truth: smooth, autocorrelated, network-structured BOLD, written as a BIDS derivative.

The series of voxel v at frame t of one session is

    y(v, t) = m(v) * (1 + [ sum_k W_k(v) x_k(t) + g G(t) + s n(v, t) + q e(v, t) + sum_j A_j sd(v) E_j(v) h(t - onset_j) ] / 100
                        + spike(v, t))

in percent of the voxel's mean m(v), rounded to whole numbers as a scanner does, and 0 outside the brain mask.

W_k(v)     network k's map: a sum of Gaussian blobs at fixed MNI places on both sides; each person has their own gain and
           shift of every blob (identity)
x_k(t)     network k's time course, unit variance: row k of L w, w white, L L' = R the person's coupling matrix (identity),
           then filtered with power f^2 / (f^2 + 0.01^2) / (1 + (f / f_k)^4), f_k the person's cutoff for that network
G(t)       one course for the whole brain, as breathing leaves it
n(v, t)    local noise: white noise smoothed to the site's FWHM, AR(1) in time with exp(-TR / 1.2 s), unit variance
e(v, t)    thermal noise: white, unit variance; s and q follow from `snr` and grow with the site
E_j, h     an event's map (Gaussian blobs at known MNI places, peak 1) and its response: a two-second burst convolved with
           a difference of two gammas, peak 1, positive for about 10 s; sd(v) is the voxel's standard deviation without it
spike      a jump of the whole image for one or two frames, tilted across the head and strongest at the brain's edge,
           together with a step of the six motion parameters (framewise displacement of 0.6 mm or more)

Planted for the two groups, in one pair of networks: the coupling R_ab = 0.35 -+ 0.35 and the cutoff f_a = f_b =
0.07 Hz * 2^(-+1.1), minus for group A, plus for B. The first is second-order structure between distant places; the second
is how fast each place fluctuates, which survives voxelwise z-scoring and shows in windows of a few seconds. The continuous
score does the same in another pair, by tanh(score) in place of -+1. Sites differ in smoothness, noise, mean intensity and
its bias across the head; groups are balanced over sites. Places, mean image and average coupling belong to the population
and not to the seed, so cohorts of different seeds are different people of one kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slimbrain.simulate.cohort import MOST_FRAMES, CohortSpec, Event, Place, SessionTruth, SubjectTruth, Truth, draw_truth, require_frames

if TYPE_CHECKING:
    from slimbrain.simulate.write import load_truth, simulate_cohort
else:

    def __getattr__(name: str) -> Any:
        """Import what writes and reads files on first use: `slimbrain simulate` refuses numbers that cannot work before scipy is loaded."""
        if name not in ("load_truth", "simulate_cohort"):
            raise AttributeError(f"module 'slimbrain.simulate' has no attribute {name!r}")
        from slimbrain.simulate import write

        return getattr(write, name)


__all__ = [
    "MOST_FRAMES",
    "CohortSpec",
    "Event",
    "Place",
    "SessionTruth",
    "SubjectTruth",
    "Truth",
    "draw_truth",
    "load_truth",
    "require_frames",
    "simulate_cohort",
]
