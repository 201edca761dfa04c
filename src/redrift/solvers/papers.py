"""BibTeX of the papers whose methods the plans use."""

from __future__ import annotations

from collections.abc import Iterable

from redrift._core.errors import choose

_PAPERS = {
    "deis": ("zhang2023deis", "Zhang, Qinsheng and Chen, Yongxin",
             "Fast Sampling of Diffusion Models with Exponential Integrator", "2204.13902"),
    "gddim": ("zhang2023gddim", "Zhang, Qinsheng and Tao, Molei and Chen, Yongxin",
              "gDDIM: Generalized denoising diffusion implicit models", "2206.05564"),
    "res": ("zhang2023res", "Zhang, Qinsheng and Song, Jiaming and Chen, Yongxin",
            "Improved Order Analysis and Design of Exponential Integrator for Diffusion Models "
            "Sampling", "2308.02157"),
    "ddim": ("song2021ddim", "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
             "Denoising Diffusion Implicit Models", "2010.02502"),
    "ddpm": ("ho2020ddpm", "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
             "Denoising Diffusion Probabilistic Models", "2006.11239"),
    "dpmpp": ("lu2022dpmpp", "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, "
              "Chongxuan and Zhu, Jun", "DPM-Solver++: Fast Solver for Guided Sampling of "
              "Diffusion Probabilistic Models", "2211.01095"),
    "unipc": ("zhao2023unipc", "Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and "
              "Lu, Jiwen", "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of "
              "Diffusion Models", "2302.04867"),
    "edm": ("karras2022edm", "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
            "Elucidating the Design Space of Diffusion-Based Generative Models", "2206.00364"),
    "ipndm": ("liu2022pndm", "Liu, Luping and Ren, Yi and Lin, Zhijie and Zhao, Zhou",
              "Pseudo Numerical Methods for Diffusion Models on Manifolds", "2202.09778"),
}  # fmt: skip


def bibtex(keys: Iterable[str]) -> str:
    """Return the BibTeX entries of the papers named by `keys`."""
    entries = []
    for key in keys:
        name, authors, title, number = _PAPERS[choose("paper", key, _PAPERS)]
        entries.append(
            f"@article{{{name},\n  author = {{{authors}}},\n  title = {{{title}}},\n"
            f"  journal = {{arXiv preprint arXiv:{number}}},\n  year = {{20{number[:2]}}}\n}}"
        )
    return "\n\n".join(entries)
