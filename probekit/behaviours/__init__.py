"""What a completion does, in named categories: patterns and functions from a file, or a judge."""

from probekit.behaviours.definitions import Behaviours, Category, Wanted
from probekit.behaviours.judge import Judge
from probekit.behaviours.quality import Quality, measure_quality

__all__ = ["Behaviours", "Category", "Judge", "Quality", "Wanted", "measure_quality"]
