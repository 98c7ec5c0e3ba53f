"""Experiments of a physiologist on a model: gratings, receptive fields, gain, spectra, and the stimuli that excite a neuron
most.
"""
