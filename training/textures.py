"""Train the shipped textures net: colour crops of any size from 16 to 32, class conditional, VP, v.

python training/textures.py

The pictures come inside the wheel of scikit-image, each brought to a scale at which 32 pixels show
its structure. A batch has one size, drawn with it, so that the same net knows the law of a whole
piece and of an overlap. Running the command again resumes.
"""

import torch
from common import begin, options, train
from skimage import data
from skimage.transform import resize
from torch import Tensor

from redrift.nn import UNet

NET = dict(
    channels=3,
    width=16,
    multipliers=(1, 3, 6),
    blocks=1,
    attention=(2,),
    classes=6,
    embedding=128,
)
# name: the picture in skimage.data, its height in pixels after scaling
PICTURES = {
    "grass": ("grass", 224),
    "gravel": ("gravel", 192),
    "brick": ("brick", 192),
    "tissue": ("immunohistochemistry", 224),
    "stars": ("hubble_deep_field", 320),
    "fur": ("chelsea", 192),
}
SIZES = (16, 24, 32)
SIDE = 256  # positions of a crop along each axis of a picture
CARD = dict(
    name="textures",
    data="crops of six pictures that scikit-image ships, scaled to heights of 192 to 320 pixels, "
    "RGB in [-1, 1]; crops are 16, 24 or 32 high and wide, square or not",
    source="skimage.data: " + ", ".join(picture for picture, _ in PICTURES.values()),
    labels=list(PICTURES),
    licence="Weights: Apache-2.0, like the library. Of the pictures, grass, gravel, brick and chelsea "
    "are CC0, the Hubble field is in the public domain, and the tissue has no known restrictions, as "
    "the documentation of skimage.data says.",
)


class Crops:
    """All crops of the pictures, made when asked for: index -> picture and position.

    The size of a batch follows from its first index, so a batch is a function of its indices.
    """

    def __init__(self) -> None:
        self.pictures = [scaled(*choice) for choice in PICTURES.values()]
        self.labels = torch.arange(len(self.pictures)).repeat_interleave(SIDE**2)
        self.shape = (len(self), 3, 32, 32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        if isinstance(index, slice):  # the first n, for the table of losses: spread over all
            n = len(range(*index.indices(len(self))))
            return self.cut(torch.linspace(0, len(self) - 1, n).long(), 32, 32)
        g = torch.Generator().manual_seed(int(index[0]))
        # at least two batches in five are whole pieces, the rest any of the nine sizes
        whole = bool(torch.rand((), generator=g) < 0.4)
        height, width = (SIZES[i] for i in torch.randint(3, (2,), generator=g))
        return self.cut(index, 32, 32) if whole else self.cut(index, height, width)

    def cut(self, index: Tensor, height: int, width: int) -> Tensor:
        """Return (B, 3, height, width) uint8 of the crops with these indices."""
        tiles = []
        for i in index.tolist():
            picture = self.pictures[i // SIDE**2]
            row, column = divmod(i % SIDE**2, SIDE)
            y = row * (picture.shape[1] - height) // (SIDE - 1)
            x = column * (picture.shape[2] - width) // (SIDE - 1)
            tiles.append(picture[:, y : y + height, x : x + width])
        return torch.stack(tiles)


def scaled(name: str, height: int) -> Tensor:
    """Return a picture of scikit-image as (3, height, W), uint8."""
    pixels = getattr(data, name)()
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, -1)
    width = round(pixels.shape[1] * height / pixels.shape[0])
    small = resize(pixels[..., :3], (height, width), anti_aliasing=True)
    return torch.from_numpy((small * 255).round().clip(0, 255).astype("uint8")).permute(2, 0, 1)


class Spread:
    """Labels that answer a slice as `Crops` does."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        if isinstance(index, slice):
            n = len(range(*index.indices(len(self.labels))))
            index = torch.linspace(0, len(self.labels) - 1, n).long()
        return self.labels[index]


def main() -> None:
    parser = options("textures", seconds=3000, description=__doc__)
    parser.set_defaults(batch=32, every=240.0)
    args = parser.parse_args()
    begin(args)
    crops = Crops()
    flags = dict(flip=True, bfloat16=False, warmup=300, preview=[i // 6 for i in range(36)])
    train(UNet(**NET), crops, Spread(crops.labels), args, card=CARD, **flags)


if __name__ == "__main__":
    main()
