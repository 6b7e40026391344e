"""Public cohorts: how to get each, and fetchers in nilearn's manner where a plain download without an account exists."""

from slimbrain.datasets.abide import fetch_abide_parcels
from slimbrain.datasets.catalogue import CATALOGUE, PublicDataset
from slimbrain.datasets.development import fetch_development_fmri
from slimbrain.datasets.fetched import FetchedDataset

__all__ = ["CATALOGUE", "FetchedDataset", "PublicDataset", "fetch_abide_parcels", "fetch_development_fmri"]
