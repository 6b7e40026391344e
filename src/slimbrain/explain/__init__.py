"""What moved a model: maps of decisions, of surprise and of the channels that stage 1 reads."""

from slimbrain.explain.files import MapEntry, holds_maps, list_maps, map_entry
from slimbrain.explain.folder import Output
from slimbrain.explain.gradients import Attribution, gradient_input, integrated_gradients
from slimbrain.explain.heads import Head, LinearHead, tuned_head
from slimbrain.explain.methods import TITLES, MapRequest
from slimbrain.explain.occlusion import occlude_units
from slimbrain.explain.run import Summary, explain_store
from slimbrain.explain.surprise import token_surprise

__all__ = [
    "TITLES",
    "Attribution",
    "Head",
    "LinearHead",
    "MapEntry",
    "MapRequest",
    "Output",
    "Summary",
    "explain_store",
    "gradient_input",
    "holds_maps",
    "integrated_gradients",
    "list_maps",
    "map_entry",
    "occlude_units",
    "token_surprise",
    "tuned_head",
]
