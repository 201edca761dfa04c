"""Train the shipped digits net: 8 x 8 grey digits, class conditional, VP, v prediction.

python training/digits.py

The data come with scikit-learn; one digit in ten is held out, as in the classifier's training.
Running the command again resumes.
"""

import torch
from common import begin, options, train
from sklearn.datasets import load_digits
from torch import Tensor

from redrift.nn import UNet

NET = dict(
    channels=1,
    width=28,
    multipliers=(1, 2),
    blocks=1,
    attention=(1,),
    classes=10,
    embedding=96,
    dropout=0.1,
)
CARD = dict(
    name="digits",
    data="nine tenths (1617) of the 1797 digits of scikit-learn, 8 x 8, grey, 0..16 scaled to "
    "[-1, 1]; the rest is `read()` of training/digits.py, held out",
    source="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    labels=[str(i) for i in range(10)],
    licence="Weights: Apache-2.0, like the library. The data set is CC BY 4.0 (UCI).",
)


def read() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return pictures (N, 1, 8, 8) in [-1, 1] and labels (N,): 9/10 to train, 1/10 held out."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    kept, held = order[len(order) // 10 + 1 :], order[: len(order) // 10 + 1]
    labels = torch.from_numpy(labels)
    return images[kept], labels[kept], images[held], labels[held]


def main() -> None:
    parser = options("digits", seconds=450, description=__doc__)
    parser.set_defaults(batch=128)
    args = parser.parse_args()
    begin(args)
    images, labels, held, held_labels = read()
    flags = dict(flip=False, bfloat16=False, preview=[i // 10 for i in range(100)])
    train(UNet(**NET), images, labels, args, card=CARD, held=(held, held_labels), **flags)


if __name__ == "__main__":
    main()
