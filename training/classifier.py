"""Train the small classifiers whose features measure samples (a Frechet distance).

python training/classifier.py --dataset digits
python training/classifier.py --dataset cifar10 --data train.parquet --test test.parquet
python training/classifier.py --dataset textures

Of the textures it tells the four quarters of each picture apart, for which it must see their grain.
The budget is processor time, so that a busy machine makes the run longer but not worse.
"""

import math
import time
from pathlib import Path

import cifar10
import digits
import textures
import torch
import torch.nn.functional as F
from common import begin, hardware, options, to_floats, write_json, write_weights
from torch import Tensor

from redrift.nn import EMA, Classifier

SOURCES = {"digits": digits, "cifar10": cifar10, "textures": textures}
WIDTH = {"digits": 24, "cifar10": 28, "textures": 12}
RATE = 2e-3


def shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return pictures moved by up to `most` pixels each way, mirrored at the edge."""
    b, _, h, w = x.shape
    x = F.pad(x, (most,) * 4, mode="reflect")
    dy, dx = torch.randint(2 * most + 1, (2, b, 1), generator=generator)
    rows, columns = (dy + torch.arange(h))[:, :, None], (dx + torch.arange(w))[:, None, :]
    return x.permute(0, 2, 3, 1)[torch.arange(b)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures of which about half are mirrored left to right."""
    coins = torch.rand(len(x), 1, 1, 1, generator=generator)
    return torch.where(coins < 0.5, x.flip(-1), x)


def quarters(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return n crops of the textures, (n, 3, 32, 32) uint8, and from which quarter of which picture."""
    crops, side = textures.Crops(), textures.SIDE
    index = torch.randint(len(crops), (n,), generator=torch.Generator().manual_seed(seed))
    row, column = index % side**2 // side, index % side
    quarter = 2 * (row >= side // 2).long() + (column >= side // 2).long()
    return crops.cut(index, 32, 32), 4 * crops.labels[index] + quarter


@torch.no_grad()
def accuracy(net: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the part of the pictures that the net classifies rightly."""
    parts = [net(to_floats(x)).argmax(1) for x in images.split(500)]
    return (torch.cat(parts) == labels).double().mean().item()


def main() -> None:
    parser = options("classifier", seconds=600, description=__doc__)
    parser.set_defaults(out=None, rate=RATE, batch=128)
    parser.add_argument("--dataset", choices=list(WIDTH), required=True)
    parser.add_argument("--data", type=Path, help="parquet file to train on (cifar10)")
    parser.add_argument("--test", type=Path, help="parquet file to test on (cifar10)")
    args = parser.parse_args()
    args.out = args.out or Path("runs") / f"{args.dataset}-classifier"
    if args.device != "cpu" or args.images:
        parser.error("this script trains on the CPU, for a time")
    begin(args)
    colour = args.dataset != "digits"
    if args.dataset == "cifar10" and not (args.data and args.test):
        parser.error("cifar10 needs --data and --test")
    if args.dataset == "cifar10":
        images, labels, *test = *cifar10.read(args.data), *cifar10.read(args.test)
    elif args.dataset == "textures":
        images, labels, *test = *quarters(30_000, seed=1), *quarters(3000, seed=2)
    else:
        images, labels, *test = digits.read()
    channels, size, classes = images.shape[1], images.shape[-1], int(labels.max()) + 1
    net = Classifier(channels, size, classes=classes, width=WIDTH[args.dataset])
    ema = EMA(net, 0.995)
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=0.05, fused=True)
    generator = torch.Generator().manual_seed(args.seed)
    start, seconds, step, steps_an_epoch = time.process_time(), 0.0, 0, len(images) // args.batch
    while seconds < args.seconds:
        index = torch.randint(len(images), (args.batch,), generator=generator)
        x, label = shifted(to_floats(images[index]), 4 if colour else 1, generator), labels[index]
        x = flipped(x, generator) if colour else x
        rate = args.rate * min(1.0, (step + 1) / 200)
        rate *= 0.5 + 0.5 * math.cos(math.pi * seconds / args.seconds)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=colour):
            loss = F.cross_entropy(net(x).float(), label, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        ema.update(net)
        step, seconds = step + 1, time.process_time() - start
        if step % steps_an_epoch == 0 and step // steps_an_epoch % (1 if colour else 20) == 0:
            epoch = step // steps_an_epoch
            print(f"epoch {epoch}, {seconds:.0f} s, loss {loss.item():.4f}", flush=True)
    write_weights(ema.net, args.out / "weights.safetensors")
    source = SOURCES[args.dataset].CARD
    card = dict(
        name=f"{args.dataset}-classifier",
        use="features(x): the 64 numbers before the last layer, for a Frechet distance",
        **{key: source[key] for key in ("data", "source", "labels", "licence")},
        classes=classes,
        config=net.config,
        parameters=sum(p.numel() for p in net.parameters()),
        train_accuracy=round(accuracy(ema.net, images[:5000], labels[:5000]), 4),
        test_accuracy=round(accuracy(ema.net, *test), 4),
        test_pictures=len(test[0]),
        steps=step,
        batch=args.batch,
        images=step * args.batch,
        processor_seconds=round(seconds),
        hardware=hardware(args.device, args.threads),
        torch=torch.__version__,
        seed=args.seed,
        rate=args.rate,
    )
    write_json(card, args.out / "card.json")
    print(f"test accuracy {card['test_accuracy']}")


if __name__ == "__main__":
    main()
