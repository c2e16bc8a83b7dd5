"""What a completion does, in named categories: patterns and functions from a file, or a judge."""

from probekit.behaviours.definitions import Behaviours, Category
from probekit.behaviours.judge import Judge
from probekit.behaviours.quality import Quality, measure_quality
from probekit.behaviours.wanted import Wanted

__all__ = ["Behaviours", "Category", "Judge", "Quality", "Wanted", "measure_quality"]
