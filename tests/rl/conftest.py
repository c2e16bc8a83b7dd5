"""The tiny fit and prompts of the steering tests."""

from tests.steering.conftest import fitted, loaded, rendered

__all__ = ["fitted", "loaded", "rendered"]
