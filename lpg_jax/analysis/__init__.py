"""What a method does to the gradient of each class; duality with logit perturbation; the generalisation bound.

    methods = analysis.standard_methods(class_counts, ["lpg", "clip 1", "noise 0.003", "SAM 0.05"])
    results = analysis.probe(apply, params, batches, methods)       # {method: Result}, [batches, C] per measure
    analysis.draw(results, class_counts, "figure1.png")             # Figure 1 of the paper

| file | what it does |
|---|---|
| methods, table | where a method touches the gradient; the methods of Figure 1 |
| probe, measures | class-mean logit and parameter gradients with and without it |
| figure | Figure 1, and the numbers behind it |
| duality | Eq. 22, 23: logit shifts as gradient perturbations, and back |
| bound | Eq. 24, term by term |
"""

from lpg_jax.analysis.bound import BoundTerms, bound_terms, gaussian_kl, gibbs_risk, surrogate_loss
from lpg_jax.analysis.duality import Inverse, exact, first_order, lpl_as_lpg, nearest_shift, shared_shift
from lpg_jax.analysis.figure import draw, write_csv
from lpg_jax.analysis.measures import Measures, Spread, over_batches
from lpg_jax.analysis.methods import Method, at_gradient, at_logits, at_point, by_loss, sam_point
from lpg_jax.analysis.probe import Batch, Result, probe
from lpg_jax.analysis.table import FAMILIES, NAMES, standard_methods

__all__ = [
    "FAMILIES",
    "NAMES",
    "Batch",
    "BoundTerms",
    "Inverse",
    "Measures",
    "Method",
    "Result",
    "Spread",
    "at_gradient",
    "at_logits",
    "at_point",
    "bound_terms",
    "by_loss",
    "draw",
    "exact",
    "first_order",
    "gaussian_kl",
    "gibbs_risk",
    "lpl_as_lpg",
    "nearest_shift",
    "over_batches",
    "probe",
    "sam_point",
    "shared_shift",
    "standard_methods",
    "surrogate_loss",
    "write_csv",
]
