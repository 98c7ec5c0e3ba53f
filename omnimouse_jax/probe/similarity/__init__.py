"""Do a model's and a mouse's neurons tell the same stimuli apart, and do areas do so in the same pattern?"""
