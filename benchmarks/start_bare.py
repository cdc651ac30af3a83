"""One training step of MobileNetV3-small on the embedded Fashion-MNIST and nothing besides: row 15's other side."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import mobilenet_v3_small

EMBEDDED = Path(__file__).parents[1] / "effbench" / "data" / "images" / "embedded" / "fashion_mnist_subset.npz"
BATCH = 128


def main() -> None:
    torch.manual_seed(0)
    with np.load(EMBEDDED) as archive:
        images, labels = torch.from_numpy(archive["train_images"]), torch.from_numpy(archive["train_labels"]).long()
    net = mobilenet_v3_small(num_classes=10)
    net.features[0][0] = nn.Conv2d(1, 16, 3, stride=1, padding=1, bias=False)
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)

    rows = torch.randperm(len(images))[:BATCH]
    x = images[rows].unsqueeze(1).float().sub_(73).div_(90).contiguous(memory_format=torch.channels_last)
    loss = F.cross_entropy(net(x), labels[rows])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    schedule.step()
    Path("loss").write_text(f"{loss.item()}\n")


if __name__ == "__main__":
    main()
