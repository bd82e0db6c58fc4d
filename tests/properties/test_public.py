"""Every public name is in some property, or here with the reason why not."""

import re
from pathlib import Path
from types import ModuleType

import jaxent

# Results: the functions that return them are in some property.
RESULTS = {
    *("Decomposition", "Entanglement", "EntanglementInterval", "ErrorBracket"),
    *("FluidPriority", "GreedyFixedPoint", "GreedyGap", "IGMWitness", "InteractionEstimate"),
    *("LawSolution", "RewardInteraction", "SampledValue"),
    *("FluidPolicy", "FluidPriority", "LawSolution"),
    *("ArmsPriority", "ArmsRelaxation", "ArmsTrajectory"),
    *("IDPolicy", "TwoSetPolicy", "VirtualAdvicePolicy"),
    *(
        "LagrangeIndex",
        "OptimalPolicy",
        "OptimalityGap",
        "PopulationError",
        "PopulationMeanField",
        "PopulationTrajectory",
        "PriorityPolicy",
        "RandomPolicy",
        "RandomizedPolicy",
        "ReplanningPolicy",
    ),
    *(
        "QSolution",
        "SeparableChain",
        "SeparableDecomposition",
        "SignNorm",
        "SignedProduct",
        "ValueFit",
        "Witness",
    ),
}

ELSEWHERE = {
    *("from_gymnax", "from_jaxmarl"),  # play other packages' games: tests/test_environments.py
    *("Acted", "rollout"),  # the same, and in small ones: tests/test_rollouts.py
    "tabulate_env",  # the same: tests/test_tabulate_env.py
    *("product_grid", "sweep"),  # processes, devices and folders: tests/test_sweep.py
}


def test_every_public_name_has_a_property():
    source = "".join(
        p.read_text() for p in Path(__file__).parent.glob("test_*.py") if p != Path(__file__)
    )
    names = {n for n in jaxent.__all__ if not isinstance(getattr(jaxent, n), ModuleType)}
    missing = {n for n in names if not re.search(rf"\bje\.{n}\b", source)}
    assert missing == RESULTS | ELSEWHERE
