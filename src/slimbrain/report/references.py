"""Works that the methods paragraph cites. DOIs stand without a link: the page opens nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass

from slimbrain import __version__


@dataclass(frozen=True)
class Reference:
    """One work.

    Attributes
    ----------
    key : BibTeX key.
    cite : how the paragraph names it: `Power et al., 2012`.
    kind : BibTeX entry type.
    fields : BibTeX fields in order.
    """

    key: str
    cite: str
    kind: str
    fields: tuple[tuple[str, str], ...]

    def bibtex(self) -> str:
        """The entry, one field a line."""
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in self.fields)
        return f"@{self.kind}{{{self.key},\n{lines}}}"


def _reference(key: str, cite: str, kind: str, **fields: str) -> Reference:
    return Reference(key, cite, kind, tuple(fields.items()))


PAPER = _reference(
    "wang2025slimbrain",
    "Wang et al., 2025",
    "article",
    title="{SLIM-Brain}: A Data- and Training-Efficient Foundation Model for {fMRI} Data Analysis",
    author="Wang, Mo and Xia, Junfeng and Ye, Wenhao and Liu, Enyu and Peng, Kaining and Feng, Jianfeng and Liu, Quanying and Wen, Hongkai",
    year="2025",
    journal="arXiv preprint arXiv:2512.21881",
    eprint="2512.21881",
    archivePrefix="arXiv",
)

SOFTWARE = _reference(
    "slimbrain",
    "The slimbrain developers",
    "misc",
    title="slimbrain: representations of {fMRI} from voxels, on modest hardware",
    author="{The slimbrain developers}",
    note=f"Software, version {__version__}",
)

TEMPLATE = _reference(
    "evans2012",
    "Evans et al., 2012",
    "article",
    title="Brain templates and atlases",
    author="Evans, Alan C. and Janke, Andrew L. and Collins, D. Louis and Baillet, Sylvain",
    journal="NeuroImage",
    volume="62",
    number="2",
    pages="911--922",
    year="2012",
    doi="10.1016/j.neuroimage.2012.01.024",
)

FD = _reference(
    "power2012",
    "Power et al., 2012",
    "article",
    title="Spurious but systematic correlations in functional connectivity {MRI} networks arise from subject motion",
    author="Power, Jonathan D. and Barnes, Kelly A. and Snyder, Abraham Z. and Schlaggar, Bradley L. and Petersen, Steven E.",
    journal="NeuroImage",
    volume="59",
    number="3",
    pages="2142--2154",
    year="2012",
    doi="10.1016/j.neuroimage.2011.10.018",
)

HIERA = _reference(
    "ryali2023hiera",
    "Ryali et al., 2023",
    "inproceedings",
    title="Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles",
    author="Ryali, Chaitanya and others",
    booktitle="International Conference on Machine Learning",
    year="2023",
)

JEPA = _reference(
    "assran2023ijepa",
    "Assran et al., 2023",
    "inproceedings",
    title="Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
    author="Assran, Mahmoud and others",
    booktitle="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    year="2023",
)

TORCH = _reference(
    "paszke2019pytorch",
    "Paszke et al., 2019",
    "inproceedings",
    title="{PyTorch}: An Imperative Style, High-Performance Deep Learning Library",
    author="Paszke, Adam and others",
    booktitle="Advances in Neural Information Processing Systems",
    volume="32",
    year="2019",
)

SKLEARN = _reference(
    "pedregosa2011scikit",
    "Pedregosa et al., 2011",
    "article",
    title="Scikit-learn: Machine Learning in {Python}",
    author="Pedregosa, Fabian and others",
    journal="Journal of Machine Learning Research",
    volume="12",
    pages="2825--2830",
    year="2011",
)

LEDOIT = _reference(
    "ledoit2004",
    "Ledoit and Wolf, 2004",
    "article",
    title="A well-conditioned estimator for large-dimensional covariance matrices",
    author="Ledoit, Olivier and Wolf, Michael",
    journal="Journal of Multivariate Analysis",
    volume="88",
    number="2",
    pages="365--411",
    year="2004",
    doi="10.1016/S0047-259X(03)00096-4",
)

INPUT_GRADIENT = _reference(
    "shrikumar2016",
    "Shrikumar et al., 2016",
    "article",
    title="Not Just a Black Box: Learning Important Features Through Propagating Activation Differences",
    author="Shrikumar, Avanti and Greenside, Peyton and Shcherbina, Anna and Kundaje, Anshul",
    journal="arXiv preprint arXiv:1605.01713",
    year="2016",
    eprint="1605.01713",
    archivePrefix="arXiv",
)

INTEGRATED = _reference(
    "sundararajan2017",
    "Sundararajan et al., 2017",
    "inproceedings",
    title="Axiomatic Attribution for Deep Networks",
    author="Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi",
    booktitle="International Conference on Machine Learning",
    year="2017",
)

OCCLUSION = _reference(
    "zeiler2014",
    "Zeiler and Fergus, 2014",
    "inproceedings",
    title="Visualizing and Understanding Convolutional Networks",
    author="Zeiler, Matthew D. and Fergus, Rob",
    booktitle="European Conference on Computer Vision",
    year="2014",
)
