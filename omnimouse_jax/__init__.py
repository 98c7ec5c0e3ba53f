"""Scaling studies of multi-session models of mouse visual cortex.

Data flows one way, and a test holds it so:
recordings -> tokens -> model -> training -> evaluate -> scaling.
"""

__version__ = "0.1.0"
