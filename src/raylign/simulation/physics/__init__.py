"""From millimetres of matter to counts: spectra, materials, scatter, detector, and what an exposure is made with."""
