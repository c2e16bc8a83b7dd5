"""probekit: is a direction in the residual stream real, causal, and safe to optimise?

    import probekit as pk

gives what a script needs; each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from probekit.lazy import lazy

if TYPE_CHECKING:
    from probekit.activations.cache import cache_activations as cache_activations
    from probekit.activations.store import ActivationStore as ActivationStore
    from probekit.analyses.compare import compare_fits as compare_fits
    from probekit.analyses.stacking import stack_cells as stack_cells
    from probekit.analyses.tokens import token_curve as token_curve
    from probekit.data.open import read_rows as read_rows
    from probekit.models.load import load_model as load_model
    from probekit.probes.evaluation import evaluate as evaluate
    from probekit.probes.probe import Probe as Probe
    from probekit.probes.sweep import fit_sweep as fit_sweep
    from probekit.results.runs import open_run as open_run
    from probekit.rl.dpo import train_dpo as train_dpo
    from probekit.rl.embedded import train_policy as train_policy
    from probekit.steering.intervention import steered as steered
    from probekit.steering.sweep import steer_sweep as steer_sweep
    from probekit.steering.vector import SteeringVector as SteeringVector
else:
    __getattr__, __all__ = lazy(
        __name__,
        **{
            "activations.cache": "cache_activations",
            "activations.store": "ActivationStore",
            "analyses.compare": "compare_fits",
            "analyses.stacking": "stack_cells",
            "analyses.tokens": "token_curve",
            "data.open": "read_rows",
            "models.load": "load_model",
            "probes.evaluation": "evaluate",
            "probes.probe": "Probe",
            "probes.sweep": "fit_sweep",
            "results.runs": "open_run",
            "rl.dpo": "train_dpo",
            "rl.embedded": "train_policy",
            "steering.intervention": "steered",
            "steering.sweep": "steer_sweep",
            "steering.vector": "SteeringVector",
        },
    )

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"
