"""Toth et al., "3D/2D model-to-image registration by imitation learning for cardiac procedures" (IJCARS 2018).

An agent sees what an X-ray shows about a left ventricle's model and what the model's own projection looks like there, and says
how much nearer each of six small motions in the image plane would bring it to its place. The best is made, until none remains.
"""
