"""Whom a set has in common with an evaluation set."""

from typing import Any

import numpy as np
import torch
from helpers.posterior import SIZE, Case, doubled

from facetrain.clean.evaluation_faces import in_evaluation_set
from facetrain.core.rng import numpy_generator


def test_people_of_an_evaluation_set_are_flagged() -> None:
    """Two photographs each of 0, 1, 5 and of ten strangers; 0 also stands under the name 70."""
    embedding, label, person = doubled()
    case = Case(embedding, label, person)
    person_of = case.person()
    generator = numpy_generator(9, "evaluation")
    centre = np.stack([embedding[person == one].mean(0) for one in (0, 5, 30)])
    inside = np.repeat(centre, 2, 0) + 0.3 * generator.normal(size=(6, SIZE))
    strangers = np.repeat(generator.normal(size=(10, SIZE)), 2, 0)
    strangers += 0.3 * generator.normal(size=(20, SIZE))

    def flagged(evaluation: Any, merged: torch.Tensor = person_of) -> list[int]:
        found = in_evaluation_set(case.found, case.members, merged, 3 * evaluation)
        return list(case.labelled.classes.class_id[found].tolist())

    assert flagged(np.concatenate([strangers, inside])) == [0, 5, 30, 70]
    assert flagged(strangers) == []
    itself = torch.arange(case.labelled.classes.num_classes)
    assert 5 in flagged(inside, itself)
