"""End-to-end recipes: data made by conditioning a model, and the ordinary commands in order."""

from probekit.studies.elicitation import Elicited, elicit
from probekit.studies.recipe import Recipe, Variant

__all__ = ["Elicited", "Recipe", "Variant", "elicit"]
