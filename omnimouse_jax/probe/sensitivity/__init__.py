"""How far predicted responses can be moved by small changes of the screen: a profile of a model, not a score."""
