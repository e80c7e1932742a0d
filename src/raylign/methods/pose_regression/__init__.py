"""The two regressors of pose that Gao et al. (IEEE TMI 2024) compare with, trained as that paper says.

DeepIM (Li et al., "DeepIM: deep iterative matching for 6D pose estimation", ECCV 2018) and DMW (Gu et al., "Extended capture
range of rigid 2D/3D registration by estimating Riemannian pose gradients", MLMI 2020). A network sees an exposure and the shadow
of the model under a pose, and says which motion leads to the right one. Registration makes it, casts the shadow anew, and so on.
"""
