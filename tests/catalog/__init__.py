"""One row per module: test_catalog.py checks the common properties of each. A new module needs a row."""

from catalog.of_encoders import ENCODERS
from catalog.of_fusion import FUSION
from catalog.of_heads import HEADS
from catalog.of_layers import LAYERS
from catalog.of_objectives import OBJECTIVES
from catalog.row import B, Row

ROWS = [*LAYERS, *ENCODERS, *FUSION, *HEADS, *OBJECTIVES]

__all__ = ["B", "ROWS", "Row"]
