"""Named networks: compositions of layers, no mathematics. Each ends in logits for `classes` classes."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import find
from ..layers.activation import ReLU, ScaledTanh, Sigmoid, Tanh
from ..layers.base import Layer, Shape
from ..layers.branches import Concatenate, Identity
from ..layers.combine_maps import CombineMaps
from ..layers.conv import LENET5_C3, Conv2d
from ..layers.conv_transpose import ConvTranspose2d
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.global_pool import GlobalAvgPool2d, GlobalMaxPool2d
from ..layers.norm import BatchNorm
from ..layers.pool import AvgPool2d, MaxPool2d
from ..layers.reshape import Flatten
from ..layers.residual import Residual
from ..layers.sequential import Sequential
from ..layers.stochastic_pool import StochasticPool2d
from ..layers.subsample import Subsample2d


def digits(classes: int = 10) -> Sequential:
    """A small LeNet for 8x8 images: two 3x3 convolutions, each with ReLU and 2x2 max pooling, and two dense layers."""
    head = Flatten(), Dropout(0.25), Dense(128), ReLU(), Dropout(0.25), Dense(classes)
    return Sequential((*_stage(32), *_stage(64), *head))


def lenet28(classes: int = 10) -> Sequential:
    """LeNet for 28x28 images: 5x5 convolutions with 6 and 16 maps, ReLU, 2x2 max pooling, dense 120-84."""
    head = Flatten(), Dense(120), ReLU(), Dense(84), ReLU(), Dense(classes)
    return Sequential((*_stage(6, 5, padding=2), *_stage(16, 5, padding=0), *head))


def cnn28(classes: int = 10) -> Sequential:
    """For 28x28 images: 3x3 convolutions with 32 and 64 maps, ReLU, 2x2 max pooling, dense 128."""
    return Sequential((*_stage(32), *_stage(64), Flatten(), Dense(128), ReLU(), Dense(classes)))


def vgg32(classes: int = 10) -> Sequential:
    """For 32x32 images: 3x3 convolutions with 32, 64 and 128 maps, ReLU, 2x2 max pooling, dense 256."""
    return Sequential((*_stage(32), *_stage(64), *_stage(128), Flatten(), Dense(256), ReLU(), Dense(classes)))


def resnet32(classes: int = 10) -> Sequential:
    """For 32x32 images: a stem of 16 maps, a plain residual block, two of stride 2 with 32 and 64 maps, global mean."""
    stem = Conv2d(16, 3, padding=1), ReLU()
    plain = Residual(_two_convolutions(16)), ReLU()
    return Sequential((*stem, *plain, *_halved(32), *_halved(64), AvgPool2d(8), Flatten(), Dense(classes)))


def _halved(channels):
    """A residual block of stride 2."""
    return Residual(_two_convolutions(channels, 2), Conv2d(channels, 1, stride=2)), ReLU()


def _two_convolutions(channels, stride=1):
    return Sequential((Conv2d(channels, 3, stride=stride, padding=1), ReLU(), Conv2d(channels, 3, padding=1)))


def resnet20(classes: int = 10) -> Sequential:
    """ResNet-20 for 32x32 images: three stages of three residual blocks, 16, 32 and 64 maps; 272,474 parameters.

    He et al., *Deep residual learning for image recognition* (2016), section 4.2, with their option B: where the size
    changes the way around is a 1x1 convolution (their 0.27 M have zeros in its place).
    """
    stem = *_normalised(16), ReLU()
    blocks = [_block(channels, stride) for channels, stride in _stages((16, 32, 64), 3)]
    return Sequential((*stem, *(layer for block in blocks for layer in block), GlobalAvgPool2d(), Dense(classes)))


def resnet9(classes: int = 10) -> Sequential:
    """For 32x32 images, quickly learned: a convolution of 32 maps, three stages of 64, 256 and 256, a global maximum.

    A stage is a convolution that is pooled and a residual one, each with batch norm. After Page, *How to train your
    ResNet* (2018), whose ResNet-9 is wider, and Jordan, *94 % on CIFAR-10 in 3.29 seconds on a single GPU* (2024).
    """
    stem = *_normalised(32), ReLU()
    stages = [layer for channels in (64, 256, 256) for layer in _pooled_stage(channels)]
    return Sequential((*stem, *stages, GlobalMaxPool2d(), Dense(classes, initializer="torch")))


def _pooled_stage(channels):
    convolution, norm = _normalised(channels)
    around = Residual(Sequential((*_normalised(channels), ReLU())))
    return convolution, MaxPool2d(2), norm, ReLU(), around


def mobilenet32(classes: int = 10) -> Sequential:
    """For 32x32 images: convolutions of each map alone, 3x3, and of all maps at each position, 1x1, in turn.

    Howard et al., *MobileNets* (2017), with six such pairs in place of thirteen.
    """
    layers: list[Layer] = [*_normalised(32), ReLU()]
    inputs = 32
    for channels, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1)):
        of_each_map = Conv2d(inputs, 3, stride=stride, padding=1, groups=inputs, bias=False), BatchNorm(), ReLU()
        layers += [*of_each_map, *_normalised(channels, 1, padding=0), ReLU()]
        inputs = channels
    return Sequential((*layers, GlobalAvgPool2d(), Dense(classes)))


def unet(classes: int = 2) -> Sequential:
    """A small U-Net: a class for each pixel of images whose sides are multiples of 4; 117,378 parameters.

    Ronneberger, Fischer & Brox, *U-Net* (2015), with two levels in place of four, and borders that are kept.
    """
    inner: Layer = Sequential(_twice(64))
    for channels in (32, 16):
        below = MaxPool2d(2), *inner.layers, ConvTranspose2d(channels, 2, stride=2)
        inner = Sequential((*_twice(channels), Concatenate((Identity(), Sequential(below))), *_twice(channels)))
    return Sequential((*inner.layers, Conv2d(classes, 1)))


def _twice(channels):
    return 2 * (*_normalised(channels), ReLU())


def resnet18(classes: int = 1000) -> Sequential:
    """ResNet-18 for 224x224 images, torchvision's: four stages of two residual blocks; 11,689,512 parameters.

    He et al. (2016), table 1.
    """
    stem = *_normalised(64, 7, stride=2, padding=3), ReLU(), MaxPool2d(3, stride=2, padding=1)
    blocks = [_block(channels, stride) for channels, stride in _stages((64, 128, 256, 512), 2)]
    return Sequential((*stem, *(layer for block in blocks for layer in block), GlobalAvgPool2d(), Dense(classes)))


def vgg11_bn(classes: int = 1000) -> Sequential:
    """VGG-11 with batch norm for 224x224 images, torchvision's; 132,868,840 parameters.

    Simonyan & Zisserman, *Very deep convolutional networks for large-scale image recognition* (2015), configuration A.
    """
    layers: list[Layer] = []
    for width in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for channels in width:
            layers += [Conv2d(channels, 3, padding=1), BatchNorm(), ReLU()]
        layers.append(MaxPool2d(2))
    hidden = Dense(4096), ReLU(), Dropout(0.5)
    return Sequential((*layers, Flatten(), *hidden, *hidden, Dense(classes)))


def _normalised(channels, kernel_size=3, stride=1, padding=1):
    return Conv2d(channels, kernel_size, stride=stride, padding=padding, bias=False), BatchNorm()


def _stages(widths, blocks):
    """(channels, stride) of each residual block: the first of a stage halves the size, but for the first stage."""
    return [(width, 2 if i and not j else 1) for i, width in enumerate(widths) for j in range(blocks)]


def _block(channels, stride):
    """Two convolutions and the way around them, a convolution itself where the size changes."""
    body = Sequential((*_normalised(channels, stride=stride), ReLU(), *_normalised(channels)))
    around = Sequential(_normalised(channels, 1, stride, 0)) if stride > 1 else None
    return Residual(body, around), ReLU()


def _resnet_modules():
    """torchvision's names of what is learned in resnet18."""
    blocks = [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    halved = {f"layer{i}.0" for i in (2, 3, 4)}
    of_block = {
        block: ("conv1", "bn1", "conv2", "bn2", *(("downsample.0", "downsample.1") if block in halved else ()))
        for block in blocks
    }
    return "conv1", "bn1", *(f"{block}.{name}" for block in blocks for name in of_block[block]), "fc"


def _vgg_modules():
    """torchvision's names of what is learned in vgg11_bn: a convolution, and its batch norm behind it."""
    convolutions = (0, 4, 8, 11, 15, 18, 22, 25)
    features = (f"features.{i + j}" for i in convolutions for j in (0, 1))
    return *features, "classifier.0", "classifier.3", "classifier.6"


def deeplearntoolbox(classes: int = 10) -> Sequential:
    """DeepLearnToolbox's example for 28x28 images, 6c5-2s-12c5-2s: sigmoid units, mean pooling, 3,898 parameters.

    Palm, *Prediction as a candidate for learning deep hierarchical models of data* (2012), and its MATLAB toolbox.
    """
    uniform, pooled = "glorot_uniform", (Sigmoid(), AvgPool2d(2))
    first, second = Conv2d(6, 5, initializer=uniform), Conv2d(12, 5, initializer=uniform)
    return Sequential((first, *pooled, second, *pooled, Flatten(), Dense(classes, initializer=uniform), Sigmoid()))


def lenet5(classes: int = 10) -> Sequential:
    """LeNet-5 for 32x32 images: trainable sub-sampling, scaled tanh, C3's table of connections.

    LeCun, Bottou, Bengio & Haffner, *Gradient-based learning applied to document recognition* (1998), section II.B.
    C1 to F6 have its 60,000 parameters. A dense layer stands in place of its fixed Gaussian (RBF) outputs: 60,850.
    """
    uniform, subsampled = "lenet_uniform", (ScaledTanh(), Subsample2d(2), ScaledTanh())
    return Sequential(
        (
            Conv2d(6, 5, initializer=uniform),  # C1
            *subsampled,  # S2
            Conv2d(16, 5, initializer=uniform, connections=LENET5_C3),  # C3
            *subsampled,  # S4
            Conv2d(120, 5, initializer=uniform),  # C5
            ScaledTanh(),
            Flatten(),
            Dense(84, initializer=uniform),  # F6
            ScaledTanh(),
            Dense(classes, initializer=uniform),
        )
    )


def bouvrie(classes: int = 10) -> Sequential:
    """For 28x28 images: trainable sub-sampling and learned combinations of maps together, tanh throughout.

    Bouvrie, *Notes on convolutional neural networks* (2006), sections 3.2 and 3.3; the sizes are DeepLearnToolbox's.
    """
    uniform, subsampled = "glorot_uniform", (Tanh(), Subsample2d(2), Tanh())
    first, second = Conv2d(6, 5, initializer=uniform), CombineMaps(12, 5, initializer=uniform)
    last = Flatten(), Dense(classes, initializer=uniform), Tanh()
    return Sequential((first, *subsampled, second, *subsampled, *last))


def stochastic(classes: int = 10) -> Sequential:
    """Three 5x5 convolutions of 64 maps with ReLU, each pooled stochastically, 3x3 moved by 2, for 28x28 images.

    Zeiler & Fergus, *Stochastic pooling for regularization of deep convolutional neural networks* (2013), section 4.
    """
    stage = Conv2d(64, 5, padding=2), ReLU(), StochasticPool2d(3, stride=2)
    return Sequential((*stage, *stage, *stage, Flatten(), Dense(classes)))


def modern(classes: int = 10) -> Sequential:
    """For 28x28 images: three 3x3 convolutions of 32, 64 and 80 maps, ReLU, max pooling, dropout; 84,986 parameters."""
    last = Conv2d(80, 3), ReLU(), Flatten(), Dropout(0.4), Dense(classes)
    return Sequential((*_stage(32), *_stage(64), Dropout(0.1), *last))


def _stage(channels, kernel_size=3, padding=1):
    return Conv2d(channels, kernel_size, padding=padding), ReLU(), MaxPool2d(2)


@dataclass(frozen=True)
class Model:
    """A named network and the input shape it was made for; other shapes work where the geometry fits.

    `modules` are torchvision's names of its layers with parameters, for `store.state_dict`; () where it has no such
    network.
    """

    build: Callable[[int], Sequential]
    in_shape: Shape
    modules: tuple[str, ...] = ()


MODELS = {
    "digits": Model(digits, (8, 8, 1)),
    "lenet28": Model(lenet28, (28, 28, 1)),
    "cnn28": Model(cnn28, (28, 28, 1)),
    "vgg32": Model(vgg32, (32, 32, 3)),
    "resnet32": Model(resnet32, (32, 32, 3)),
    "resnet20": Model(resnet20, (32, 32, 3)),
    "resnet9": Model(resnet9, (32, 32, 3)),
    "mobilenet32": Model(mobilenet32, (32, 32, 3)),
    "unet": Model(unet, (64, 64, 3)),
    "resnet18": Model(resnet18, (224, 224, 3), _resnet_modules()),
    "vgg11_bn": Model(vgg11_bn, (224, 224, 3), _vgg_modules()),
    "deeplearntoolbox": Model(deeplearntoolbox, (28, 28, 1)),
    "lenet5": Model(lenet5, (32, 32, 1)),
    "bouvrie": Model(bouvrie, (28, 28, 1)),
    "stochastic": Model(stochastic, (28, 28, 1)),
    "modern": Model(modern, (28, 28, 1)),
}


def by_shape() -> str:
    """The models' names, each before the images that it is made for.

    >>> print(by_shape().replace("; ", "\\n"))
    digits (8x8x1)
    lenet28, cnn28, deeplearntoolbox, bouvrie, stochastic, modern (28x28x1)
    vgg32, resnet32, resnet20, resnet9, mobilenet32 (32x32x3)
    unet (64x64x3)
    resnet18, vgg11_bn (224x224x3)
    lenet5 (32x32x1)
    """
    names: dict[Shape, list[str]] = {}
    for name, model in MODELS.items():
        names.setdefault(model.in_shape, []).append(name)
    return "; ".join(f"{', '.join(found)} ({'x'.join(map(str, shape))})" for shape, found in names.items())


def find_model(name: str) -> Model:
    """The model called `name`.

    Raises:
        InputError: no model has this name.

    >>> find_model("lenet28").build(10).output_shape((28, 28, 1))
    (10,)
    """
    return find("model", name, MODELS)
