"""Renderers behind one face, a file each. The worker process loads them by path; they import nothing of raylign but one.

``Side.load()`` imports the package, ``Side.version()`` and ``Side.whats`` say what it is and can do. ``Side(scene)`` takes the
volume; ``ladders()`` gives its settings, cheap to fine, a list for each way that it can compute.

A side that PyTorch differentiates has ``volume``, a tensor, ``prepare(case, setting)`` and ``render(motion)``, and
``derivatives`` does the rest. One that computes images alone has ``prepare(case, setting)`` and ``call()``, which gives
``image``, a function from the index in the batch to an array, and may give ``seconds`` and ``peak_mb``.
"""
