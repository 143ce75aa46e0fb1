"""From probabilities and thresholds to who stays: what all classes together know comes in.

The cleaner judges an image inside its class. Where images are at home (`homes`), which class is
left for whom (`elimination`) and where nothing can be told (`undecided`) show only from outside;
that a class has one person (`strangers`), and who is a guest in it (`guests`), from who stays. All
of it is expressed in probabilities and thresholds, so that `kept` stays what ADC makes it:
clean_probability > threshold.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from facetrain.clean.elimination import left_over
from facetrain.clean.guests import guests
from facetrain.clean.labelled_set import LabelledSet
from facetrain.clean.strangers import strangers
from facetrain.clean.undecided import undecided

_LEAST_CHANCE = 1e-3


class Decision(NamedTuple):
    """Who stays, and why not."""

    probability: Tensor  # (num_images,)
    threshold: Tensor  # (C,)
    undecided: Tensor  # (C,) bool: nothing tells whose class it is


def decide(
    labelled: LabelledSet, probability: Tensor, threshold: Tensor, confirmed: Tensor
) -> Decision:
    """Apply the five rules to the cleaner's answer.

    Args:
        labelled: C classes.
        probability: (num_images,) as the cleaner has it.
        threshold: (C,).
        confirmed: (num_images,) bool, images that a person has confirmed; they stay as they are.
    """
    graphs = labelled.classes.to(probability.device)
    limit = torch.full_like(probability, torch.nan)
    limit[graphs.row] = threshold[graphs.label]
    # Who is at home in another class is no member of this one, however well the class holds
    # together: below the threshold, in the order that the cleaner gives.
    away = labelled.homes.away & ~confirmed
    # Nor are the few whose home is elsewhere, though together they stayed; nor two people who are
    # both strangers here.
    kept = (probability > limit) & ~away
    away |= guests(labelled, kept, probability * kept) & ~confirmed
    away |= strangers(labelled, (probability > limit) & ~away) & ~confirmed
    # Whom only one class is left for owns it, and nobody else does.
    owner = left_over(labelled, (probability > limit) & ~away) & ~confirmed
    owned = graphs.sum(owner[graphs.row].long()) > 0  # (C,)
    away[graphs.row] |= owned[graphs.label]
    away &= ~(owner | confirmed)
    probability = torch.where(away, probability * limit, probability)
    raised = limit + (1 - limit) * probability.clamp(min=_LEAST_CHANCE)
    probability = torch.where(owner, raised, probability)
    kept = probability > limit
    unknown = undecided(labelled, probability, kept)
    # A class that nothing decides keeps who claims it; of its others, who was dropped falls to its
    # threshold, 0.
    claimed = graphs.sum(unknown.claimants[graphs.row].long()) > 0  # (C,)
    others = torch.zeros_like(kept)
    others[graphs.row[claimed[graphs.label]]] = True
    probability = probability.where(kept | ~others, 0.0)
    probability[unknown.claimants & ~confirmed] = 0.5
    return Decision(probability, threshold.where(~claimed, 0.0), unknown.classes)
