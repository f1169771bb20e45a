"""One row per module: what test_catalog.py holds to every property. Add a module, add a row."""

from catalog.of_encoders import ENCODERS
from catalog.of_fusion import FUSION
from catalog.of_heads import HEADS
from catalog.of_layers import LAYERS
from catalog.of_objectives import OBJECTIVES
from catalog.row import B, Row

ROWS = [*LAYERS, *ENCODERS, *FUSION, *HEADS, *OBJECTIVES]

__all__ = ["B", "ROWS", "Row"]
