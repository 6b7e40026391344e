"""What is this file, and is this machine fit for the work."""

from slimbrain.doctor.checkup import Checkup, examine
from slimbrain.doctor.look import inspect_path

__all__ = ["Checkup", "examine", "inspect_path"]
