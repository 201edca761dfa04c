"""Train the shipped CIFAR-10 net: class conditional, VP, v prediction.

python training/cifar10.py --data cifar10-train.parquet

The file has the columns `img` (struct with the bytes of a PNG or JPEG) and `label`, the schema of
the data set `uoft-cs/cifar10` at huggingface.co. Few channels at 32 x 32 keep a step cheap: most
parameters work at 16 x 16 and 8 x 8. Running the command again resumes.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from common import begin, options, train
from PIL import Image
from torch import Tensor

from redrift.nn import UNet

NET = dict(
    channels=3,
    width=16,
    multipliers=(1, 4, 12),
    blocks=1,
    attention=(2,),
    classes=10,
    embedding=128,
)
CARD = dict(
    name="cifar10",
    data="CIFAR-10 (JPEG): 50,000 training pictures, 32 x 32, colour, strongly JPEG-compressed; "
    "figures are not comparable with published CIFAR-10 ones",
    source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    labels=[
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ],
    licence="Weights: Apache-2.0, like the library. The data set is for research use.",
)


def read(path: Path) -> tuple[Tensor, Tensor]:
    """Return pictures (N, 3, 32, 32) uint8 and labels (N,) from a parquet file."""
    table = pq.read_table(path, columns=["img", "label"])
    files = [row["bytes"] for row in table["img"].to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(table["label"].to_pylist())


def main() -> None:
    parser = options("cifar10", seconds=7200, description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="parquet file")
    args = parser.parse_args()
    begin(args)
    images, labels = read(args.data)
    flags = dict(flip=True, bfloat16=True, preview=[i // 2 for i in range(20)])
    train(UNet(**NET), images, labels, args, card=CARD, **flags)


if __name__ == "__main__":
    main()
