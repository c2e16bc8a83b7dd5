"""End-to-end studies: data made by conditioning a model, and ordinary commands in stages."""

from probekit.studies.elicitation import Elicited, elicit
from probekit.studies.recipe import Recipe, Variant
from probekit.studies.stages import Setting, Stage
from probekit.studies.study import STUDIES, Study, find_study, run_study, write_study_report

__all__ = [
    "STUDIES",
    "Elicited",
    "Recipe",
    "Setting",
    "Stage",
    "Study",
    "Variant",
    "elicit",
    "find_study",
    "run_study",
    "write_study_report",
]
