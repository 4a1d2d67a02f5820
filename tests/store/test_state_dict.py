import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    BatchNorm,
    CombineMaps,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Flatten,
    GroupNorm,
    InputError,
    MaxPool2d,
    ReLU,
    Sequential,
    merged,
)
from jaxcnn.store.state_dict import StateDict, read_state_dict, write_state_dict
from jaxcnn.store.tensors import named_leaves, read_tensors, write_tensors
from jaxcnn.zoo.models import find_model

SMALL = Sequential(
    (Conv2d(4, 3, bias=False), BatchNorm(), ReLU(), MaxPool2d(2), Conv2d(6, 2), Flatten(), Dense(5), ReLU(), Dense(2))
)
SHAPE, MODULES = (8, 10, 3), ("features.0", "features.1", "features.4", "classifier.0", "classifier.2")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def small(torch):
    from torch import nn
    from torch_networks import randomized

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            features = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2)
            self.features = nn.Sequential(*features)
            self.classifier = nn.Sequential(nn.Linear(6 * 2 * 3, 5), nn.ReLU(), nn.Linear(5, 2))

        def forward(self, x):
            return self.classifier(self.features(x).flatten(1))

    return randomized(Small(), torch.Generator().manual_seed(5))


def saved(torch, model, path):
    """The state dict as a file, and as NumPy's."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    write_tensors(path, arrays)
    return arrays


def assert_same_network(torch, model, network, in_shape, modules, path, batch):
    """Logits in evaluation and training, and all gradients of a training step, in float64."""
    saved(torch, model.double(), path)
    read = read_state_dict(path, network, in_shape, modules)
    x = np.random.default_rng(3).standard_normal((batch, *in_shape))
    images = torch.tensor(x).permute(0, 3, 1, 2)

    def channels_last(y):
        return y.movedim(1, -1)

    model.eval()
    with torch.no_grad():
        expected = channels_last(model(images)).numpy()
    near(network.apply(merged(read.params, read.statistics), jnp.asarray(x)), expected)
    model.train()
    outputs = channels_last(model(images))
    dy = np.random.default_rng(4).standard_normal(outputs.shape)
    outputs.backward(torch.tensor(dy))
    grads = {name: value.grad.numpy() for name, value in model.named_parameters()}
    y, residuals = network.forward(read.params, jnp.asarray(x), train=True, key=jax.random.key(0))
    near(y, outputs.detach().numpy())
    _, ours = network.backward(residuals, jnp.asarray(dy))
    write_state_dict(path, network, in_shape, modules, StateDict(ours, read.statistics, {}))
    found = {name: value for name, value in read_tensors(path)[0].items() if name in grads}
    assert found.keys() == grads.keys()
    largest = max(np.linalg.norm(grad) for grad in grads.values())
    for name, grad in grads.items():
        near(found[name], grad, name, rounding=1e-12 * largest)  # of a bias before a batch norm the truth is 0


def near(found, expected, name="logits", rounding=0.0):
    error = np.linalg.norm(np.asarray(found) - expected)
    assert error < 1e-10 * np.linalg.norm(expected) + rounding, (name, error)


@pytest.mark.usefixtures("float64")
def test_logits_and_gradients_are_pytorchs(torch, tmp_path):
    assert_same_network(torch, small(torch), SMALL, SHAPE, MODULES, tmp_path / "w.safetensors", 7)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_torchvisions_networks_have_the_same_logits_and_gradients(torch, tmp_path, name):
    """For images of 64x64; in float32 some unit beside 0 of a ReLU is on its other side in the other library."""
    from torch_networks import VGG11, ResNet18, randomized

    model = ResNet18() if name == "resnet18" else VGG11(maps=2)
    model = randomized(model, torch.Generator().manual_seed(6))
    zoo = find_model(name)
    network = zoo.build(1000)
    if name == "vgg11_bn":
        network = Sequential([layer for layer in network.layers if type(layer).__name__ != "Dropout"])
    assert_same_network(torch, model, network, (64, 64, 3), zoo.modules, tmp_path / "w.safetensors", 6)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_the_names_and_shapes_are_torchvisions(name):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed", exc_type=Exception)
    import torch

    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in getattr(models, name)().state_dict().items()}
    from jaxcnn.store.state_dict import _entries

    zoo = find_model(name)
    found = {entry.theirs: entry.shape for entry in _entries(zoo.build(1000), zoo.in_shape, zoo.modules)}
    assert found == expected


@pytest.mark.usefixtures("float64")
def test_transposed_convolutions_and_group_norm_too(torch, tmp_path):
    from torch import nn
    from torch_networks import randomized

    layers = nn.Conv2d(3, 4, 3, groups=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.ConvTranspose2d(4, 6, (2, 3), 2, groups=2)
    model = randomized(nn.Sequential(*layers), torch.Generator().manual_seed(5))
    network = Sequential((Conv2d(4, 3), GroupNorm(2), ReLU(), ConvTranspose2d(6, (2, 3), stride=2, groups=2)))
    assert_same_network(torch, model, network, (5, 6, 3), ("0", "1", "3"), tmp_path / "w.safetensors", 4)


def test_there_and_back_bit_for_bit(torch, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    arrays = saved(torch, small(torch), first)
    read = read_state_dict(first, SMALL, SHAPE, MODULES)
    assert read.batches == {"batchnorm1": int(arrays["features.1.num_batches_tracked"])}
    write_state_dict(second, SMALL, SHAPE, MODULES, read)
    again, metadata = read_tensors(second)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    assert metadata == {"format": "pt"}
    small(torch).load_state_dict({name: torch.tensor(array) for name, array in again.items()}, strict=True)


def test_every_array_of_the_network_is_read():
    """No leaf of the trees is left out: the names are those of `init` and of the statistics."""
    from jaxcnn import init_statistics
    from jaxcnn.store.state_dict import _entries

    params = SMALL.init(jax.random.key(0), SHAPE)
    whole = named_leaves(merged(params, init_statistics(SMALL, params, SHAPE)))
    assert {f"{e.path}/{e.name}" for e in _entries(SMALL, SHAPE, MODULES) if not e.is_count} == set(whole)


def test_what_does_not_fit_is_one_sentence(torch, tmp_path):
    path = tmp_path / "w.safetensors"
    arrays = saved(torch, small(torch), path)

    def refused(changed, sentence):
        write_tensors(path, changed)
        with pytest.raises(InputError, match=sentence):
            read_state_dict(path, SMALL, SHAPE, MODULES)

    renamed = {name.replace("classifier.2", "fc"): array for name, array in arrays.items()}
    refused(renamed, r"has no array as classifier.2.weight but must have float32 of shape \(2, 5\), as PyTorch's net")
    refused(arrays | {"more": np.ones(2)}, "has float64 of shape .2,. as more but must have no array")
    reshaped = arrays | {"features.0.weight": np.ones((4, 3, 3, 2), np.float32)}
    refused(reshaped, r"has float32 of shape \(4, 3, 3, 2\) as features.0.weight but must have float32 of shape \(4, 3")
    refused(
        arrays | {"features.1.num_batches_tracked": np.float32(3)}, "features.1.num_batches_tracked but must have i"
    )
    with pytest.raises(InputError, match="names has 2 modules but must have 5, one for each layer that learns"):
        read_state_dict(path, SMALL, SHAPE, ("a", "b"))
    with pytest.raises(InputError, match="network has the layer 'combinemaps1', a CombineMaps, which PyTorch has not"):
        read_state_dict(path, Sequential((CombineMaps(3, 2),)), SHAPE, ("a",))
    with pytest.raises(InputError, match="weights has the arrays .* but must have .* those of the network"):
        write_state_dict(path, SMALL, SHAPE, MODULES, StateDict({}, {}, {}))
