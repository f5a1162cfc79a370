"""What two or more stages must agree on: records, prompts, the PRM's text, the policy client, the judge, the PRM."""

__version__ = "0.1.0"
