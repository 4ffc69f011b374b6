"""Many runs, here or on a Ray cluster: `run_all` carries them out and tells of every `Event`. Needs no torch itself."""

from foreprune.runner.drive import Event, run_all
from foreprune.runner.remaining import RunProgress, seconds_left

__all__ = ["Event", "RunProgress", "run_all", "seconds_left"]
