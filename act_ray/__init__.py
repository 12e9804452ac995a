"""act_ray: Adversarial Consistency Training on Ray, and a search that stops runs which are going to collapse."""

__version__ = "0.1.0"
