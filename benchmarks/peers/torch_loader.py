"""PyTorch's DataLoader over the files of images, and vgg32 trained on what it loads."""

import time

import numpy as np
import PIL.Image
import torch

from jaxcnn.zoo.models import find_model

from . import torch_peer


class Files:
    """PyTorch's data set of these images; Pillow decodes them, as for us."""

    def __init__(self, paths, labels):
        self.paths, self.labels = paths, labels

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with PIL.Image.open(self.paths[i]) as image:
            return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()), int(self.labels[i])


def rate(paths, labels, batch, workers, trained, in_memory):
    """Images per second of an epoch: loaded by worker processes, or in memory; and trained, or not."""
    files = Files(paths, labels)
    loader = torch.utils.data.DataLoader(files, batch, shuffle=True, num_workers=workers, drop_last=True)
    network = torch_peer.module(find_model("vgg32").build(10), (32, 32, 3)).to(memory_format=torch.channels_last)
    optimizer, loss = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9), torch.nn.CrossEntropyLoss()

    def step(images, labels):
        x = ((images.float() / 255 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        if trained:
            optimizer.zero_grad()
            loss(network(x), labels).backward()
            optimizer.step()

    if in_memory:
        read = [files[i] for i in range(len(files))]
        images, right = torch.stack([image for image, _ in read]), torch.tensor([label for _, label in read])
        order = torch.randperm(len(files))[: len(loader) * batch].reshape(-1, batch)
        loader = [(images[chosen], right[chosen]) for chosen in order]
    for _ in range(5):
        step(torch.from_numpy(np.zeros((batch, 3, 32, 32), np.uint8)), torch.zeros(batch, dtype=torch.long))
    started = time.perf_counter()
    for images, labels in loader:
        step(images, labels)
    return len(loader) * batch / (time.perf_counter() - started)
