"""One thread: small arrays gain nothing from more, and threads that spin cost ten times."""

import torch

torch.set_num_threads(1)
